"""Two ways to do one thing, in turn: what else happens on the machine happens to both, and each
round gives a ratio of its own. The middle half of the ratios says how sure the middle one is."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

Measure = Callable[[], float]
"""Does it once, and says how long it took."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Ratio:
    median: float
    low: float
    high: float
    num_rounds: int

    def __str__(self) -> str:
        spread = f"half of {self.num_rounds} rounds from {self.low:.3f} to {self.high:.3f}"
        return f"{self.median:.3f} ({spread})"


def paired_ratio(measure: Measure, base: Measure, *, rounds: int) -> Ratio:
    """What the one takes over what the other takes. A first round is for warming up; who goes first
    changes from round to round."""
    ratios = []
    for number in range(rounds + 1):
        if number % 2:
            seconds = measure()
            ratios.append(seconds / base())
        else:
            base_s = base()
            ratios.append(measure() / base_s)
    return ratio_of(ratios[1:])


def ratio_of(ratios: Sequence[float]) -> Ratio:
    """Of the ratios of some rounds."""
    low, median, high = statistics.quantiles(ratios, n=4, method="inclusive")
    return Ratio(median=median, low=low, high=high, num_rounds=len(ratios))
