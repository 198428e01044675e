"""Where an endpoint stops keeping up.

In an open loop, one that keeps up ends requests as fast as they come: each takes about as long as
the one before it. One that does not ends each later than the last, for as long as the load goes on.
So the line through the moments at which requests ended, over those at which they were due, has a
slope of 1, or one above it: with a slope of 2 it answers half of what it is asked. Counting what
was done until the last had ended would not tell the two apart where a request takes long: the end
of every load is a time in which nothing more comes.

In a closed loop nobody falls behind: more users get nothing more out of it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import linear_regression
from typing import TYPE_CHECKING

from pharos.serve.bench.client import Timing

if TYPE_CHECKING:
    from pharos.serve.bench.report import LoadReport

LEAST_GAIN = 1.05
"""Twice the users that get less than this much more out of an endpoint have saturated it."""
KEPT_UP = 0.9
"""The share of what is asked of an endpoint below which it does not keep up."""
FEWEST = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class Pace:
    """Of an open loop, in requests a second: those that came, and those that were answered well
    while they came. `num_under_way` had not ended when the last came. Where requests came in less
    time than one of them takes, nothing but the whole load can be looked at, and `is_certain` is
    false."""

    offered: float
    achieved: float
    keeps_up: bool
    is_certain: bool
    num_under_way: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Saturation:
    """`level` (users, or requests a second) is more than the endpoint can do: `before`, the highest
    that was measured below it, is not, if there was one. At `level`, so much came out of it."""

    level: float
    before: float | None
    requests_per_s: float
    tokens_per_s: float


def pace_of(timings: Sequence[Timing], *, rate: float) -> Pace:
    """How an endpoint that was asked `rate` times a second on average kept up with it."""
    by_due = sorted(timings, key=lambda timing: timing.due_s)
    first_s, last_s = by_due[0].due_s, by_due[-1].due_s
    offered = (len(by_due) - 1) / (last_s - first_s) if last_s > first_s else rate
    done = [timing for timing in by_due if timing.error is None]
    settled = done[len(done) // 4 :]  # at first it has nothing else to do
    is_certain = _is_long(settled)
    if is_certain:
        slope = max(1.0, _slope(settled))
        achieved = (len(settled) - 1) / (settled[-1].due_s - settled[0].due_s) / slope
        share = len(done) / len(by_due) / slope
    else:
        achieved = len(done) / (max(timing.end_s for timing in by_due) - first_s)
        share = achieved / offered
    return Pace(
        offered=offered,
        achieved=achieved,
        keeps_up=share >= KEPT_UP,
        is_certain=is_certain,
        num_under_way=sum(timing.end_s > last_s for timing in by_due),
    )


def is_saturated(reports: Sequence["LoadReport"]) -> bool:
    """Whether the last of ever higher levels was more than the endpoint can do."""
    last = reports[-1]
    if last.pace is not None:
        return not last.pace.keeps_up
    before = max((report.output_throughput for report in reports[:-1]), default=0.0)
    return last.output_throughput < LEAST_GAIN * before


def saturation(reports: Sequence["LoadReport"]) -> Saturation | None:
    """Where ever higher levels became more than the endpoint can do; None if they did not."""
    if not is_saturated(reports):
        return None
    last = reports[-1]
    return Saturation(
        level=last.level,
        before=reports[-2].level if len(reports) > 1 else None,
        requests_per_s=last.request_throughput if last.pace is None else last.pace.achieved,
        tokens_per_s=last.output_throughput,
    )


def _is_long(timings: Sequence[Timing]) -> bool:
    """Whether requests came for at least as long as one of them takes, where none waits."""
    if len(timings) < FEWEST:
        return False
    span_s = timings[-1].due_s - timings[0].due_s
    return 0 < span_s >= min(timing.end_s - timing.due_s for timing in timings)


def _slope(timings: Sequence[Timing]) -> float:
    due_s, end_s = [t.due_s for t in timings], [t.end_s for t in timings]
    return linear_regression(due_s, end_s).slope
