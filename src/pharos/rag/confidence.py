"""How likely it is that what was found contains the answer.

A logistic model over a few signs that anyone can check: how sure the reader is, how near the best
passage is, how much of the question the evidence says, whether the two retrievers agree. It reads
only what any reader and any retriever report, so a better reader needs new coefficients, not new
code. `recipes/confidence/fit.py` fits them; `confidence.json` holds them with the card of the fit
(data, licence, figures, command).
"""

import functools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources

from pharos.core import Hit, Span
from pharos.rag.terms import terms

CARD = "confidence.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Belief:
    """`quoted`: the probability that the spans contain the answer; `retrieved`: that the passages
    do, which is what matters to a language model that reads them all."""

    quoted: float
    retrieved: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Logistic:
    """Weights by the name of their sign."""

    weights: Mapping[str, float]
    bias: float

    def probability(self, signs: Mapping[str, float]) -> float:
        logit = self.bias + sum(weight * signs[name] for name, weight in self.weights.items())
        return 1.0 / (1.0 + math.exp(-max(-30.0, min(30.0, logit))))


@dataclass(frozen=True, kw_only=True, slots=True)
class Calibration:
    """A model for each belief, and the probability from which on to answer."""

    quoted: Logistic
    retrieved: Logistic
    threshold: float


@functools.cache
def default_calibration() -> Calibration:
    """The one that ships, fitted for the default encoder and the extractive reader."""
    text = resources.files("pharos.rag").joinpath(CARD).read_text(encoding="utf-8")
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
) -> Belief:
    """How far to trust `spans`, found in `hits`; not at all if there are none."""
    if not spans:
        return Belief(quoted=0.0, retrieved=0.0)
    calibration = calibration or default_calibration()
    signs = signs_of(question, hits, spans)
    return Belief(
        quoted=calibration.quoted.probability(signs),
        retrieved=calibration.retrieved.probability(signs),
    )


def signs_of(question: str, hits: Sequence[Hit], spans: Sequence[Span]) -> dict[str, float]:
    """What speaks for and against the answer. Needs at least one span.

    Coverage weighs the question's terms by how few of the hits contain them: what the library
    talks about everywhere tells little, and a term that occurs nowhere weighs most.
    """
    best = spans[0]
    in_hits = [frozenset(terms(_titled(hit))) for hit in hits]
    wanted = _rarity(question, in_hits)
    quoted = frozenset(term for span in spans for term in terms(span.text))
    around = next(
        (said for hit, said in zip(hits, in_hits, strict=True) if hit.passage == best.passage),
        quoted,
    )
    scores = next((hit.scores for hit in hits if hit.passage == best.passage), {})
    return {
        "reader": math.log(_inside(best.score) / (1.0 - _inside(best.score))),
        "cosine": max((hit.scores.get("cosine", 0.0) for hit in hits), default=0.0),
        "quote_coverage": _covered(wanted, quoted),
        "passage_coverage": _covered(wanted, around),
        "hits_coverage": _covered(wanted, frozenset[str]().union(*in_hits)),
        "agreement": _reciprocal(scores, "cosine_rank") * _reciprocal(scores, "bm25_rank"),
    }


def _titled(hit: Hit) -> str:
    passage = hit.passage
    return " ".join((passage.title, *passage.headings, passage.text))


def _rarity(question: str, in_hits: Sequence[frozenset[str]]) -> dict[str, float]:
    """Each term of the question and its share of the question's weight."""
    total = len(in_hits) + 1
    idf = {
        term: math.log(1.0 + total / (0.5 + sum(term in said for said in in_hits)))
        for term in terms(question)
    }
    mass = sum(idf.values())
    return {term: value / mass for term, value in idf.items()}


def _covered(wanted: Mapping[str, float], said: frozenset[str]) -> float:
    return sum(weight for term, weight in wanted.items() if term in said)


def _reciprocal(scores: Mapping[str, float], name: str) -> float:
    return 1.0 / scores[name] if name in scores else 0.0


def _inside(probability: float) -> float:
    """Away from 0 and 1, where the log odds are infinite."""
    return min(max(probability, 1e-4), 1.0 - 1e-4)
