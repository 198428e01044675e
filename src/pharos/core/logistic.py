"""A probability from a few signs that anyone can check."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

LARGEST_LOG_ODDS = 30.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Logistic:
    """Weights by the name of their sign. One weight and a bias for a model's own log odds is the
    calibration of Platt (1999)."""

    weights: Mapping[str, float]
    bias: float = 0.0

    def probability(self, signs: Mapping[str, float]) -> float:
        return sigmoid(self.log_odds(signs))

    def log_odds(self, signs: Mapping[str, float]) -> float:
        return self.bias + sum(weight * signs[name] for name, weight in self.weights.items())


def sigmoid(log_odds: float) -> float:
    """The probability of those log odds; beyond ±30, that of ±30."""
    bounded = max(-LARGEST_LOG_ODDS, min(LARGEST_LOG_ODDS, log_odds))
    return 1.0 / (1.0 + math.exp(-bounded))


def log_odds(probability: float, *, least: float = 1e-4) -> float:
    """The log odds of a probability, which is taken to be at least `least` away from 0 and 1."""
    inside = min(max(probability, least), 1.0 - least)
    return math.log(inside / (1.0 - inside))
