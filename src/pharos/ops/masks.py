"""Masks as objects: which keys a query may look at, given where the two stand.

A mask is a rule, not a matrix. It answers two questions:

- `allows(q, k)`: for these queries and these keys, yes or no, one by one. The plain backend asks
  it once for everything; a tiled backend asks it for one tile at a time.
- `bounds(q, k)`: for whole blocks of queries and keys, whether *some* pair may be allowed and
  whether surely *all* pairs are. A tiled backend skips a block that has none and asks nothing of a
  block that has all: its time falls with the density of the mask. The answer is interval arithmetic
  on the blocks' ends, so it costs nothing per pair. It may err on the safe side: `some` may be true
  of an empty block, `all` false of a full one.

Masks compose: `Causal() & Window(left=255)` is a sliding window, `Window(left=8, right=8) |
Global(first)` is Longformer's, `Causal() & Documents(ids)` keeps the documents of a packed batch
apart.

Shapes: B sequences, H heads, T queries, S keys, M blocks of queries, N blocks of keys. What is the
same for all sequences or heads has 1 there.
"""

from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor


class Blocks(NamedTuple):
    """Neighbouring positions in blocks: the first and the last position of each."""

    first: Tensor
    last: Tensor

    @classmethod
    def of(cls, start: int, stop: int, size: int, device: torch.device | None = None) -> "Blocks":
        """The positions `start` to `stop` in blocks of `size`; the last one may be shorter."""
        first = torch.arange(start, stop, size, device=device)
        return cls(first, (first + size - 1).clamp(max=stop - 1))


class Bounds(NamedTuple):
    """Of every block of queries with every block of keys: may some pair be allowed, are all?"""

    some: Tensor
    all: Tensor


@runtime_checkable
class Mask(Protocol):
    def allows(self, q_T: Tensor, k_S: Tensor) -> Tensor:
        """May the query at each position look at the key at each? Bool, `[B, H, T, S]` or 1s."""

    def bounds(self, q_M: Blocks, k_N: Blocks) -> Bounds:
        """Both are bool, `[B, H, M, N]` or 1s."""

    def __and__(self, other: "Mask") -> "Mask": ...

    def __or__(self, other: "Mask") -> "Mask": ...


class Composable:
    def __and__(self: Mask, other: Mask) -> Mask:
        if isinstance(other, Full):
            return self
        return other if isinstance(self, Full) else Both(self, other)

    def __or__(self: Mask, other: Mask) -> Mask:
        return Full() if isinstance(self, Full) or isinstance(other, Full) else Either(self, other)


@dataclass(frozen=True, slots=True)
class Both(Composable):
    one: Mask
    other: Mask

    def allows(self, q_T: Tensor, k_S: Tensor) -> Tensor:
        return self.one.allows(q_T, k_S) & self.other.allows(q_T, k_S)

    def bounds(self, q_M: Blocks, k_N: Blocks) -> Bounds:
        a, b = self.one.bounds(q_M, k_N), self.other.bounds(q_M, k_N)
        return Bounds(a.some & b.some, a.all & b.all)


@dataclass(frozen=True, slots=True)
class Either(Composable):
    one: Mask
    other: Mask

    def allows(self, q_T: Tensor, k_S: Tensor) -> Tensor:
        return self.one.allows(q_T, k_S) | self.other.allows(q_T, k_S)

    def bounds(self, q_M: Blocks, k_N: Blocks) -> Bounds:
        a, b = self.one.bounds(q_M, k_N), self.other.bounds(q_M, k_N)
        return Bounds(a.some | b.some, a.all | b.all)


@dataclass(frozen=True, slots=True)
class Full(Composable):
    """Everything sees everything."""

    def allows(self, q_T: Tensor, k_S: Tensor) -> Tensor:
        return torch.ones(1, 1, len(q_T), len(k_S), dtype=torch.bool, device=q_T.device)

    def bounds(self, q_M: Blocks, k_N: Blocks) -> Bounds:
        full = self.allows(q_M.first, k_N.first)
        return Bounds(full, full)


