"""How likely it is that what was found contains the answer.

A logistic model over a few signs that anyone can check: how sure the reader is, how clearly the
passage leads, whether it has the names of the question. It reads only what any reader and any
retriever report, so a better one needs new coefficients, not new code. `recipes/confidence/fit.py`
fits them; `confidence.json` holds them with the card of the fit (data, licence, figures, command),
and `confidence_specialists.json` those for the signs of trained specialists, which are more.
"""

import functools
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources

from pharos.core import Hit, Passage, Span
from pharos.core.findings import Reading
from pharos.core.logistic import Logistic, log_odds
from pharos.rag.terms import names_of, unmentioned

CARD = "confidence.json"
SPECIALISTS_CARD = "confidence_specialists.json"
MAX_RIVAL = 1.5
_NUMBER = re.compile(r"\d[\w.]*\w|\d")


@dataclass(frozen=True, kw_only=True, slots=True)
class Belief:
    """`quoted`: the probability that the spans contain the answer; `retrieved`: that the passages
    do, which is what matters to a language model that reads them all."""

    quoted: float
    retrieved: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Calibration:
    """A model for each belief, and the probability from which on to answer."""

    quoted: Logistic
    retrieved: Logistic
    threshold: float


AS_READ = Calibration(
    quoted=Logistic(weights={"answer": 1.0}),
    retrieved=Logistic(weights={"answerable": 1.0}),
    threshold=0.5,
)
"""What a trained reader says of itself, where nothing is fitted to it together with other signs."""


@functools.cache
def default_calibration(*, with_specialists: bool = False) -> Calibration:
    """The one that ships: fitted for the default encoder and the extractive reader, or
    `with_specialists` for those too, as far as there is one."""
    package = resources.files("pharos.rag")
    if not with_specialists:
        return read_calibration(package.joinpath(CARD).read_text(encoding="utf-8"))
    card = package.joinpath(SPECIALISTS_CARD)
    return read_calibration(card.read_text(encoding="utf-8")) if card.is_file() else AS_READ


def read_calibration(text: str) -> Calibration:
    """From a card of a fit."""
    card = json.loads(text)
    return Calibration(
        quoted=Logistic(**card["quoted"]),
        retrieved=Logistic(**card["retrieved"]),
        threshold=card["threshold"],
    )


def judge(
    question: str,
    hits: Sequence[Hit],
    spans: Sequence[Span],
    calibration: Calibration | None = None,
    *,
    reading: Reading | None = None,
) -> Belief:
    """How far to trust `spans`, found in `hits`; not at all if there are none. `reading` is what a
    trained reader has found, if there is one."""
    if not spans:
        return Belief(quoted=0.0, retrieved=0.0)
    calibration = calibration or default_calibration(with_specialists=reading is not None)
    signs = signs_of(question, hits, spans, reading)
    return Belief(
        quoted=calibration.quoted.probability(signs),
        retrieved=calibration.retrieved.probability(signs),
    )


def signs_of(
    question: str, hits: Sequence[Hit], spans: Sequence[Span], reading: Reading | None = None
) -> dict[str, float]:
    """What speaks for and against the answer. Needs at least one span.

    - `reader`: the reader's log odds for its best span
    - `lead`: how far BM25 puts the quoted passage above the next five, as a share of the best score
    - `rival`: how far the reader puts it above its best span elsewhere
    - `names_missing`: the share of the question's names and numbers that the passage has not

    And if a trained reader has read the hits:
    - `answer`, `answerable`: the log odds of its best answer, and that there is one
    - `relevance`: the re-ranker's log odds for the best hit
    - `agreement`: whether the quoted spans contain its best answer
    """
    best = spans[0]
    own = next((hit.scores for hit in hits if hit.passage.id == best.passage.id), {})
    others = [hit.scores for hit in hits if not _overlap(hit.passage, best.passage)]
    signs = {
        "reader": log_odds(best.score),
        "lead": _lead(own, others),
        "rival": min(log_odds(best.score) - _rival(spans), MAX_RIVAL),
        "names_missing": _names_missing(question, best.passage),
    }
    return signs if reading is None else signs | _signs_of_reading(hits, spans, reading)


def _signs_of_reading(
    hits: Sequence[Hit], spans: Sequence[Span], reading: Reading
) -> dict[str, float]:
    best = reading.spans[0] if reading.spans else None
    relevance = max((hit.scores["rerank"] for hit in hits if "rerank" in hit.scores), default=0.5)
    quoted = "\n".join(span.text for span in spans).casefold()
    return {
        "answer": log_odds(best.score if best else 0.0),
        "answerable": log_odds(reading.answerable),
        "relevance": log_odds(relevance),
        "agreement": float(best is not None and best.text.casefold() in quoted),
    }


def _lead(own: Mapping[str, float], others: Sequence[Mapping[str, float]]) -> float:
    mine = own.get("bm25", 0.0)
    next_five = sorted((scores.get("bm25", 0.0) for scores in others), reverse=True)[:5]
    best = max([mine, *next_five])
    return (mine - sum(next_five) / max(1, len(next_five))) / best if best > 0.0 else 0.0


def _rival(spans: Sequence[Span]) -> float:
    """Log odds of the best span of another passage; far below if none was worth quoting."""
    elsewhere = [span.score for span in spans if not _overlap(span.passage, spans[0].passage)]
    return max(map(log_odds, elsewhere), default=-math.inf)


def _names_missing(question: str, passage: Passage) -> float:
    names = names_of(question) | set(_NUMBER.findall(question))
    said = " ".join((passage.title, *passage.headings, passage.text))
    return len(unmentioned(names, said)) / len(names) if names else 0.0


def _overlap(one: Passage, other: Passage) -> bool:
    same_document = one.document_id == other.document_id
    return same_document and one.start < other.end and other.start < one.end
