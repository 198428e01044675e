"""Does a text support a statement, contradict it, or say nothing of it?

The statement is read beside each window of the text. What counts is the window that has most to say
about it: the one where "says nothing" is least likely.

`calibration` of the card: `supported` and `contradicted`, each over `logit`, the log odds of its
class in that window. Where the two add up to more than 1, each has its share.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pharos.core.findings import Grounding
from pharos.core.logistic import Logistic
from pharos.specialists.cards import Card
from pharos.specialists.classifier import WindowClassifier
from pharos.specialists.shared_encoder import SharedEncoder
from pharos.specialists.windows import Pairs

SUPPORTED, CONTRADICTED, NEITHER = "supported", "contradicted", "unsupported"
UNCALIBRATED = Logistic(weights={"logit": 1.0})


class WindowGroundingChecker:
    """A `core.GroundingChecker`. Make one with `load_grounding_checker`."""

    name = "grounding"

    def __init__(self, classifier: WindowClassifier) -> None:
        self._classifier = classifier
        card = classifier.card
        self._order = [card.class_of(label) for label in (SUPPORTED, CONTRADICTED, NEITHER)]
        self._supported = card.calibrated(SUPPORTED, UNCALIBRATED)
        self._contradicted = card.calibrated(CONTRADICTED, UNCALIBRATED)

    def check(self, pairs: Sequence[tuple[str, str]]) -> list[Grounding]:
        """One grounding per (statement, text), in the order given."""
        tokens = self._classifier.pairs.tokens([text for pair in pairs for text in pair])
        owners, rows = [], []
        for owner, (statement, text) in enumerate(zip(tokens[::2], tokens[1::2], strict=True)):
            for part in self._classifier.windows(statement, text):
                owners.append(owner)
                rows.append(self._classifier.pair(statement, text, part))
        log_p = log_softmax(self._classifier.logits(rows)[:, self._order]) if rows else None
        return [
            self._grounding(log_p[[i for i, of in enumerate(owners) if of == owner]])
            for owner in range(len(pairs))
            if log_p is not None
        ]

    def _grounding(self, log_p_W3: NDArray[np.float64]) -> Grounding:
        """Of the windows of one pair."""
        window = log_p_W3[int(log_p_W3[:, 2].argmin())]
        odds = [float(log_p - np.log(max(-np.expm1(log_p), 1e-12))) for log_p in window[:2]]
        supported = self._supported.probability({"logit": odds[0]})
        contradicted = self._contradicted.probability({"logit": odds[1]})
        total = max(1.0, supported + contradicted)
        return Grounding(supported=supported / total, contradicted=contradicted / total)


def log_softmax(logits_NC: NDArray[np.float64]) -> NDArray[np.float64]:
    total: NDArray[np.float64] = np.logaddexp.reduce(logits_NC, axis=1, keepdims=True)
    return logits_NC - total


def load_grounding_checker(
    shared: SharedEncoder, pairs: Pairs, folder: Path, card: Card
) -> WindowGroundingChecker:
    """From an adapter's folder. Raises ModelError if it does not fit."""
    return WindowGroundingChecker(WindowClassifier(shared, pairs, folder, card))
