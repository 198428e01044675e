"""Blocks that nobody uses, and which of them to hand out next.

Attention reads a run of consecutive blocks as one stretch of memory, without gathering. So that the
tables of many sequences that grow side by side are mostly such runs, blocks are handed out from
groups of neighbours: a sequence goes on with the block after its last one, and where that is taken
begins in a group that nobody uses, or else in the one that is used least, in the middle of what is
left, so that its neighbour can grow too. Groups are a preference only: every block can be had.
"""

from collections import OrderedDict


class AvailableBlocks:
    """Of `num_blocks`, all free at first, in groups of `group_size`. A block that is given back is
    free, or cached if it still holds what may be asked for again."""

    def __init__(self, num_blocks: int, group_size: int) -> None:
        self.num_blocks = num_blocks
        self.group_size = group_size
        num_groups = -(-num_blocks // group_size)
        self.free: dict[int, None] = dict.fromkeys(range(num_blocks))
        self.cached: dict[int, None] = {}
        self._num_available = [len(self._group(group)) for group in range(num_groups)]
        self._with_free: OrderedDict[int, None] = OrderedDict.fromkeys(range(num_groups))
        """Groups that nobody uses and that have free blocks."""
        self._all_cached: OrderedDict[int, None] = OrderedDict()
        """Groups that nobody uses, without free blocks, the longest unused first."""
        self._shared: list[OrderedDict[int, None]] = [OrderedDict() for _ in range(group_size)]
        """The groups that somebody uses, by the number of blocks that are available."""

    def __len__(self) -> int:
        return len(self.free) + len(self.cached)

    def take(self, after: int | None, wanted: int = 1) -> tuple[int, list[int]]:
        """A block for a sequence whose last one is `after` and that needs `wanted` now, and the
        cached blocks that are free from now on (it may be one of them): what they hold must be
        saved first."""
        if after is not None and after + 1 in self.free:
            self.remove(after + 1)
            return after + 1, []
        stretch = self._best_stretch(wanted)
        emptied = [block for block in stretch if block in self.cached]
        for block in emptied:
            del self.cached[block]
            self.free[block] = None
        self.remove(stretch[0])
        return stretch[0], emptied

    def remove(self, block: int) -> None:
        """A block is in use (again), as it is."""
        if block in self.free:
            del self.free[block]
        else:
            del self.cached[block]
        self._count(block // self.group_size, -1)

    def give(self, block: int, *, is_cached: bool) -> None:
        """Nobody uses a block any more."""
        kept = self.cached if is_cached else self.free
        kept[block] = None
        self._count(block // self.group_size, 1)

    def forget_cached(self) -> None:
        """What is cached is free."""
        groups = sorted({block // self.group_size for block in self.cached})
        self.free.update(self.cached)
        self.cached.clear()
        for group in groups:
            self._count(group, 0)

    def check(self) -> None:
        """Asserts that the groups add up."""
        available = self.free.keys() | self.cached.keys()
        for group, count in enumerate(self._num_available):
            blocks = set(self._group(group))
            is_unused = count == len(blocks)
            assert count == len(blocks & available)
            assert (group in self._with_free) == (is_unused and bool(blocks & self.free.keys()))
            assert (group in self._all_cached) == (is_unused and blocks <= self.cached.keys())
            where = [number for number, groups in enumerate(self._shared) if group in groups]
            assert where == ([] if is_unused or not count else [count])

    def _best_stretch(self, wanted: int) -> list[int]:
        """Neighbours to begin with."""
        if self._with_free:
            return self._stretch(next(iter(self._with_free)), self.free)
        if self._all_cached:
            return list(self._group(next(iter(self._all_cached))))
        groups = next(groups for groups in reversed(self._shared) if groups)
        stretch = self._stretch(next(iter(groups)), self.free, self.cached)
        return stretch[max(0, len(stretch) - wanted) // 2 :]

    def _stretch(self, group: int, *among: dict[int, None]) -> list[int]:
        """The longest run of a group's blocks that are in one of `among`."""
        runs: list[list[int]] = [[]]
        for block in self._group(group):
            if any(block in kept for kept in among):
                runs[-1].append(block)
            elif runs[-1]:
                runs.append([])
        return max(runs, key=len)

    def _count(self, group: int, change: int) -> None:
        """So many more (or fewer) of a group's blocks are available."""
        self._with_free.pop(group, None)
        self._all_cached.pop(group, None)
        self._shared[self._num_available[group] % self.group_size].pop(group, None)
        self._num_available[group] += change
        self._file(group)

    def _file(self, group: int) -> None:
        blocks = self._group(group)
        count = self._num_available[group]
        if 0 < count < len(blocks):
            self._shared[count][group] = None
        elif count:
            num_free = sum(block in self.free for block in blocks)
            if num_free:
                self._with_free[group] = None
                self._with_free.move_to_end(group, last=num_free < count)
            else:
                self._all_cached[group] = None

    def _group(self, group: int) -> range:
        start = group * self.group_size
        return range(start, min(start + self.group_size, self.num_blocks))
