"""Several sources in one stream, by weights that may change as training goes on (a curriculum).

Which source row n is read from follows from the weights alone, evenly: of any rows in a row, each
source has its share, to within about one row. (Drawn at random, the share of 32 rows that is to be
30% would be 14% to 46% in 95 of 100 steps.) Which of its rows a source gives is up to the seed.

How it is computed for row 10,000,000 without going through those before it: let T(n) be how many
of the first n rows a source ought to have given, the area under its share. Of two sources, the
first is to have given round(T(n)) rows, and the second the rest; that rises by 0 or 1 with each
row, and when it rises, the row is the first's. Of more than two, the sources are split into two
halves in this way, and each half again, counting the half's own rows.
"""

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import floor, isfinite, sqrt
from typing import Literal

from pharos.core.errors import TrainingError
from pharos.data.order import Shuffled
from pharos.data.rows import Row, Rows

ROUNDING = 0.4999
"""What is added before rounding down. A hair below one half: exact halves, which round numbers in
a schedule make frequent, would be decided by errors of the last digit."""

Change = Literal["step", "linear"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Milestone:
    """From row number `at` on, the sources have these weights; a source that is not named has
    weight 0. Only their proportions matter."""

    at: int
    weights: Mapping[str, float]

    def __post_init__(self) -> None:
        for name, weight in self.weights.items():
            if not (isfinite(weight) and weight >= 0):
                raise TrainingError(f"the weight of {name!r} is {weight}; it must be 0 or more")
        if not sum(self.weights.values()) > 0:
            raise TrainingError(f"all weights from row {self.at} on are 0; give one source some")


@dataclass(frozen=True, slots=True)
class Schedule:
    """Weights by row number. Between two milestones they stay (`step`) or go evenly from one to
    the other (`linear`); after the last they stay."""

    milestones: Sequence[Milestone]
    change: Change = "step"

    def __post_init__(self) -> None:
        rows = [milestone.at for milestone in self.milestones]
        if rows[:1] != [0] or any(a >= b for a, b in pairwise(rows)):
            raise TrainingError(
                f"the weights begin at the rows {rows}; give the first milestone row 0, and each "
                "other one a row after the one before it"
            )

    @classmethod
    def constant(cls, weights: Mapping[str, float]) -> "Schedule":
        return cls([Milestone(at=0, weights=weights)])

    @property
    def names(self) -> list[str]:
        return list(dict.fromkeys(n for m in self.milestones for n in m.weights))

    def shares(self, names: Sequence[str]) -> list[float]:
        """At each milestone, the share that these sources have together."""
        return [
            sum(m.weights.get(name, 0.0) for name in names) / sum(m.weights.values())
            for m in self.milestones
        ]


class Mixture:
    """A `Stream` of several sets of rows. Each is shuffled by itself and read as often as its
    weight asks, any number of epochs."""

    def __init__(self, sources: Mapping[str, Rows], schedule: Schedule, seed: int) -> None:
        names = schedule.names
        if unknown := [name for name in names if name not in sources]:
            raise TrainingError(
                f"weights name {unknown[0]!r}, which is no source; there are {', '.join(sources)}"
            )
        if unused := [name for name in sources if name not in names]:
            raise TrainingError(f"source {unused[0]!r} has no weight; give it one, or leave it out")
        self._streams = {name: Shuffled(sources[name], seed, name) for name in names}
        self._split = _split(names, schedule)

    def __getitem__(self, number: int) -> Row:
        name, number_there = self.source(number)
        return self._streams[name][number_there]

    def source(self, number: int) -> tuple[str, int]:
        """Where row `number` is read: from which source, and the how manieth of its rows."""
        node = self._split
        while isinstance(node, _Split):
            before, after = node.left_rows(number), node.left_rows(number + 1)
            if after > before:
                node, number = node.left, before
            else:
                node, number = node.right, number - before
        return node, number

    def counts(self, number: int) -> dict[str, int]:
        """How many of the first `number` rows each source gives."""
        return dict(_counts(self._split, number))


def _counts(node: "_Split | str", number: int) -> list[tuple[str, int]]:
    if isinstance(node, str):
        return [(node, number)]
    left = node.left_rows(number)
    return _counts(node.left, left) + _counts(node.right, number - left)


@dataclass(frozen=True, slots=True)
class _Split:
    """Two groups of sources (or single ones), and how the rows of both divide."""

    all_area: "_Area"
    left_area: "_Area"
    left: "_Split | str"
    right: "_Split | str"

    def left_rows(self, number: int) -> int:
        """Of the first `number` rows of both groups, how many are the left one's."""
        return floor(self.left_area.at(self.all_area.inverse(number)) + ROUNDING)


def _split(names: Sequence[str], schedule: Schedule) -> _Split | str:
    if len(names) == 1:
        return names[0]
    left, right = names[: len(names) // 2], names[len(names) // 2 :]
    return _Split(
        _Area.under(schedule, names),
        _Area.under(schedule, left),
        _split(left, schedule),
        _split(right, schedule),
    )


@dataclass(frozen=True, slots=True)
class _Area:
    """The area T(n) under a share that is, from `starts[i]` on, `shares[i]` and changes by
    `slopes[i]` each row; `areas[i]` is T(starts[i])."""

    starts: list[int]
    shares: list[float]
    slopes: list[float]
    areas: list[float]

    @classmethod
    def under(cls, schedule: Schedule, names: Sequence[str]) -> "_Area":
        starts = [milestone.at for milestone in schedule.milestones]
        shares = schedule.shares(names)
        slopes = [0.0] * len(shares)
        if schedule.change == "linear":
            steps = zip(pairwise(starts), pairwise(shares), strict=True)
            slopes[:-1] = [(y1 - y0) / (x1 - x0) for (x0, x1), (y0, y1) in steps]
        areas = [0.0]
        for (x0, x1), share, slope in zip(pairwise(starts), shares, slopes, strict=False):
            areas.append(areas[-1] + _trapezoid(x1 - x0, share, slope))
        return cls(starts, shares, slopes, areas)

    def at(self, n: float) -> float:
        i = bisect_right(self.starts, n) - 1
        area = self.areas[i] + _trapezoid(n - self.starts[i], self.shares[i], self.slopes[i])
        return area if i + 1 == len(self.areas) else min(area, self.areas[i + 1])

    def inverse(self, area: float) -> float:
        """The last n with that area; for more than there ever is (rounding up asks for that),
        where the share has come to 0."""
        i = bisect_right(self.areas, area) - 1
        rest, share, slope = area - self.areas[i], self.shares[i], self.slopes[i]
        pace = share + sqrt(max(0.0, share * share + 2 * slope * rest))
        n = self.starts[i] + (2 * rest / pace if pace else 0.0)
        return n if i + 1 == len(self.starts) else min(n, self.starts[i + 1])


def _trapezoid(width: float, share: float, slope: float) -> float:
    return width * (share + slope * width / 2)
