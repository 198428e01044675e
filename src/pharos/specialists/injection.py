"""The detector of texts that try to steer a model: jailbreaks in questions, injections in
documents.

A long text is read in windows and is as suspicious as its most suspicious one.
"""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pharos.core.logistic import Logistic
from pharos.specialists.cards import Card
from pharos.specialists.classifier import WindowClassifier
from pharos.specialists.shared_encoder import SharedEncoder
from pharos.specialists.windows import Pairs

LABEL = "attack"
UNCALIBRATED = Logistic(weights={"logit": 1.0})


class InjectionDetector:
    """A `core.Guard`. Make one with `load_injection_detector`."""

    name = "injection"

    def __init__(self, classifier: WindowClassifier) -> None:
        self._classifier = classifier
        self._risk = classifier.card.calibrated("risk", UNCALIBRATED)
        self.threshold = classifier.card.threshold

    def risks(self, texts: Sequence[str]) -> list[float]:
        """The probability of each text that it tries to steer a model."""
        if not texts:
            return []
        windows = self._classifier.texts(texts)
        found = self._classifier.log_odds([window.row for window in windows], LABEL)
        worst = np.full(len(texts), -math.inf)
        np.maximum.at(worst, [window.owner for window in windows], found)
        return [self._risk.probability({"logit": float(logit)}) for logit in worst]


def load_injection_detector(
    shared: SharedEncoder, pairs: Pairs, folder: Path, card: Card
) -> InjectionDetector:
    """From an adapter's folder. Raises ModelError if it does not fit."""
    return InjectionDetector(WindowClassifier(shared, pairs, folder, card))
