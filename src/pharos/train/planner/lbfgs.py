"""L-BFGS: downhill by the curvature that the last few steps have told.

After Nocedal and Wright, Numerical Optimization, algorithms 7.4 (the two loops) and 3.1 (a step is
halved until it goes down as far as its slope promises). A function of a handful of numbers, called
thousands of times, is what it is made for: numpy alone, no tensors.
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Slope = Callable[[Array], tuple[float, Array]]
"""A function's value and its gradient."""

MEMORY = 10
MOST_STEPS = 2000
LEAST = 1e-10
"""Of a step, or of the gradient: what is smaller is the bottom."""
PROMISE = 1e-4


def minimise(slope: Slope, start: Array) -> Array:
    """Where the function is lowest near `start`, as far as rounding lets it be found."""
    x, (value, gradient) = start, slope(start)
    steps: list[tuple[Array, Array]] = []
    for _ in range(MOST_STEPS):
        direction = -_inverse_hessian_times(gradient, steps)
        if float(direction @ gradient) >= 0:  # rounding has the curvature wrong: begin anew
            steps, direction = [], -gradient
        size = 1.0 if steps else min(1.0, 0.1 / max(float(np.abs(gradient).max()), LEAST))
        found = _line_search(slope, x, value, size * direction, float(direction @ gradient) * size)
        if found is None:
            return x
        new, value, new_gradient = found
        moved, turned = new - x, new_gradient - gradient
        if float(moved @ turned) > 1e-14 * float(turned @ turned):
            steps = [*steps[-MEMORY + 1 :], (moved, turned)]
        x, gradient = new, new_gradient
        if min(float(np.abs(moved).max()), float(np.abs(gradient).max())) < LEAST:
            break
    return x


def _line_search(
    slope: Slope, x: Array, value: float, move: Array, descent: float
) -> tuple[Array, float, Array] | None:
    """A place along `move`, and the function there; None where rounding leaves no way down."""
    share = 1.0
    while share > 1e-12:
        new = x + share * move
        new_value, gradient = slope(new)
        if new_value <= value + PROMISE * share * descent:
            return new, new_value, gradient
        share /= 2
    return None


def _inverse_hessian_times(gradient: Array, steps: Sequence[tuple[Array, Array]]) -> Array:
    """The two-loop recursion."""
    direction, shares = gradient.copy(), []
    for moved, turned in reversed(steps):
        share = (moved @ direction) / (moved @ turned)
        direction = direction - share * turned
        shares.append(share)
    if steps:
        moved, turned = steps[-1]
        direction = direction * (moved @ turned) / (turned @ turned)
    for (moved, turned), share in zip(steps, reversed(shares), strict=True):
        direction = direction + moved * (share - (turned @ direction) / (moved @ turned))
    return direction
