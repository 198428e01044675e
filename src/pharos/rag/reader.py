"""The extractive reader: which sentences of the retrieved passages answer the question.

Each sentence is scored by a weighted sum of what can be told without a trained reader: how much of
the question it says (terms weighted by how rare they are among the sentences at hand), how close
its vector is to the question's, what its neighbours and its passage add, and whether it holds a
number or a date when the question asks for one. Cues for people and places (capitalised names)
were tried and did not help. `recipes/reader/fit.py` fits the weights.

Vectors are what costs time, so only the sentences that look best without them are embedded.
"""

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from pharos.core import Embedder, Hit, Passage, Span
from pharos.data.sentences import split_sentences
from pharos.rag.terms import terms

MAX_UNIT_LEN = 700
_LEAD_IN = re.compile(r":\W*$")
_MARKUP = re.compile(r"[#*=~^_\-+`|\s]+")
_FOLLOWED_BY_NOTHING = re.compile(r"[ \t]*\n(?:[ \t]*\n|[=~^*#+\"'`.-]{3,}[ \t]*(?:\n|$))")
_TITLE_WORDS = 8
_TITLE_BEGINS = re.compile(r"[^\W_a-z]|[\"“‘']")
_SAYS_SOMETHING = re.compile(r"[.!?:;=|…]|\D\d")
_QUESTION = re.compile(r"\?[\"'”’»)\]*_]*$")

_ASKS_NUMBER = re.compile(
    r"\bhow (?:many|much|long|far|old|tall|large|big|high|often|fast)\b|\bpercent|"
    r"\b(?:what|which) (?:is the )?(?:number|amount|size|limit|maximum|minimum|default)\b",
    re.IGNORECASE,
)
_ASKS_TIME = re.compile(
    r"\bwhen (?:was|were|did|is|are|does|do|has|had|will)\b|"
    r"\b(?:what|which) (?:year|date|day|month|century|decade|time)\b",
    re.IGNORECASE,
)
_NUMBER = re.compile(
    r"\d[\d.,]*\d|\d|\b(?:one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|dozen|"
    r"hundred|thousand|million|billion|half|twice|once|zero|none)\b",
    re.IGNORECASE,
)
_TIME = re.compile(
    r"\b\d{3,4}s?\b|\b\d+(?:th|st|nd|rd)\b|\bcentur(?:y|ies)\b|\b(?:january|february|march|april|"
    r"june|july|august|september|october|november|december)\b|\bMay \d",
    re.IGNORECASE,
)


@dataclass(frozen=True, kw_only=True)
class Weights:
    """What each clue adds to the log odds that a sentence answers; clues lie between 0 and 1."""

    coverage: float = 3.8
    nearby: float = 1.8
    passage_coverage: float = 1.8
    cosine: float = 3.8
    passage_cosine: float = 5.4
    number: float = 1.2
    time: float = 1.2
    bias: float = -10.5


@dataclass(frozen=True, kw_only=True)
class ReaderConfig:
    """`max_embedded` bounds the sentences embedded per question; a further sentence is quoted if
    its odds are at least `keep` times those of the best."""

    max_quotes: int = 3
    max_embedded: int = 24
    keep: float = 0.24
    weights: Weights = Weights()

    def __post_init__(self) -> None:
        if self.max_quotes < 1 or self.max_embedded < 1:
            raise ValueError(
                f"max_quotes is {self.max_quotes} and max_embedded {self.max_embedded}; "
                "both must be at least 1"
            )
        if not 0.0 <= self.keep <= 1.0:
            raise ValueError(f"keep is {self.keep}; it must lie between 0 and 1")


@dataclass(frozen=True, slots=True)
class Sentence:
    """Characters `start` to `end` of the text of hit `hit`, its `position`-th sentence."""

    hit: int
    position: int
    start: int
    end: int
    terms: frozenset[str]
    can_answer: bool


