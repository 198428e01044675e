"""SQuAD's training paragraphs, prepared for the specialists that learn from them.

Whole articles are held out: some are trained on, on others is validated and calibrated, the same
for reader, re-ranker and grounding checker, so that a threshold is never chosen on what one of them
has learned. Nothing of the dev set is read here.

`answer_start` in the file is the first place where the answer's text stands, which need not be the
place that is asked about ("5" stands in "1950"). `placed` chooses among all places.
"""

import argparse
import json
import math
import random
import re
from bisect import bisect_left, bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from benchmarks.datasets import add_data_argument, squad_articles

from pharos.data.tokenizer import Tokenizer
from pharos.models.resolve import find_model

ENCODER = "all-MiniLM-L6-v2"
LICENCE = "SQuAD v1.1 train, CC BY-SA 4.0"
HELD_OUT_ARTICLES = 24
NEAR = 120
"""Characters on each side of an answer that tell whether a question is about it."""
SHORTEST_QUESTION = 3
"""Words. The file has questions like "k" and "dd", which nobody can learn from."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A question, and its answer `paragraphs[article][number][start : start + len(answer)]`."""

    question: str
    answer: str
    start: int
    article: int
    number: int

    @property
    def end(self) -> int:
        return self.start + len(self.answer)


@dataclass(frozen=True, slots=True)
class Articles:
    """The paragraphs of each article, what is asked of them, and how rare each word is."""

    paragraphs: list[list[str]]
    asked: list[Asked]
    rarity: Mapping[str, float]

    def context(self, asked: Asked) -> str:
        return self.paragraphs[asked.article][asked.number]

    def first(self, count: int) -> "Articles":
        """The first articles alone."""
        asked = [each for each in self.asked if each.article < count]
        return Articles(self.paragraphs[:count], asked, self.rarity)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_data_argument(parser)
    parser.add_argument("--out", type=Path, default=Path("runs/specialists/data"))
    parser.add_argument("--seed", type=int, default=1)


def split_articles(data: Path, seed: int = 1) -> tuple[Articles, Articles]:
    """The articles that are trained on, and those that are held out."""
    articles = squad_articles(data, "train")
    random.Random(seed).shuffle(articles)
    rarity = rarity_of(p["context"] for article in articles for p in article["paragraphs"])
    held_out, trained = articles[:HELD_OUT_ARTICLES], articles[HELD_OUT_ARTICLES:]
    return prepared(trained, rarity), prepared(held_out, rarity)


def prepared(articles: Sequence[Mapping[str, Any]], rarity: Mapping[str, float]) -> Articles:
    asked = []
    for article_number, article in enumerate(articles):
        for number, paragraph in enumerate(article["paragraphs"]):
            for qa in paragraph["qas"]:
                question, answer = qa["question"].strip(), qa["answers"][0]["text"].strip()
                start = placed(question, answer, paragraph["context"], rarity)
                if start is not None and len(words_of(question)) >= SHORTEST_QUESTION:
                    asked.append(Asked(question, answer, start, article_number, number))
    paragraphs = [[p["context"] for p in article["paragraphs"]] for article in articles]
    return Articles(paragraphs, asked, rarity)


def as_squad(articles: Articles) -> list[dict[str, Any]]:
    """In the form of SQuAD's file."""
    asked: dict[tuple[int, int], list[dict[str, Any]]] = defaultdict(list)
    for each in articles.asked:
        qa = {"question": each.question, "answers": [{"text": each.answer}]}
        asked[each.article, each.number].append(qa)
    return [
        {
            "paragraphs": [
                {"context": context, "qas": asked[number, place]}
                for place, context in enumerate(article)
            ]
        }
        for number, article in enumerate(articles.paragraphs)
    ]


def rarity_of(texts: Iterable[str]) -> dict[str, float]:
    """The inverse document frequency of each word."""
    counts: Counter[str] = Counter()
    number = 0
    for text in texts:
        counts.update(set(words_of(text)))
        number += 1
    return {word: math.log(number / count) for word, count in counts.items()}


def words_of(text: str) -> list[str]:
    return re.findall(r"\w+", text.casefold())


@lru_cache(maxsize=1024)
def vocabulary(text: str) -> frozenset[str]:
    return frozenset(words_of(text))


def overlap(question: str, text: str, rarity: Mapping[str, float]) -> float:
    """The summed rarity of the question's words that are in the text."""
    return sum(rarity.get(word, 0.0) for word in vocabulary(question) & vocabulary(text))