@dataclass(frozen=True, slots=True)
class Causal(Composable):
    """A token sees itself and what came before."""

    def allows(self, q_T: Tensor, k_S: Tensor) -> Tensor:
        return (k_S <= q_T[:, None])[None, None]

    def bounds(self, q_M: Blocks, k_N: Blocks) -> Bounds:
        return Bounds(self.allows(q_M.last, k_N.first), self.allows(q_M.first, k_N.last))


@dataclass(frozen=True, slots=True)
class Window(Composable):
    """A token sees itself, `left` tokens before it and `right` after it."""

    left: int
    right: int = 0

    def __post_init__(self) -> None:
        if self.left < 0 or self.right < 0:
            raise ValueError(f"a window of {self.left} left and {self.right} right: 0 or more each")

    def allows(self, q_T: Tensor, k_S: Tensor) -> Tensor:
        distance_TS = k_S - q_T[:, None]
        return ((-self.left <= distance_TS) & (distance_TS <= self.right))[None, None]

    def bounds(self, q_M: Blocks, k_N: Blocks) -> Bounds:
        nearest_left = k_N.last - q_M.first[:, None] >= -self.left
        nearest_right = k_N.first - q_M.last[:, None] <= self.right
        farthest_left = k_N.first - q_M.last[:, None] >= -self.left
        farthest_right = k_N.last - q_M.first[:, None] <= self.right
        some, every = nearest_left & nearest_right, farthest_left & farthest_right
        return Bounds(some[None, None], every[None, None])


@dataclass(frozen=True, slots=True)
class Strided(Composable):
    """A token sees every `stride`-th token, counted from itself. The strided pattern of Child et
    al. (2019, arXiv:1904.10509) is `Causal() & (Window(left=stride) | Strided(stride))`."""

    stride: int

    def __post_init__(self) -> None:
        if self.stride < 1:
            raise ValueError(f"a stride of {self.stride}: it must be at least 1")

    def allows(self, q_T: Tensor, k_S: Tensor) -> Tensor:
        return ((q_T[:, None] - k_S) % self.stride == 0)[None, None]

    def bounds(self, q_M: Blocks, k_N: Blocks) -> Bounds:
        least, most = q_M.first[:, None] - k_N.last, q_M.last[:, None] - k_N.first
        some = most.div(self.stride, rounding_mode="floor") * self.stride >= least
        every = torch.full_like(some, self.stride == 1)
        return Bounds(some[None, None], every[None, None])


@dataclass(frozen=True, slots=True, eq=False)
class Global(Composable):
    """The tokens marked in `is_global_BT` see all and are seen by all (Longformer, BigBird)."""

    is_global_BT: Tensor

    def allows(self, q_T: Tensor, k_S: Tensor) -> Tensor:
        q_BT1, k_B1S = self.is_global_BT[:, q_T, None], self.is_global_BT[:, None, k_S]
        return (q_BT1 | k_B1S)[:, None]

    def bounds(self, q_M: Blocks, k_N: Blocks) -> Bounds:
        some_q, every_q = _some_and_all(self.is_global_BT, q_M)
        some_k, every_k = _some_and_all(self.is_global_BT, k_N)
        some = some_q[:, :, None] | some_k[:, None, :]
        every = every_q[:, :, None] | every_k[:, None, :]
        return Bounds(some[:, None], every[:, None])


@dataclass(frozen=True, slots=True, eq=False)
class Valid(Composable):
    """Only the keys marked in `valid_BS` are seen: the others are padding."""

    valid_BS: Tensor

    def allows(self, q_T: Tensor, k_S: Tensor) -> Tensor:
        return self.valid_BS[:, None, None, k_S].expand(-1, 1, len(q_T), -1)

    def bounds(self, q_M: Blocks, k_N: Blocks) -> Bounds:
        some, every = _some_and_all(self.valid_BS, k_N)
        shape = (-1, 1, len(q_M.first), -1)
        return Bounds(some[:, None, None].expand(shape), every[:, None, None].expand(shape))


