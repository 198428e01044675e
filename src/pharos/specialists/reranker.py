"""The re-ranker: how relevant a passage is, read together with the question (a cross-encoder;
Nogueira & Cho 2019, arXiv:1901.04085).

A passage is longer than the pairs it was trained on, and most of it beside the point, so it is read
in windows: of each passage the one that says most of the question, and of the rest the best, up to
`max_windows` of all passages. A passage is as relevant as its best window.

The relevance is a logistic model over two signs: the log odds of the best window, and `prior`, the
logarithm of the share that the passage's score in the search has of the best one's. How much the
search is still believed is fitted with the rest, so a re-ranker does not forget what it was told.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pharos.core import Hit
from pharos.core.logistic import Logistic
from pharos.specialists.cards import Card
from pharos.specialists.classifier import WindowClassifier
from pharos.specialists.shared_encoder import Row, SharedEncoder
from pharos.specialists.windows import Pairs, best_of, rarest_shared

LABEL = "relevant"
UNCALIBRATED = Logistic(weights={"logit": 1.0, "prior": 0.0})
LEAST_SHARE = 1e-3


@dataclass(frozen=True, kw_only=True, slots=True)
class RerankerConfig:
    """`max_windows` bounds what is read for a question, if there are not more passages."""

    max_windows: int = 30

    def __post_init__(self) -> None:
        if self.max_windows < 1:
            raise ValueError(f"max_windows is {self.max_windows}; it must be at least 1")


class WindowReranker:
    """A `core.Reranker`. Make one with `load_reranker`."""

    name = "reranker"

    def __init__(self, classifier: WindowClassifier, config: RerankerConfig) -> None:
        self._classifier, self._config = classifier, config
        self._relevance = classifier.card.calibrated("relevance", UNCALIBRATED)

    def rerank(self, question: str, hits: Sequence[Hit]) -> list[float]:
        """One relevance per hit, in the order given; `Hit.score` is the search's."""
        if not hits:
            return []
        owners, rows = self._rows(question, [hit.passage.text for hit in hits])
        found = self._classifier.log_odds(rows, LABEL)
        best = np.full(len(hits), -math.inf)
        np.maximum.at(best, owners, found)
        return [
            self._relevance.probability({"logit": float(logit), "prior": prior})
            for logit, prior in zip(best, priors(hits), strict=True)
        ]

    def _rows(self, question: str, texts: Sequence[str]) -> tuple[list[int], list[Row]]:
        asked, *passages = self._classifier.pairs.tokens([question, *texts])
        windows = [
            (owner, part)
            for owner, passage in enumerate(passages)
            for part in self._classifier.windows(asked, passage)
        ]
        shares = rarest_shared(asked.ids, [passages[owner].ids[part] for owner, part in windows])
        chosen = best_of([owner for owner, _ in windows], shares, self._config.max_windows)
        rows = [
            self._classifier.pair(asked, passages[windows[i][0]], windows[i][1]) for i in chosen
        ]
        return [windows[i][0] for i in chosen], rows


def priors(hits: Sequence[Hit]) -> list[float]:
    """The logarithm of each hit's share of the best score; 0 for all if none is positive."""
    best = max((hit.score for hit in hits), default=0.0)
    if best <= 0.0:
        return [0.0] * len(hits)
    return [math.log(max(hit.score / best, LEAST_SHARE)) for hit in hits]


def load_reranker(
    shared: SharedEncoder,
    pairs: Pairs,
    folder: Path,
    card: Card,
    config: RerankerConfig | None = None,
) -> WindowReranker:
    """From an adapter's folder. Raises ModelError if it does not fit."""
    return WindowReranker(WindowClassifier(shared, pairs, folder, card), config or RerankerConfig())
