"""The reader: where in the passages the answer stands (Rajpurkar et al. 2016, arXiv:1606.05250),
and whether it stands there at all.

Each passage is read in windows beside the question. In a window, an answer from token i to token j
has the probability start(i)·end(j), where both are softmaxes over the window and over its first
token, at which a window without an answer points. An answer begins and ends with whole words.

The passages are read as witnesses. What one says counts by how relevant it is beside the most
relevant one (`Hit.scores["rerank"]`; without a re-ranker they count alike), overlapping windows
count once, and the same wording in several places adds up: 1 - Π (1 - p).

Two calibrations of the card, both over these signs:
- `best`, `margin`: the log odds of the best answer, and how far they are above the next one's
- `null`: the log odds that the window most sure of itself has no answer
- `relevance`: the log odds that the best answer's passage is relevant
`answerable` is the probability that the passages hold the answer, `right` that the best answer is
it. (Uncalibrated, both are what the best answer has collected.)

Shapes: T tokens of a window.
"""

import math
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pharos.core import Hit, Span
from pharos.core.findings import Reading
from pharos.core.logistic import Logistic, log_odds
from pharos.specialists.cards import Card
from pharos.specialists.classifier import WindowClassifier
from pharos.specialists.shared_encoder import Row, SharedEncoder
from pharos.specialists.windows import Pairs, Tokens, best_of, rarest_shared

UNCALIBRATED = Logistic(weights={"best": 1.0, "margin": 0.0, "null": 0.0, "relevance": 0.0})
LEAST = 1e-4
_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
_WORDS = re.compile(r"\w+")


@dataclass(frozen=True, kw_only=True, slots=True)
class SpanReaderConfig:
    """Of the best `max_passages` at most `max_windows` are read, those that say most of the
    question; answers have up to `max_answer_tokens`, of which the `per_window` best of each window
    are looked at and the `max_spans` best in all reported."""

    max_passages: int = 5
    max_windows: int = 12
    max_answer_tokens: int = 30
    per_window: int = 5
    max_spans: int = 5

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if value < 1:
                raise ValueError(f"{field.name} is {value}; it must be at least 1")


class Window(NamedTuple):
    """Tokens `part` of the passage of hit number `hit`."""

    hit: int
    part: slice


class Candidate(NamedTuple):
    """Characters `start` to `end` of the passage of hit number `hit`, with a probability."""

    hit: int
    start: int
    end: int
    probability: float


Place = tuple[str, int, int]
"""A document's id, and characters of its text."""


class SpanReader:
    """A `core.AnswerFinder`, and a `core.Reader`. Make one with `load_span_reader`."""

    name = "reader"

    def __init__(self, classifier: WindowClassifier, config: SpanReaderConfig) -> None:
        self._classifier, self._config = classifier, config
        self._answerable = classifier.card.calibrated("answerable", UNCALIBRATED)
        self._right = classifier.card.calibrated("right", UNCALIBRATED)

    def read(self, question: str, hits: Sequence[Hit]) -> list[Span]:
        return list(self.find(question, hits).spans)

    def find(self, question: str, hits: Sequence[Hit]) -> Reading:
        """Reads the first `max_passages` hits, in one pass. The score of the best span is the
        calibrated probability that it answers; those of the others are what they have collected."""
        spans, signs = self.look(question, hits)
        if not spans:
            return Reading()
        best = replace(spans[0], score=self._right.probability(signs))
        return Reading(
            spans=(best, *spans[1 : self._config.max_spans]),
            answerable=self._answerable.probability(signs),
        )

    def look(self, question: str, hits: Sequence[Hit]) -> tuple[list[Span], dict[str, float]]:
        """The spans with what they have collected, and the signs that the calibrations weigh (none
        if there are no spans)."""
        hits = hits[: self._config.max_passages]
        asked, *passages = self._classifier.pairs.tokens(
            [question, *(hit.passage.text for hit in hits)]
        )
        windows = self._windows(asked, passages)
        rows = [self._classifier.pair(asked, passages[w.hit], w.part) for w in windows]
        found: list[Candidate] = []
        nulls: list[float] = []
        outputs = self._classifier.shared.run(rows)
        for window, row, ends_2T in zip(windows, rows, outputs, strict=True):
            null, answers = self._answers(row, ends_2T, passages[window.hit], window)
            nulls.append(null)
            found += answers
        spans = collected(hits, found)
        return spans, signs_of(hits, spans, min(nulls)) if spans else {}

    def _windows(self, asked: Tokens, passages: Sequence[Tokens]) -> list[Window]:
        every = [
            Window(number, part)
            for number, passage in enumerate(passages)
            for part in self._classifier.windows(asked, passage)
            if len(passage)
        ]
        shares = rarest_shared(asked.ids, [passages[hit].ids[part] for hit, part in every])
        chosen = best_of([window.hit for window in every], shares, self._config.max_windows)
        return [every[i] for i in chosen]

    def _answers(
        self, row: Row, ends_2T: NDArray[np.float32], passage: Tokens, window: Window
    ) -> tuple[float, list[Candidate]]:
        first = row.first_len
        assert first is not None
        may_be = np.zeros(len(row.ids), dtype=bool)
        may_be[0] = True
        may_be[first : len(row.ids) - 1] = True
        start_T, end_T = (softmax(logits_T, may_be) for logits_T in ends_2T)
        inside = slice(first, len(row.ids) - 1)
        starts, ends = word_edges(passage.word[window.part])
        best = best_spans(
            start_T[inside] * starts,
            end_T[inside] * ends,
            self._config.max_answer_tokens,
            self._config.per_window,
        )
        places = passage.places[window.part]
        answers = [
            Candidate(window.hit, int(places[i, 0]), int(places[j, 1]), p) for i, j, p in best
        ]
        return float(start_T[0] * end_T[0]), answers


