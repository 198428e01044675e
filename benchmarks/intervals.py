"""A figure with its 95% interval, by the bootstrap (Efron 1979): the figure of many samples, drawn
with replacement, of what it was measured on."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

SAMPLES = 1000


@dataclass(frozen=True, kw_only=True, slots=True)
class Figure:
    """What a system reached on `n` examples of a set."""

    specialist: str
    set: str
    figure: str
    system: str
    value: float
    low: float
    high: float
    n: int


def measured(
    specialist: str,
    set_: str,
    figure: str,
    system: str,
    statistic: Callable[..., float],
    *arrays: NDArray[Any],
) -> Figure:
    """`statistic` of arrays that have one element an example."""
    low, high = interval(statistic, *arrays)
    return Figure(
        specialist=specialist,
        set=set_,
        figure=figure,
        system=system,
        value=round(float(statistic(*arrays)), 4),
        low=round(low, 4),
        high=round(high, 4),
        n=len(arrays[0]),
    )


def interval(statistic: Callable[..., float], *arrays: NDArray[Any]) -> tuple[float, float]:
    """A sample of which there is no figure (one without positives, say) does not count."""
    draw = np.random.default_rng(0)
    found = []
    for _ in range(SAMPLES):
        chosen = draw.integers(0, len(arrays[0]), len(arrays[0]))
        with np.errstate(invalid="ignore", divide="ignore"):
            found.append(float(statistic(*(array[chosen] for array in arrays))))
    low, high = np.nanpercentile(found, (2.5, 97.5))
    return float(low), float(high)


def mean(values: NDArray[Any]) -> float:
    return float(values.mean())


def percentile_95(values: NDArray[Any]) -> float:
    return float(np.percentile(values, 95))


def table(figures: list[Figure]) -> str:
    head = f"{'set':22} {'figure':30} {'system':22} {'value':>8}  {'95%':18}      n"
    lines = [
        f"{each.set:22} {each.figure:30} {each.system:22} {each.value:8.4f}  "
        f"{f'{each.low:.4f} to {each.high:.4f}':18} {each.n:6,}"
        for each in figures
    ]
    return "\n".join([head, *lines])