@dataclass(frozen=True, slots=True, eq=False)
class Documents(Composable):
    """A token sees the tokens that carry the same number: the documents of a packed batch. Blocks
    are told apart by the range of their numbers, so documents should lie one after another."""

    ids_BT: Tensor

    def allows(self, q_T: Tensor, k_S: Tensor) -> Tensor:
        return (self.ids_BT[:, q_T, None] == self.ids_BT[:, None, k_S])[:, None]

    def bounds(self, q_M: Blocks, k_N: Blocks) -> Bounds:
        low_q, high_q = (end[:, :, None] for end in _range(self.ids_BT, q_M))
        low_k, high_k = (end[:, None, :] for end in _range(self.ids_BT, k_N))
        some = (low_q <= high_k) & (low_k <= high_q)
        every = (low_q == high_q) & (low_k == high_k) & (low_q == low_k)
        return Bounds(some[:, None], every[:, None])


@dataclass(frozen=True, slots=True, eq=False)
class BlockTable(Composable):
    """Blocks of `size` tokens see each other where `table_HMN` says so: BigBird's random blocks."""

    size: int
    table_HMN: Tensor

    def allows(self, q_T: Tensor, k_S: Tensor) -> Tensor:
        rows_HTN = self.table_HMN[:, q_T // self.size]
        return rows_HTN[:, :, k_S // self.size][None]

    def bounds(self, q_M: Blocks, k_N: Blocks) -> Bounds:
        rows = (q_M.first // self.size, q_M.last // self.size)
        columns = (k_N.first // self.size, k_N.last // self.size)
        sums_HMN = torch.nn.functional.pad(self.table_HMN.long().cumsum(1).cumsum(2), (1, 0, 1, 0))
        upper, lower = rows[0][:, None], rows[1][:, None] + 1
        left, right = columns[0], columns[1] + 1
        count = sums_HMN[:, lower, right] - sums_HMN[:, upper, right]
        count = count - sums_HMN[:, lower, left] + sums_HMN[:, upper, left]
        return Bounds((count > 0)[None], (count == (lower - upper) * (right - left))[None])


def depends_on_distance(mask: Mask) -> bool:
    """Is it all the same to the mask where a query and a key are, if only they are as far apart?"""
    if isinstance(mask, Both | Either):
        return depends_on_distance(mask.one) and depends_on_distance(mask.other)
    return isinstance(mask, Full | Causal | Window | Strided)


def _some_and_all(marked_BT: Tensor, blocks: Blocks) -> tuple[Tensor, Tensor]:
    """Of the positions of each block, `[B, M]`: is some one marked, are all?"""
    sums = torch.nn.functional.pad(marked_BT.long().cumsum(1), (1, 0))
    count = sums[:, blocks.last + 1] - sums[:, blocks.first]
    return count > 0, count == blocks.last + 1 - blocks.first


def _range(ids_BT: Tensor, blocks: Blocks) -> tuple[Tensor, Tensor]:
    """The least and the greatest number in each block, `[B, M]`."""
    positions_T = torch.arange(int(blocks.first[0]), int(blocks.last[-1]) + 1, device=ids_BT.device)
    of_block_T = torch.searchsorted(blocks.first, positions_T, right=True) - 1
    index_BT = of_block_T.expand(len(ids_BT), -1)
    values_BT = ids_BT[:, positions_T]
    least = ids_BT.new_empty(len(ids_BT), len(blocks.first))
    greatest = least.clone()
    least.scatter_reduce_(1, index_BT, values_BT, "amin", include_self=False)
    greatest.scatter_reduce_(1, index_BT, values_BT, "amax", include_self=False)
    return least, greatest