def softmax(logits_T: NDArray[np.float32], may_be: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Over the places that may be; 0 elsewhere."""
    shifted = np.where(may_be, logits_T.astype(np.float64), -np.inf)
    weights: NDArray[np.float64] = np.exp(shifted - shifted.max())
    weights /= weights.sum()
    return weights


def word_edges(word_T: NDArray[np.int32]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which tokens begin a word, and which end one. What a window cuts through counts as a word."""
    differs = word_T[1:] != word_T[:-1]
    return np.r_[True, differs], np.r_[differs, True]


def best_spans(
    start_T: NDArray[np.float64], end_T: NDArray[np.float64], longest: int, count: int
) -> Iterator[tuple[int, int, float]]:
    """First token, last token and probability of the best spans of at most `longest` tokens that
    have any probability, best first."""
    p_TT = np.tril(np.triu(np.outer(start_T, end_T)), longest - 1)
    order = np.argsort(-p_TT, axis=None, kind="stable")[:count]
    for i, j in zip(*np.unravel_index(order, p_TT.shape), strict=True):
        if p_TT[i, j] > 0.0:
            yield int(i), int(j), float(p_TT[i, j])


def collected(hits: Sequence[Hit], candidates: Sequence[Candidate]) -> list[Span]:
    """One span for each wording, where it is likeliest, with what all its places add up to; best
    first, and none that overlaps a better one. (Passages may overlap: a place is one of the
    document.)"""
    weights = shares(hits)
    wordings: dict[str, dict[Place, Span]] = defaultdict(dict)
    for hit, start, end, probability in candidates:
        passage = hits[hit].passage
        score = probability * weights[hit]
        span = Span(passage=passage, start=start, end=end, score=score)
        places = wordings[wording(span.text)]
        if place_of(span) not in places or places[place_of(span)].score < score:
            places[place_of(span)] = span
    kept: list[Span] = []
    for span in sorted(map(_sum, wordings.values()), key=lambda span: -span.score):
        if not any(_overlap(place_of(span), place_of(better)) for better in kept):
            kept.append(span)
    return kept


def shares(hits: Sequence[Hit]) -> list[float]:
    """How far each passage is believed: its relevance as a share of the highest."""
    known = [hit.scores.get("rerank", 1.0) for hit in hits]
    best = max(known, default=1.0)
    return [one / best if best > 0.0 else 1.0 for one in known]


def wording(text: str) -> str:
    """Without case, punctuation and articles: how answers are compared (SQuAD's rule)."""
    words = " ".join(_WORDS.findall(text.casefold()))
    return " ".join(_ARTICLES.sub(" ", words).split()) or text.strip()


def signs_of(hits: Sequence[Hit], spans: Sequence[Span], surest_null: float) -> dict[str, float]:
    """See the head of this file. Needs at least one span."""
    first = log_odds(spans[0].score, least=LEAST)
    second = log_odds(spans[1].score if len(spans) > 1 else 0.0, least=LEAST)
    own = next((hit.scores for hit in hits if hit.passage.id == spans[0].passage.id), {})
    return {
        "best": first,
        "margin": first - second,
        "null": log_odds(surest_null, least=LEAST),
        "relevance": log_odds(own.get("rerank", 0.5), least=LEAST),
    }


def place_of(span: Span) -> Place:
    passage = span.passage
    return passage.document_id, passage.start + span.start, passage.start + span.end


def _sum(places: Mapping[Place, Span]) -> Span:
    """The likeliest place, with the probability that at least one of them is right."""
    best = max(places.values(), key=lambda span: span.score)
    return replace(best, score=1.0 - math.prod(1.0 - span.score for span in places.values()))


def _overlap(one: Place, other: Place) -> bool:
    return one[0] == other[0] and one[1] < other[2] and other[1] < one[2]


def load_span_reader(
    shared: SharedEncoder,
    pairs: Pairs,
    folder: Path,
    card: Card,
    config: SpanReaderConfig | None = None,
) -> SpanReader:
    """From an adapter's folder. Raises ModelError if it does not fit."""
    return SpanReader(WindowClassifier(shared, pairs, folder, card), config or SpanReaderConfig())
