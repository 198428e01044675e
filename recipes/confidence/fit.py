"""Fit the confidence model on SQuAD's training paragraphs, and write it into the package.

    python -m recipes.confidence.fit [--data DIR] [--articles 40] [--questions 3000] [--specialists]

A sample of articles becomes a library. A third of the questions is asked with its own paragraph
left out, so that the model learns what a passage looks like that is about the thing and does not
answer; another tenth comes from articles that are not in the library at all. Two logistic models
are fitted to the signs of `pharos.rag.confidence`: that the quoted sentences contain an answer, and
that the passages do. The questions of the last quarter of the paragraphs are kept out of the fit;
the figures in the card are theirs, each with its 95% interval.

With `--specialists` the candidates are re-ranked and read by those that ship, whose signs are
weighed too, and what must be right is the answer that is given: the short one where there is one.
(`ask` goes by this one for short answers alone; sentences it judges as without specialists.) That
card is `confidence_specialists.json`. The articles are those that the specialists have not learned
from (`recipes.specialists.squad`), so they are not believed for what they know by heart; how many
they are is given, so `--articles` is refused there.

The threshold is the lowest at which at least 75% of the answers given to the questions that were
kept out are right. Nothing of the dev set is used.
"""

import argparse
import json
import math
import random
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks.answer_quality import (
    Array,
    Question,
    Remembering,
    auroc,
    calibration_error,
    contains_answer,
    draw_questions,
    found_for,
    library_of,
)
from benchmarks.datasets import add_data_argument, squad_articles
from benchmarks.intervals import interval
from numpy.typing import NDArray
from recipes.specialists.squad import HELD_OUT_ARTICLES

from pharos import Library
from pharos.core.findings import Specialists, Team
from pharos.rag.answer import CANDIDATES, PASSAGES_READ, short_answer
from pharos.rag.confidence import CARD, SPECIALISTS_CARD, signs_of
from pharos.rag.consult import Consultation
from pharos.rag.reader import ExtractiveReader
from pharos.specialists import load_encoder
from pharos.specialists.cards import ADAPTERS
from pharos.specialists.team import load_specialists

LEFT_OUT = 0.33
ELSEWHERE = 0.1
HELD_OUT = 0.25
SPLIT_SEED = 1
"""That of `recipes.specialists.squad`."""
RIGHT_OF_ANSWERED = 0.75
RIDGE = 1e-3
INSIDE, QUESTIONS = 40, 3000
UNSEEN_INSIDE = 19
"""Of the articles that the specialists have not learned from, so many are in the library."""
COMMAND = "python -m recipes.confidence.fit"
LICENCE = "SQuAD v1.1 train, CC BY-SA 4.0"


@dataclass(frozen=True, slots=True)
class Example:
    """The signs of one question's answer, and whether the quotes and the passages contain it."""

    signs: Mapping[str, float]
    quoted: bool
    retrieved: bool
    held_out: bool


def collect(
    library: Library,
    embedder: Remembering,
    questions: Sequence[tuple[Question, bool]],
    specialists: Team,
) -> list[Example]:
    reader = ExtractiveReader(embedder)
    num_found = CANDIDATES if specialists.reranker else PASSAGES_READ
    examples = []
    for number, (question, held_out) in enumerate(questions):
        if number % 500 == 0:
            print(f"{number} of {len(questions)} questions asked", file=sys.stderr)
        asked = Consultation(question.text, specialists)
        hits = asked.rerank(found_for(library, question, num_found))[:PASSAGES_READ]
        spans, reading = reader.read(question.text, hits), asked.read(hits)
        if not spans:
            continue
        short = short_answer(reading)
        quotes = short.text if short else "\n".join(span.text for span in spans)
        passages = "\n".join(hit.passage.text for hit in hits)
        present = not question.left_out
        examples.append(
            Example(
                signs=signs_of(question.text, hits, spans, reading),
                quoted=present and is_right(quotes, question.answers),
                retrieved=present and contains_answer(passages, question.answers),
                held_out=held_out,
            )
        )
    return examples


def is_right(said: str, answers: Sequence[str]) -> bool:
    """Whether it contains an answer, or is a part of one that is most of it."""
    if contains_answer(said, answers):
        return True
    return any(contains_answer(a, [said]) and 2 * len(said) >= len(a) for a in answers)


def fit_logistic(signs: Array, happened: NDArray[np.bool_]) -> Array:
    """Weights and, last, the bias: Newton's method on the ridge-penalised log-likelihood of the
    standardised signs."""
    mean, spread = signs.mean(axis=0), signs.std(axis=0) + 1e-9
    design = np.c_[(signs - mean) / spread, np.ones(len(signs))]
    penalty = RIDGE * np.diag([*np.ones(signs.shape[1]), 0.0])
    theta = np.zeros(design.shape[1])
    for _ in range(50):
        p = 1.0 / (1.0 + np.exp(-design @ theta))
        gradient = design.T @ (p - happened) / len(p) + penalty @ theta
        hessian = (design * (p * (1.0 - p))[:, None]).T @ design / len(p) + penalty
        theta -= np.linalg.solve(hessian, gradient)
    weights = theta[:-1] / spread
    return np.array([*weights, theta[-1] - weights @ mean])


