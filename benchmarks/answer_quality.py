"""Asking SQuAD's questions of a library of its paragraphs, and how good the answers are.

Shared by `benchmarks/answers.py` and the recipes that fit the reader and its confidence. A question
is asked either of the whole library or with its own paragraph left out: its passages are then
removed from what the search found, which differs from a library without them only in BM25's word
statistics.
"""

import math
import random
import re
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pharos import Library
from pharos.core import Embedder, Hit

PASSAGES_READ = 10
Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Question:
    """`source` is the file of the paragraph that it was asked about; is that `left_out`?"""

    text: str
    answers: tuple[str, ...]
    source: str
    left_out: bool


class Remembering:
    """An embedder that embeds a text only once: the sentences of a paragraph come up often."""

    def __init__(self, inner: Embedder) -> None:
        self.name, self.dim, self.max_tokens = inner.name, inner.dim, inner.max_tokens
        self._inner = inner
        self._known: dict[str, NDArray[np.float32]] = {}

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        new = [text for text in dict.fromkeys(texts) if text not in self._known]
        if new:
            self._known |= zip(new, self._inner.embed(new), strict=True)
        return np.stack([self._known[text] for text in texts])


@contextmanager
def library_of(
    articles: Iterable[dict[str, Any]], embedder: Embedder
) -> Iterator[tuple[Library, list[dict[str, Any]]]]:
    """A library with one document a paragraph, and the paragraphs, each with its `source`."""
    with tempfile.TemporaryDirectory(prefix="pharos-squad-") as scratch:
        paragraphs = write_paragraphs(articles, Path(scratch) / "paragraphs")
        library = Library.open(Path(scratch) / "library", embedder=embedder)
        report = library.ingest([Path(scratch) / "paragraphs"])
        print(f"{report.passages} passages in {report.seconds:.0f} s", file=sys.stderr)
        yield library, paragraphs


def write_paragraphs(articles: Iterable[dict[str, Any]], folder: Path) -> list[dict[str, Any]]:
    """One text file a paragraph; returns the paragraphs, each with its `source` added."""
    folder.mkdir(parents=True)
    paragraphs = []
    for number, paragraph in enumerate(p for article in articles for p in article["paragraphs"]):
        path = folder / f"{number:05d}.txt"
        path.write_text(paragraph["context"] + "\n", encoding="utf-8")
        paragraphs.append({**paragraph, "source": str(path)})
    return paragraphs


def draw_questions(
    paragraphs: Sequence[dict[str, Any]], count: int, left_out: float, seed: int
) -> list[Question]:
    """`count` questions at random, the share `left_out` of them without their paragraph."""
    draw = random.Random(seed)
    every = [(qa, paragraph["source"]) for paragraph in paragraphs for qa in paragraph["qas"]]
    chosen = draw.sample(every, min(count, len(every)))
    without = round(left_out * len(chosen))
    return [
        Question(
            text=qa["question"].strip(),
            answers=tuple(sorted({answer["text"] for answer in qa["answers"]})),
            source=source,
            left_out=number < without,
        )
        for number, (qa, source) in enumerate(chosen)
    ]


def found_for(library: Library, question: Question, k: int = PASSAGES_READ) -> list[Hit]:
    """What the search finds, without the question's own paragraph if that is left out."""
    hits = library.search(question.text, k=k + question.left_out)
    return [
        hit for hit in hits if not (question.left_out and hit.passage.source == question.source)
    ][:k]


def contains_answer(text: str, answers: Iterable[str]) -> bool:
    """Whether `text` contains one of the answers as whole words, whatever their case."""
    said = f" {_plain(text)} "
    return any(f" {_plain(answer)} " in said for answer in answers if _plain(answer))


def auroc(scores: Array, positive: NDArray[np.bool_]) -> float:
    """The chance that a positive scores above a negative; ties count half. Where there are not both
    kinds, there is no such chance: nan."""
    order = np.unique(scores, return_inverse=True)[1]
    counts = np.bincount(order)
    rank = (np.cumsum(counts) - (counts - 1) / 2)[order]
    positives = int(positive.sum())
    negatives = len(positive) - positives
    above = float(rank[positive].sum()) - positives * (positives + 1) / 2
    return above / (positives * negatives) if 0 < positives < len(positive) else math.nan


def calibration_error(probabilities: Array, happened: NDArray[np.bool_], bins: int = 10) -> float:
    """Expected calibration error (Guo et al. 2017) over bins of equal width."""
    place = np.minimum((probabilities * bins).astype(int), bins - 1)
    return sum(
        abs(float(probabilities[place == b].mean() - happened[place == b].mean()))
        * float((place == b).mean())
        for b in set(place.tolist())
    )


def risk_coverage(confidence: Array, right: NDArray[np.bool_]) -> Iterator[tuple[float, float]]:
    """(coverage, risk) when the 1, 2, 3, … surest are answered: the share answered, and of those
    the share that is wrong."""
    order = np.argsort(-confidence, kind="stable")
    wrong = np.cumsum(~right[order])
    for answered in range(1, len(order) + 1):
        yield answered / len(order), float(wrong[answered - 1]) / answered


def _plain(text: str) -> str:
    return " ".join(re.findall(r"\w+", text.casefold()))
