"""The grounding checker's examples: a statement, a window of a paragraph, and whether the window
supports the statement, contradicts it, or says nothing of it.

    python -m recipes.specialists.grounding [--data DIR] [--out DIR] [--questions 14000]

A statement is a sentence of a paragraph, or a question of SQuAD's with its answer (`statements`).
It is altered in a way that makes it say something else (`alterations`): the answer or a name
becomes another of its kind, a number or month another one, there is a "not" more or less. Which
label a pair has must not show in one of its texts alone. So the window is altered as often as the
statement: altered or not alike, the pair is supported; one of them alone, it is contradicted; and
beside a window of another paragraph, either is unsupported.
"""

import argparse
import random
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from recipes.specialists.alterations import (
    CHANGES,
    Alteration,
    kind_of,
    names_in,
)
from recipes.specialists.reader import neighbours
from recipes.specialists.squad import (
    Articles,
    Asked,
    Measure,
    add_arguments,
    holds,
    likeliest_window,
    split_articles,
    window_around,
    write_jsonl,
)
from recipes.specialists.statements import sentence_around, statement

TOKENS = 128
SPECIAL = 3
LONGEST_STATEMENT = 60
SUPPORTED, CONTRADICTED, UNSUPPORTED = "supported", "contradicted", "unsupported"
OF_QUESTION = 0.55
"""The share of statements that are made of a question and its answer."""
WINDOW_ALTERED = 0.35
"""The share of pairs whose window is altered."""
OTHER_ANSWER = 0.6
"""How often an answer is what is altered, where it can be."""
CUT = 0.3
"""The share of sentences that are said in part."""
VALIDATION_QUESTIONS = 700

Donors = Mapping[tuple[int, str], Sequence[tuple[int, str]]]
"""By article and kind: answers of that kind, and the number of the paragraph of each."""


@dataclass(frozen=True, slots=True)
class Claim:
    """A true statement, its window, and what can be altered in both."""

    statement: str
    window: str
    alteration: Alteration | None


def examples(articles: Articles, questions: int, measure: Measure, seed: int) -> Iterator[Any]:
    draw = random.Random(seed)
    donors = donors_of(articles)
    for asked in draw.sample(articles.asked, min(questions, len(articles.asked))):
        claim = claim_of(articles, asked, donors, measure, draw)
        if claim is not None:
            yield from pairs(articles, asked, claim, measure, draw)


def donors_of(articles: Articles) -> Donors:
    donors: dict[tuple[int, str], list[tuple[int, str]]] = defaultdict(list)
    for asked in articles.asked:
        donors[asked.article, kind_of(asked.answer)].append((asked.number, asked.answer))
    return donors


def claim_of(
    articles: Articles, asked: Asked, donors: Donors, measure: Measure, draw: random.Random
) -> Claim | None:
    context = articles.context(asked)
    place = sentence_around(context, asked.start, asked.end)
    if place is None:
        return None
    sentence = context[slice(*place)]
    is_of_question = draw.random() < OF_QUESTION
    said = statement(asked.question, asked.answer) if is_of_question else in_part(sentence, draw)
    room = TOKENS - SPECIAL - min(measure.count(said), LONGEST_STATEMENT)
    if measure.count(sentence) > room:
        return None
    start, end = window_around(measure.words(context), place, room, draw)
    window = context[start:end]
    answer_alone = draw.random() < OTHER_ANSWER or is_of_question
    alteration = (
        other_answer(articles, asked, donors, window, draw) if answer_alone else None
    ) or (None if is_of_question else other_sentence(sentence, said, window, draw))
    return Claim(said, window, alteration)


def in_part(sentence: str, draw: random.Random) -> str:
    """The sentence, or sometimes what is left of it without its last or first clause."""
    clauses = sentence.rstrip(".").split(", ")
    if len(clauses) < 2 or draw.random() >= CUT:
        return sentence
    kept = clauses[:-1] if draw.random() < 0.5 else clauses[1:]
    said = ", ".join(kept)
    return said[:1].upper() + said[1:] + "." if len(said.split()) >= 6 else sentence


