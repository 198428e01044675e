"""Which blocks of a text look at which in BigBird (Zaheer et al. 2020, arXiv:2007.14062).

A block looks at itself and its two neighbours, and at the first and the last block, which look at
all; beside these at a few random ones. Hugging Face's BigBird does three things that the paper does
not say, which are done here too, since the published weights go with them:

- Random blocks are drawn in training only, from a seed: the same ones in every step. In evaluation
  all of them are the first block.
- They are drawn from the first blocks of a text only; which those are depends on the length.
- What is drawn may be looked at already (in evaluation it always is). Then its keys count twice, or
  however often it comes up: the block stands so many times among the keys.

Shapes: H heads, M blocks of queries, N blocks of keys.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from numpy.random import RandomState
from numpy.typing import NDArray
from torch import Tensor

Ints = NDArray[np.int64]
PAPER_LENGTHS = (1024, 3072, 4096)
"""Lengths at which the paper's own code draws, which chooses from the first 1,024 tokens."""
PAPER_REACH = 1024


class Looks(NamedTuple):
    """The blocks of keys, some of them several times, by their places in the text, and which blocks
    of queries look at each: `table_HMN`."""

    places_N: tuple[int, ...]
    table_HMN: Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class BlockPattern:
    """`max_positions` is how long the model's texts may be."""

    size: int
    num_random: int
    num_heads: int
    max_positions: int

    @property
    def reach(self) -> int:
        """The first so many blocks may be drawn. Shorter texts are attended to in full."""
        return 2 * self.num_random + 5

    def count(self, num_blocks: int, *, seed: int | None) -> Ints:
        """How often each block of queries looks at each block of keys, `[H, M, M]`; in evaluation
        (no seed) there is one table for all heads."""
        heads = 1 if seed is None else self.num_heads
        counts_HMM = np.stack([_window_and_ends(num_blocks)] * heads)
        if seed is None:
            counts_HMM[:, 1:-1, 0] += self.num_random
            return counts_HMM
        for head, row, drawn in self._draw(num_blocks, RandomState(seed)):
            if row < num_blocks - 1:
                np.add.at(counts_HMM[head, row], drawn, 1)
        return counts_HMM

    def _draw(self, num_blocks: int, random: RandomState) -> Iterator[tuple[int, int, Ints]]:
        """For a head and a block of queries, blocks of keys. The order is that of the draws."""
        heads = range(self.num_heads)
        if num_blocks * self.size in PAPER_LENGTHS:
            total = self.max_positions // self.size
            for head in heads:
                for row in range(1, total - 1):
                    choice = _papers_choice(row, total, self.size)
                    yield head, row, random.permutation(choice)[: self.num_random]
        else:
            for row in range(1, num_blocks):
                for head in heads:
                    order = random.permutation(self.reach)
                    allowed = order[~np.isin(order, _looked_at(row, self.reach))]
                    yield head, row, allowed[: self.num_random]


@lru_cache(maxsize=256)
def find_looks(pattern: BlockPattern, num_blocks: int, *, seed: int | None) -> Looks:
    """What the blocks of a text look at. `seed` is the random blocks', None in evaluation."""
    counts_HMM = torch.from_numpy(pattern.count(num_blocks, seed=seed))
    places, tables = list(range(num_blocks)), [counts_HMM > 0]
    for times in range(1, int(counts_HMM.max())):
        again = (counts_HMM > times).flatten(0, 1).any(0).nonzero()[:, 0]
        places += again.tolist()
        tables.append(counts_HMM[:, :, again] > times)
    return Looks(tuple(places), torch.cat(tables, dim=-1))


def _window_and_ends(num_blocks: int) -> Ints:
    place = np.arange(num_blocks)
    counts_MM: Ints = (np.abs(place[:, None] - place) <= 1).astype(np.int64)
    counts_MM[[0, -1]] = 1
    counts_MM[:, [0, -1]] = 1
    return counts_MM


def _looked_at(row: int, reach: int) -> Sequence[int]:
    """What is not to be drawn: the window and the ends, for a text that were `reach` blocks long.
    The blocks next to the ends do not draw each other."""
    beside_ends = {1: [reach - 2], reach - 2: [1]}.get(row, [])
    return [row - 1, row, row + 1, 0, reach - 1, *beside_ends]


def _papers_choice(row: int, num_blocks: int, size: int) -> Ints:
    """The blocks that the paper's code draws from, for a text as long as the model's may be."""
    inner = np.arange(1, num_blocks - 1)
    last = PAPER_REACH // size - 1 if 2 * size < PAPER_REACH else num_blocks - 1
    start, end = row - 2, row
    if row == 1:
        return inner[2:last]
    if row == 2:
        return inner[3:last]
    if row >= num_blocks - 3 or start > last:
        return inner[:last]
    if end + 1 == last:
        return inner[:start]
    return np.concatenate((inner[:start], inner[end + 1 : last]))