class ExtractiveReader:
    """`core.Reader` that quotes: spans of whole sentences, best first, none overlapping."""

    name = "extractive"

    def __init__(self, embedder: Embedder, config: ReaderConfig | None = None) -> None:
        self._embedder = embedder
        self._config = config or ReaderConfig()

    def read(self, question: str, hits: Sequence[Hit]) -> list[Span]:
        sentences = sentences_of(hits)
        clues = lexical_clues(question, hits, sentences)
        promising = self._promising(sentences, clues)
        if not len(promising):
            return []
        chosen = [sentences[i] for i in promising]
        cosines = self._cosines(question, [quoted(hits, sentence) for sentence in chosen])
        weights = self._config.weights
        logits = linear(clues[promising], weights) + weights.cosine * cosines + weights.bias
        return self._spans(hits, chosen, logits)

    def _promising(
        self, sentences: Sequence[Sentence], clues: NDArray[np.float64]
    ) -> NDArray[np.intp]:
        """Indices of the sentences worth embedding, in their order."""
        able = np.flatnonzero([sentence.can_answer for sentence in sentences])
        scores = linear(clues[able], self._config.weights)
        best = np.argsort(-scores, kind="stable")[: self._config.max_embedded]
        return np.sort(able[best])

    def _cosines(self, question: str, texts: list[str]) -> NDArray[np.float64]:
        vectors = self._embedder.embed([question, *texts])
        cosines: NDArray[np.float64] = (vectors[1:] @ vectors[0]).astype(np.float64)
        return cosines

    def _spans(
        self, hits: Sequence[Hit], sentences: Sequence[Sentence], logits: NDArray[np.float64]
    ) -> list[Span]:
        order = np.argsort(-logits, kind="stable")[: self._config.max_quotes]
        least = logits[order[0]] + math.log(max(self._config.keep, 1e-9))
        kept = [
            (sentences[i], 1.0 / (1.0 + math.exp(-float(logits[i]))))
            for i in order
            if logits[i] >= least
        ]
        spans = [_span(hits, run) for run in _runs(kept)]
        return sorted(spans, key=lambda span: -span.score)


def sentences_of(hits: Sequence[Hit]) -> list[Sentence]:
    """The sentences of the hits, in order, without those that an earlier hit has already: at the
    same place of the same document, or word for word elsewhere."""
    sentences: list[Sentence] = []
    places: dict[str, list[tuple[int, int]]] = {}
    wordings: set[str] = set()
    for index, hit in enumerate(hits):
        passage = hit.passage
        before = tuple(places.get(passage.document_id, ()))
        for position, (start, end) in enumerate(units(passage.text)):
            place = (passage.start + start, passage.start + end)
            text = passage.text[start:end]
            wording = " ".join(text.casefold().split())
            if wording in wordings or any(_overlap(place, other) for other in before):
                continue
            wordings.add(wording)
            places.setdefault(passage.document_id, []).append(place)
            words = frozenset(terms(text))
            able = bool(words) and can_answer(passage, start, end)
            sentences.append(Sentence(index, position, start, end, words, able))
    return sentences


def lexical_clues(
    question: str, hits: Sequence[Hit], sentences: Sequence[Sentence]
) -> NDArray[np.float64]:
    """One row per sentence: coverage, nearby, passage coverage, passage cosine, number, time."""
    wanted = _rarity(question, sentences)
    in_hit = [
        frozenset[str]().union(*(s.terms for s in sentences if s.hit == i))
        for i in range(len(hits))
    ]
    cosines = _passage_cosines(hits)
    asks_number = bool(_ASKS_NUMBER.search(question))
    asks_time = bool(_ASKS_TIME.search(question))
    rows = []
    for sentence, around in zip(sentences, _surroundings(sentences), strict=True):
        text = quoted(hits, sentence)
        rows.append(
            (
                _covered(wanted, sentence.terms),
                _covered(wanted, around - sentence.terms),
                _covered(wanted, in_hit[sentence.hit]),
                cosines[sentence.hit],
                float(asks_number and _says_new(_NUMBER, text, question)),
                float(asks_time and _says_new(_TIME, text, question)),
            )
        )
    return np.array(rows, dtype=np.float64).reshape(len(rows), 6)


def linear(clues: NDArray[np.float64], weights: Weights) -> NDArray[np.float64]:
    """The part of the score that needs no vectors."""
    factors = (
        weights.coverage,
        weights.nearby,
        weights.passage_coverage,
        weights.passage_cosine,
        weights.number,
        weights.time,
    )
    scores: NDArray[np.float64] = clues @ np.array(factors)
    return scores