def other_answer(
    articles: Articles, asked: Asked, donors: Donors, window: str, draw: random.Random
) -> Alteration | None:
    """Another answer of the same kind: half of the time one that is in the window too."""
    known = [
        (number, other)
        for number, other in donors[asked.article, kind_of(asked.answer)]
        if not holds(other, asked.answer) and not holds(asked.answer, other)
    ]
    beside = [other for _, other in known if other in window]
    beside += [
        name
        for name in names_in(window)
        if kind_of(name) == kind_of(asked.answer)
        and not holds(name, asked.answer)
        and not holds(asked.answer, name)
    ]
    elsewhere = [other for number, other in known if number != asked.number]
    if beside and (draw.random() < 0.5 or not elsewhere):
        return Alteration(asked.answer, draw.choice(beside))
    for change in CHANGES[2:]:
        if draw.random() < 0.5 and (new := change(asked.answer, draw)):
            return Alteration(asked.answer, new)
    return Alteration(asked.answer, draw.choice(elsewhere)) if elsewhere else None


def other_sentence(sentence: str, said: str, window: str, draw: random.Random) -> Alteration | None:
    """A change of what the sentence says, told as the words that change, so that it can be made
    both in the statement and in the window."""
    changes = list(CHANGES)
    draw.shuffle(changes)
    names = [name for name in names_in(said) if name in sentence]
    others = [name for name in names_in(window) if name not in sentence]
    if names and draw.random() < 0.3:
        name = draw.choice(names)
        same = [other for other in others if kind_of(other) == kind_of(name)]
        if same:
            return Alteration(name, draw.choice(same))
    bare = said.rstrip(".")
    bare = bare if bare in sentence else bare[:1].lower() + bare[1:]
    if bare not in sentence:
        return None
    for change in changes:
        if new := change(bare, draw):
            return Alteration(bare, new)
    return None


def pairs(
    articles: Articles, asked: Asked, claim: Claim, measure: Measure, draw: random.Random
) -> Iterator[dict[str, Any]]:
    """Of each claim one supported and one unsupported pair and, if it can be altered, one that is
    contradicted."""
    change = claim.alteration
    said, window = claim.statement, claim.window
    can_alter = change is not None and change.concerns(plain(said, change))
    altered_said = plain(change.of(plain(said, change))) if change and can_alter else said
    altered_window = change.of(window) if change and change.concerns(window) else None
    if altered_window is not None and altered_said != said and draw.random() < WINDOW_ALTERED:
        yield pair(altered_said, altered_window, SUPPORTED)
        yield pair(said, altered_window, CONTRADICTED)
    else:
        yield pair(said, window, SUPPORTED)
        if altered_said != said:
            yield pair(altered_said, window, CONTRADICTED)
    elsewhere = other_window(articles, asked, said, measure, draw)
    if elsewhere is not None:
        yield pair(draw.choice((said, altered_said)), elsewhere, UNSUPPORTED)


def plain(said: str, change: Alteration | None = None) -> str:
    """A statement as it stands in the sentence, if the change is of that; else as a statement."""
    if change is None:
        return said[:1].upper() + said[1:]
    lowered = said[:1].lower() + said[1:]
    return lowered if not change.concerns(said) and change.concerns(lowered) else said


def other_window(
    articles: Articles, asked: Asked, said: str, measure: Measure, draw: random.Random
) -> str | None:
    """The window of a paragraph of the same article, or now and then of any, that has most of the
    statement's words and not the answer."""
    room = TOKENS - SPECIAL - min(measure.count(said), LONGEST_STATEMENT)
    others = neighbours(articles, asked)
    if not others or draw.random() < 0.15:
        others = draw.choice(articles.paragraphs)
    others = [other for other in others if not holds(other, asked.answer)]
    if not others:
        return None
    context = draw.choice(others)
    start, end = likeliest_window(said, context, room, measure, articles.rarity)
    return context[start:end]


def pair(said: str, window: str, label: str) -> dict[str, Any]:
    return {"text": said, "text_b": window, "label": label}


def main() -> None:
    parser = argparse.ArgumentParser(description="Make the grounding checker's examples.")
    add_arguments(parser)
    parser.add_argument("--questions", type=int, default=14_000)
    arguments = parser.parse_args()
    measure = Measure()
    trained, held_out = split_articles(arguments.data, arguments.seed)
    for name, articles, questions in (
        ("validation", held_out, VALIDATION_QUESTIONS),
        ("train", trained, arguments.questions),
    ):
        made = examples(articles, questions, measure, arguments.seed)
        write_jsonl(arguments.out / f"grounding_{name}.jsonl", made)


if __name__ == "__main__":
    main()