def placed(question: str, answer: str, context: str, rarity: Mapping[str, float]) -> int | None:
    """Where the answer stands that is meant: as whole words if there are such, and where the words
    around have most in common with the question. None if it stands nowhere."""
    places = [match.start() for match in re.finditer(re.escape(answer), context)]
    whole = [place for place in places if is_whole(context, place, place + len(answer))]
    candidates = whole or places
    if len(candidates) < 2:
        return candidates[0] if candidates else None

    def common(place: int) -> float:
        around = context[max(0, place - NEAR) : place + len(answer) + NEAR]
        return overlap(question, around, rarity)

    return max(candidates, key=lambda place: (common(place), -place))


def is_whole(text: str, start: int, end: int) -> bool:
    """Whether no word goes across either end."""
    begins = start == 0 or not (text[start - 1].isalnum() and text[start].isalnum())
    ends = end == len(text) or not (text[end - 1].isalnum() and text[end].isalnum())
    return begins and ends


def holds(text: str, answer: str) -> bool:
    """Whether a text has an answer's words in a row, whatever their case."""
    return f" {' '.join(words_of(answer))} " in f" {' '.join(words_of(text))} "


@dataclass(frozen=True, slots=True)
class Words:
    """The words of a text, and how many tokens stand before each (and after the last)."""

    places: list[tuple[int, int]]
    tokens_before: list[int]

    def window(self, first: int, tokens: int) -> tuple[int, int]:
        """From word `first` on, as many as fit: where that stands in the text."""
        last = bisect_right(self.tokens_before, self.tokens_before[first] + tokens) - 1
        return self.places[first][0], self.places[max(last, first + 1) - 1][1]

    @property
    def num_tokens(self) -> int:
        return self.tokens_before[-1]

    def at(self, place: int) -> int:
        """The word that has the character at `place`."""
        return bisect_right(self.places, (place, 1 << 60)) - 1

    def earliest(self, end: int, tokens: int) -> int:
        """The first word from which a window of so many tokens still reaches `end`."""
        reached = self.tokens_before[self.at(end - 1) + 1]
        return bisect_left(self.tokens_before, reached - tokens)


class Measure:
    """Counts tokens as the encoder does, and cuts texts by words so that they fit."""

    def __init__(self) -> None:
        self.tokenizer = Tokenizer.load(find_model(ENCODER).path)
        self._known: dict[str, Words] = {}

    def count(self, text: str) -> int:
        return len(self.tokenizer.encode(text, add_special_tokens=False))

    def words(self, text: str) -> Words:
        if text not in self._known:
            places = [match.span() for match in re.finditer(r"\S+", text)]
            offsets = self.tokenizer.backend.encode(text, add_special_tokens=False).offsets
            starts = [start for start, _ in offsets]
            before = [bisect_left(starts, start) for start, _ in places]
            self._known[text] = Words(places, [*before, len(offsets)])
        return self._known[text]


def window_around(
    words: Words, span: tuple[int, int], tokens: int, draw: random.Random
) -> tuple[int, int]:
    """A window of at most `tokens` tokens that has the span, which may stand anywhere in it."""
    if words.num_tokens <= tokens:
        return words.places[0][0], words.places[-1][1]
    earliest, latest = words.earliest(span[1], tokens), words.at(span[0])
    first = draw.randint(min(earliest, latest), latest)
    fullest = _last_full(words, tokens)
    return words.window(max(earliest, min(first, fullest)), tokens)


def any_window(words: Words, tokens: int, draw: random.Random) -> tuple[int, int]:
    """A window of at most `tokens` tokens, from anywhere."""
    return words.window(draw.randint(0, _last_full(words, tokens)), tokens)


def likeliest_window(
    question: str, text: str, tokens: int, measure: Measure, rarity: Mapping[str, float]
) -> tuple[int, int]:
    """Of windows that begin at most half a length apart, that with most of the question's
    words; the first of equals."""
    words = measure.words(text)
    last, step = _last_full(words, tokens), max(1, tokens // 4)
    places = [words.window(first, tokens) for first in [*range(0, last, step), last]]
    return max(places, key=lambda place: overlap(question, text[slice(*place)], rarity))


def _last_full(words: Words, tokens: int) -> int:
    """The last word that a full window begins with (the first, if all words fit into one)."""
    return bisect_left(words.tokens_before, max(0, words.num_tokens - tokens))


def write_jsonl(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    count = 0
    with path.open("w", encoding="utf-8") as file:
        for record in records:
            file.write(json.dumps(record, ensure_ascii=False) + "\n")
            count += 1
    print(f"{path}: {count:,} records")


def read_jsonl(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)