def quoted(hits: Sequence[Hit], sentence: Sentence) -> str:
    return hits[sentence.hit].passage.text[sentence.start : sentence.end]


def units(text: str) -> list[tuple[int, int]]:
    """Sentences, where one that ends in a colon takes what it introduces along."""
    units: list[tuple[int, int]] = []
    for start, end in split_sentences(text):
        if units and _LEAD_IN.search(text[slice(*units[-1])]) and end - units[-1][0] < MAX_UNIT_LEN:
            units[-1] = (units[-1][0], end)
        else:
            units.append((start, end))
    return units


def can_answer(passage: Passage, start: int, end: int) -> bool:
    """Not a heading, a question, or an introduction to something that is not there."""
    text = passage.text[start:end]
    return not (
        _is_title(text, passage.text[end : end + 100])
        or _bare(text) in {_bare(name) for name in (*passage.headings, passage.title)}
        or _QUESTION.search(text)
        or (_LEAD_IN.search(text) and "\n" not in text)
    )


def _is_title(text: str, after: str) -> bool:
    """A heading, whatever its markup: a few words alone that neither end nor state anything."""
    if text.startswith("#") or "\n" in text:
        return text.startswith("#")
    short = len(text.split()) <= _TITLE_WORDS and bool(_TITLE_BEGINS.match(text))
    return short and not _SAYS_SOMETHING.search(text) and bool(_FOLLOWED_BY_NOTHING.match(after))


def _bare(text: str) -> str:
    return _MARKUP.sub(" ", text).strip().casefold()


def _overlap(one: tuple[int, int], other: tuple[int, int]) -> bool:
    return one[0] < other[1] and other[0] < one[1]


def _rarity(question: str, sentences: Sequence[Sentence]) -> dict[str, float]:
    """Each term of the question and its share of the question's weight (smoothed idf)."""
    counts = Counter(term for sentence in sentences for term in sentence.terms)
    total = len(sentences) + 1
    idf = {term: math.log(1.0 + total / (counts[term] + 0.5)) for term in terms(question)}
    mass = sum(idf.values())
    return {term: value / mass for term, value in idf.items()}


def _covered(wanted: dict[str, float], said: frozenset[str]) -> float:
    return sum(weight for term, weight in wanted.items() if term in said)


def _surroundings(sentences: Sequence[Sentence]) -> list[frozenset[str]]:
    """For each sentence, the terms of the sentences before and after it in its passage."""
    around = [frozenset[str]()] * len(sentences)
    for i, (one, other) in enumerate(pairwise(sentences)):
        if one.hit == other.hit and other.position == one.position + 1:
            around[i] |= other.terms
            around[i + 1] |= one.terms
    return around


def _passage_cosines(hits: Sequence[Hit]) -> list[float]:
    """The hits' cosines; one that the dense retriever did not rank is as far as its farthest."""
    known = [hit.scores["cosine"] for hit in hits if "cosine" in hit.scores]
    farthest = min(known, default=0.0)
    return [hit.scores.get("cosine", farthest) for hit in hits]


def _says_new(pattern: re.Pattern[str], text: str, question: str) -> bool:
    """Whether `text` holds a match that the question does not hold already."""
    given = {match.casefold() for match in pattern.findall(question)}
    return any(match.casefold() not in given for match in pattern.findall(text))


def _runs(kept: Sequence[tuple[Sentence, float]]) -> list[list[tuple[Sentence, float]]]:
    """Sentences that follow each other in one passage, together."""
    runs: list[list[tuple[Sentence, float]]] = []
    for item in sorted(kept, key=lambda item: (item[0].hit, item[0].position)):
        last = runs[-1][-1][0] if runs else None
        if last and last.hit == item[0].hit and last.position + 1 == item[0].position:
            runs[-1].append(item)
        else:
            runs.append([item])
    return runs


def _span(hits: Sequence[Hit], run: Sequence[tuple[Sentence, float]]) -> Span:
    first, last = run[0][0], run[-1][0]
    return Span(
        passage=hits[first.hit].passage,
        start=first.start,
        end=last.end,
        score=max(score for _, score in run),
    )
