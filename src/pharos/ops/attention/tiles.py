"""Which tiles of the pairs of queries and keys there are to compute, and what lies in each.

A mask's bounds sort blocks of pairs into empty, partial and full ones. For each block of queries,
neighbouring blocks of keys of one kind become one tile, as wide as a processor's cache holds. Query
heads that share keys are further rows of one tile: nothing is copied. Where sequences or heads
differ, those that need a tile share it, and the others skip it.

In a tile the queries run backwards. Then the distance from query to key grows by one with each step
to the right and with each step down, and a tile of a bias or a mask that depends on the distance
alone is a window sliding over one row of numbers: a view with two equal strides.

Shapes: B sequences, G key-value heads, H = G·E query heads, T queries, S keys, K width of a head,
M by N blocks; P = B·G; a tile has R = E·Q rows (its Q queries in all E heads) and C keys; D
distances in it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import pad

from pharos.ops.attention.scoring import Scoring
from pharos.ops.masks import Blocks, Mask, depends_on_distance

TILE = 256 * 512  # scores; half a megabyte stays in a core's cache from step to step
ROWS = 128
KEYS_IN_BLOCK = 64
HIDDEN = -1e30  # added to the score of a pair that is not allowed: finite, as -inf - -inf is not

EMPTY, PARTIAL, FULL = 0, 1, 2
Kinds = NDArray[np.uint8]


def kinds_of_blocks(mask: Mask, q_M: Blocks, k_N: Blocks) -> Tensor:
    """EMPTY, PARTIAL or FULL, `[B | 1, H | 1, M, N]`."""
    some, every = mask.bounds(q_M, k_N)
    return some.to(torch.uint8) + (some & every).to(torch.uint8)


class Tile(NamedTuple):
    """Some queries (slices of T) and keys, of a range of the P. `hidden` is 0 where a pair is
    allowed and `HIDDEN` where not, `[len(of_P) | 1, E | 1, Q, C]`; None if all are allowed."""

    queries: slice
    keys: slice
    of_P: slice
    hidden: Tensor | None


@dataclass(frozen=True, slots=True)
class Tiling:
    """The tiles of one call to attention."""

    scoring: Scoring
    num_sequences: int
    num_groups: int
    heads_per_group: int
    num_queries: int
    num_keys: int
    device: torch.device
    hidden_R: Tensor | None  # by distance, from the last query and the first key on

    @classmethod
    def of(cls, q_BHTK: Tensor, k_BGSK: Tensor, scoring: Scoring) -> "Tiling":
        sequences, heads, num_queries, _ = q_BHTK.shape
        groups, num_keys = k_BGSK.shape[1:3]
        shape = (sequences, groups, heads // groups, num_queries, num_keys)
        hidden_R = None
        if depends_on_distance(scoring.mask):
            farthest = scoring.q_start + num_queries - 1
            distance_R = torch.arange(-farthest, num_keys - scoring.q_start, device=q_BHTK.device)
            allowed_11TR = scoring.mask.allows(torch.zeros_like(distance_R[:1]), distance_R)
            hidden_R = _hidden(allowed_11TR)[0, 0, 0]
        return cls(scoring, *shape, device=q_BHTK.device, hidden_R=hidden_R)

    def __iter__(self) -> Iterator[tuple[slice, Iterator[Tile]]]:
        """Block by block of queries: where it is, and its tiles."""
        size, start = max(ROWS // self.heads_per_group, 32), self.scoring.q_start
        q_M = Blocks.of(start, start + self.num_queries, size, self.device)
        k_N = Blocks.of(0, self.num_keys, KEYS_IN_BLOCK, self.device)
        kinds_PMN = self._of_all_heads(kinds_of_blocks(self.scoring.mask, q_M, k_N))
        for block in range(kinds_PMN.shape[1]):
            queries = slice(block * size, min((block + 1) * size, self.num_queries))
            yield queries, self._tiles(kinds_PMN[:, block], queries)

    def _of_all_heads(self, kinds: Tensor) -> Kinds:
        """For each of the P, or once if they are alike. Where heads share keys, a block is full if
        it is so for all of them, and empty likewise."""
        sequences, heads = kinds.shape[:2]
        if heads > 1:
            shape = (sequences, self.num_groups, self.heads_per_group, *kinds.shape[2:])
            kinds = kinds.view(shape)
            most, least = kinds.amax(2), kinds.amin(2)
            kinds = torch.where(most == least, most, PARTIAL)
        if sequences > 1 or heads > 1:
            kinds = kinds.expand(self.num_sequences, self.num_groups, -1, -1)
        kinds_PMN: Kinds = kinds.flatten(0, 1).cpu().numpy()
        alike = (kinds_PMN == kinds_PMN[:1]).all()
        return kinds_PMN[:1] if alike else kinds_PMN

    def _tiles(self, kinds_PN: Kinds, queries: slice) -> Iterator[Tile]:
        height = (queries.stop - queries.start) * self.heads_per_group
        for keys, kinds_P in self._runs(kinds_PN, widest=max(TILE // height, KEYS_IN_BLOCK)):
            partial = (kinds_P == PARTIAL).any()
            hidden = self._hidden_pairs(queries, keys) if partial else None
            together = max(TILE // (height * (keys.stop - keys.start)), 1)
            for of_P in self._ranges(kinds_P != EMPTY, together):
                own = hidden if hidden is None or len(hidden) == 1 else hidden[of_P]
                yield Tile(queries, keys, of_P, own)

    def _runs(self, kinds_PN: Kinds, widest: int) -> Iterator[tuple[slice, Kinds]]:
        """Neighbouring blocks of keys that are alike, as a range of keys, unless all are empty."""
        differs = (kinds_PN[:, 1:] != kinds_PN[:, :-1]).any(axis=0)
        starts = [0, *(differs.nonzero()[0] + 1).tolist(), kinds_PN.shape[1]]
        for first, end in pairwise(starts):
            stop = min(end * KEYS_IN_BLOCK, self.num_keys)
            if kinds_PN[:, first].any():
                for start in range(first * KEYS_IN_BLOCK, stop, widest):
                    yield slice(start, min(start + widest, stop)), kinds_PN[:, first]

    def _ranges(self, needed_P: NDArray[np.bool_], most: int) -> Iterator[slice]:
        """Neighbours among those of the P that need a tile."""
        if len(needed_P) == 1:
            edges = [0, self.num_sequences * self.num_groups]
        else:
            edges = np.diff(needed_P.astype(np.int8), prepend=0, append=0).nonzero()[0].tolist()
        for first, stop in zip(edges[::2], edges[1::2], strict=True):
            for start in range(first, stop, most):
                yield slice(start, min(start + most, stop))

    def _hidden_pairs(self, queries: slice, keys: slice) -> Tensor:
        """`[P | 1, E | 1, Q, C]`"""
        if self.hidden_R is not None:
            zero = self.scoring.q_start + self.num_queries - 1
            hidden_D = self.hidden_R[self._distances(queries, keys, zero)]
            return hidden_D.unfold(0, keys.stop - keys.start, 1)[None, None]
        first = self.scoring.q_start + queries.start
        last = self.scoring.q_start + queries.stop - 1
        q_Q = torch.arange(last, first - 1, -1, device=self.device)
        k_C = torch.arange(keys.start, keys.stop, device=self.device)
        hidden = _hidden(self.scoring.mask.allows(q_Q, k_C))
        sequences, heads = hidden.shape[:2]
        if sequences == heads == 1:
            return hidden
        of_group = (self.num_groups, self.heads_per_group) if heads > 1 else (1, 1)
        hidden = hidden.view(sequences, *of_group, *hidden.shape[2:])
        return hidden.expand(self.num_sequences, self.num_groups, -1, -1, -1).flatten(0, 1)

    # What the tensors hold of a tile

    def take(self, x_BHTK: Tensor, queries: slice, dtype: torch.dtype) -> Tensor:
        """These queries of all heads, backwards: `[P, R, K]`."""
        x_BHQK = x_BHTK[:, :, queries].to(dtype).flip(2)
        return x_BHQK.reshape(-1, self.heads_per_group * x_BHQK.shape[2], x_BHQK.shape[3])

    def put(self, x_PRK: Tensor, queries: slice, into_BHTK: Tensor) -> None:
        shape = (*into_BHTK.shape[:2], -1, x_PRK.shape[2])
        into_BHTK[:, :, queries] = x_PRK.view(shape).flip(2)

    def by_head(self, x_PRC: Tensor) -> Tensor:
        """`[P, E, Q, C]`, a view."""
        return x_PRC.view(len(x_PRC), self.heads_per_group, -1, x_PRC.shape[2])

    def bias(self, values_HR: Tensor, tile: Tile) -> Tensor:
        """`[len(of_P), E, Q, C]`, a view."""
        assert self.scoring.bias is not None
        values_HD = values_HR[:, self._distances(tile.queries, tile.keys, self.scoring.bias.zero)]
        return values_HD[self._heads(tile.of_P)].unfold(-1, tile.keys.stop - tile.keys.start, 1)

    def add_by_distance(self, x_PRC: Tensor, tile: Tile, into_HR: Tensor) -> None:
        """Sum over all pairs of one distance: rows with Q zeros behind them, cut one number too
        short, lie each one step further right than the last."""
        num_p, rows, width = x_PRC.shape
        height = rows // self.heads_per_group
        x_NQC = x_PRC.view(num_p * self.heads_per_group, height, width)
        skewed = pad(x_NQC, (0, height)).flatten(1)[:, :-height]
        sums_ND = skewed.view(len(x_NQC), height, width + height - 1).sum(1)
        assert self.scoring.bias is not None
        into_HD = into_HR[:, self._distances(tile.queries, tile.keys, self.scoring.bias.zero)]
        into_HD.index_add_(0, self._heads(tile.of_P).flatten(), sums_ND)

    def _distances(self, queries: slice, keys: slice, zero: int) -> slice:
        """From the farthest left to the farthest right, in a row with distance 0 at `zero`."""
        first = self.scoring.q_start + queries.start
        last = self.scoring.q_start + queries.stop - 1
        return slice(keys.start - last + zero, keys.stop - first + zero)

    def _heads(self, of_P: slice) -> Tensor:
        """The query heads, `[len(of_P), E]`."""
        group_P1 = torch.arange(of_P.start, of_P.stop, device=self.device)[:, None]
        head_E = torch.arange(self.heads_per_group, device=self.device)
        return group_P1 % self.num_groups * self.heads_per_group + head_E


def _hidden(allowed: Tensor) -> Tensor:
    return allowed.logical_not().float().mul_(HIDDEN)
