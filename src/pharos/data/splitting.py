"""Where to cut a run of atoms that is too long: parts of about equal cost, cut at the best places.

Plain arithmetic over summed costs: what is to be cut, and why, is the caller's (`chunking`).
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pharos.data.atoms import Atoms

EARLIEST = 0.75
LATEST = 1.2
"""How far from an equal share a part may end, to end at a better place."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Splitter:
    """Cuts into parts that cost at most `size`, each sharing about `overlap` with the next.

    The shared part may be longer by `slack` of itself, or shorter by half of that, to begin at a
    better place. `blocks`, runs of atoms in order, are not cut; to hold one, a part may cost up to
    `max_size`, and no block costs more.
    """

    atoms: Atoms
    size: int
    overlap: int
    slack: float
    max_size: int = 0
    blocks: Sequence[tuple[int, int]] = ()

    def split(self, first: int, last: int) -> Iterator[tuple[int, int]]:
        """The parts of atoms `first` to `last`, none of which lies within another."""
        cost = self.atoms.cost
        start = end = first
        while (rest := cost[last] - cost[start]) > self.size:
            before, end = end, min(self._end(start, max(start, end) + 1, last, rest), last)
            if end <= before:  # no room for a block after the overlap: begin with the block
                start = end = before
                continue
            yield start, end
            if end == last:
                return
            start = self._next_start(start, end)
        yield start, last

    def _end(self, start: int, earliest: int, last: int, rest: int) -> int:
        num_left = -(-(rest - self.overlap) // (self.size - self.overlap))
        share = (rest + (num_left - 1) * self.overlap) / num_left
        # Not so early that one part more is needed.
        longest_overlap = (1 + self.slack) * self.overlap
        others_hold = self.size + (num_left - 2) * (self.size - self.overlap) - longest_overlap
        low = min(max(EARLIEST * share, rest - others_hold), share)
        high = min(LATEST * share, self.size)
        begun = self.atoms.cost[start]
        fitting = bisect_right(self.atoms.cost, begun + self.size) - 1
        last = min(last, max(earliest, fitting))
        end = self._best_cut(begun + share, begun + low, begun + high, earliest, last)
        block = self._block_around(end)
        if block is None:
            return end
        return block[1] if self.atoms.cost[block[1]] - begun <= self.max_size else block[0]

    def _next_start(self, start: int, end: int) -> int:
        """Where the part after that from `start` to `end` begins."""
        if not self.overlap:
            return end
        cost = self.atoms.cost
        reaches_further = bisect_left(cost, cost[end + 1] - self.size)
        earliest = min(max(start + 1, reaches_further), end)
        goal, slack = cost[end] - self.overlap, self.slack * self.overlap
        begin = self._best_cut(goal, goal - slack, goal + slack / 2, earliest, end)
        block = self._block_around(begin)
        return min(block[1], end) if block else begin

    def _best_cut(self, goal: float, low: float, high: float, first: int, last: int) -> int:
        """The best place to cut, from `first` to `last`, where the cost is from `low` to `high`;
        of equals the nearest to `goal`."""
        cost, cut = self.atoms.cost, self.atoms.cut
        i = min(max(bisect_left(cost, low), first), last)
        j = min(max(bisect_right(cost, high), i + 1), last + 1)
        best = max(cut[i:j])
        middle = min(max(bisect_left(cost, goal), i), j)
        places = (cut.rfind(best, i, middle), cut.find(best, middle, j))
        return min((at for at in places if at >= 0), key=lambda at: abs(cost[at] - goal))

    def _block_around(self, atom: int) -> tuple[int, int] | None:
        i = bisect_right(self.blocks, atom, key=lambda block: block[0]) - 1
        if i >= 0 and self.blocks[i][0] < atom < self.blocks[i][1]:
            return self.blocks[i]
        return None