def threshold_for(probabilities: Array, right: NDArray[np.bool_], share: float) -> float:
    """The lowest threshold from which on `share` of what is answered is right, in steps of 0.05."""
    for step in range(1, 20):
        answered = probabilities >= step * 0.05
        if answered.any() and right[answered].mean() >= share:
            return round(step * 0.05, 2)
    raise SystemExit(f"no threshold makes {share:.0%} of the answers right; the reader is too weak")


def card_of(
    examples: Sequence[Example], figures: Mapping[str, Any], command: str
) -> dict[str, Any]:
    names = list(examples[0].signs)
    signs = np.array([[example.signs[name] for name in names] for example in examples])
    held_out = np.array([example.held_out for example in examples])
    card: dict[str, Any] = {"data": LICENCE, "command": command, "figures": dict(figures)}
    for target in ("quoted", "retrieved"):
        happened = np.array([getattr(example, target) for example in examples])
        *weights, bias = fit_logistic(signs[~held_out], happened[~held_out])
        card[target] = {
            "weights": {name: round(w, 3) for name, w in zip(names, weights, strict=True)},
            "bias": round(float(bias), 3),
        }
        p = 1.0 / (1.0 + np.exp(-(signs[held_out] @ np.array(weights) + bias)))
        for name, statistic in (("auroc", auroc), ("calibration_error", calibration_error)):
            low, high = interval(statistic, p, happened[held_out])
            card["figures"] |= {
                f"{target}_{name}": round(statistic(p, happened[held_out]), 3),
                f"{target}_{name}_95": [round(low, 3), round(high, 3)],
            }
        if target == "quoted":
            card["threshold"] = threshold_for(p, happened[held_out], RIGHT_OF_ANSWERED)
            card["figures"]["held_out_answered"] = round(float((p >= card["threshold"]).mean()), 3)
    return card


def draw_all(
    paragraphs: Sequence[dict[str, Any]], strangers: Sequence[dict[str, Any]], count: int, seed: int
) -> list[tuple[Question, bool]]:
    """Questions of the library and of strangers to it, each with whether it is held out."""
    kept_out = math.ceil(len(paragraphs) * (1.0 - HELD_OUT))
    fitted = draw_questions(paragraphs[:kept_out], round(count * (1 - HELD_OUT)), LEFT_OUT, seed)
    held = draw_questions(paragraphs[kept_out:], round(count * HELD_OUT), LEFT_OUT, seed)
    foreign = draw_questions(strangers, round(count * ELSEWHERE), 1.0, seed)
    places = random.Random(seed)
    return [
        *((question, False) for question in fitted),
        *((question, True) for question in held),
        *((replace(question, source=""), places.random() < HELD_OUT) for question in foreign),
    ]


def unseen_articles(data: Path) -> list[dict[str, Any]]:
    """Those that `recipes.specialists.squad` holds out."""
    articles = squad_articles(data, "train")
    random.Random(SPLIT_SEED).shuffle(articles)
    return articles[:HELD_OUT_ARTICLES]


def command_of(arguments: argparse.Namespace) -> str:
    """What makes the same card again."""
    usual = {"articles": None, "questions": QUESTIONS, "seed": 0}
    named = {key: value for key in usual if (value := getattr(arguments, key)) != usual[key]}
    options = ["--specialists"] if arguments.specialists else []
    return " ".join([COMMAND, *options, *(f"--{key} {value}" for key, value in named.items())])


def main() -> None:
    parser = argparse.ArgumentParser(description="Fit the confidence model on SQuAD train.")
    add_data_argument(parser)
    parser.add_argument("--articles", type=int, help=f"in the library [{INSIDE}]")
    parser.add_argument("--questions", type=int, default=QUESTIONS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--specialists", action="store_true", help="fit with those that ship")
    parser.add_argument("--adapters", type=Path, default=ADAPTERS, help="those that ship")
    parser.add_argument("--out", type=Path, help="where to write the card [into the package]")
    arguments = parser.parse_args()
    if arguments.specialists and arguments.articles is not None:
        parser.error("--articles: with --specialists they are those that were not learned from")
    encoder = load_encoder()
    embedder, specialists = Remembering(encoder), Specialists()
    articles = squad_articles(arguments.data, "train")
    if arguments.specialists:
        specialists = load_specialists(encoder.shared, arguments.adapters)
        articles = unseen_articles(arguments.data)
    random.Random(arguments.seed).shuffle(articles)
    count = arguments.articles or (UNSEEN_INSIDE if arguments.specialists else INSIDE)
    inside, outside = articles[:count], articles[count:]
    strangers = [{**p, "source": ""} for article in outside for p in article["paragraphs"]]
    with library_of(inside, embedder) as (library, paragraphs):
        questions = draw_all(paragraphs, strangers, arguments.questions, arguments.seed)
        examples = collect(library, embedder, questions, specialists)
    figures = {"paragraphs": len(paragraphs), "questions": len(examples), "encoder": embedder.name}
    card = json.dumps(card_of(examples, figures, command_of(arguments)), indent=2) + "\n"
    name = SPECIALISTS_CARD if arguments.specialists else CARD
    out = arguments.out or Path(str(resources.files("pharos.rag").joinpath(name)))
    out.write_text(card, encoding="utf-8")
    print(card)


if __name__ == "__main__":
    main()
