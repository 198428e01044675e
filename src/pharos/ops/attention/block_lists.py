"""A mask as lists of blocks, for kernels that visit one after the other: which blocks of keys each
block of queries meets, and the reverse; and of the blocks that the mask cuts through, the pairs
that it allows.

Shapes: B sequences and H heads (1 where all are alike), M blocks of Q queries by N blocks of C
keys, X different masks of a block.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from pharos.ops.attention.tiles import FULL, PARTIAL, kinds_of_blocks
from pharos.ops.masks import Blocks, Mask, depends_on_distance


class BlockLists(NamedTuple):
    """Row r meets the full blocks `full_blocks[full_starts[r] : full_starts[r + 1]]`, likewise the
    partial ones, whose allowed pairs are `masks_XQC[partial_tiles[...]]`. The rows of all heads of
    all sequences follow each other."""

    full_starts: Tensor
    full_blocks: Tensor
    partial_starts: Tensor
    partial_blocks: Tensor
    partial_tiles: Tensor


class BlockPlan(NamedTuple):
    """`of_queries` has a row for each block of queries, `of_keys` one for each block of keys."""

    of_queries: BlockLists
    of_keys: BlockLists
    masks_XQC: Tensor
    num_sequences: int
    num_heads: int


@dataclass(frozen=True, slots=True)
class Grid:
    """All pairs of queries and keys, in blocks of Q by C."""

    q_start: int
    num_queries: int
    num_keys: int
    block: tuple[int, int]
    device: torch.device

    @property
    def query_blocks(self) -> Blocks:
        stop = self.q_start + self.num_queries
        return Blocks.of(self.q_start, stop, self.block[0], self.device)

    @property
    def key_blocks(self) -> Blocks:
        return Blocks.of(0, self.num_keys, self.block[1], self.device)


def plan_blocks(mask: Mask, grid: Grid) -> BlockPlan:
    """The blocks that the mask leaves. A last block of keys that is not whole counts as partial."""
    q_M, k_N = grid.query_blocks, grid.key_blocks
    kinds = kinds_of_blocks(mask, q_M, k_N)
    kinds_BHMN = kinds.expand(-1, -1, len(q_M.first), len(k_N.first)).clone()
    if depends_on_distance(mask):
        masks_XQC, tiles_BHMN = _masks_by_distance(mask, kinds_BHMN == PARTIAL, grid)
    else:
        masks_XQC, tiles_BHMN = _masks_row_by_row(mask, kinds_BHMN == PARTIAL, grid)
    if grid.num_keys % grid.block[1]:
        kinds_BHMN[..., -1].clamp_(max=PARTIAL)
    of_queries, of_keys = _lists(kinds_BHMN, tiles_BHMN), _lists(kinds_BHMN.mT, tiles_BHMN.mT)
    return BlockPlan(of_queries, of_keys, masks_XQC, *kinds_BHMN.shape[:2])


def _lists(kinds_BHMN: Tensor, tiles_BHMN: Tensor) -> BlockLists:
    full_BHMN, partial_BHMN = kinds_BHMN == FULL, kinds_BHMN == PARTIAL
    return BlockLists(
        *_starts_and_blocks(full_BHMN),
        *_starts_and_blocks(partial_BHMN),
        tiles_BHMN[partial_BHMN].contiguous(),
    )


def _starts_and_blocks(chosen_BHMN: Tensor) -> tuple[Tensor, Tensor]:
    counts = chosen_BHMN.sum(-1, dtype=torch.int32).flatten()
    starts = pad(counts.cumsum(0, dtype=torch.int32), (1, 0))
    return starts, chosen_BHMN.nonzero()[:, 3].to(torch.int32)


# The masks of the partial blocks. The first one allows everything: it is that of a block which is
# only partial because the keys end in it.


def _masks_by_distance(mask: Mask, partial_BHMN: Tensor, grid: Grid) -> tuple[Tensor, Tensor]:
    """Blocks equally far apart have the same mask."""
    apart_MN = grid.query_blocks.first[:, None] - grid.key_blocks.first
    apart_P = apart_MN[partial_BHMN[0, 0]]
    apart_X, place_P = torch.unique(apart_P, return_inverse=True)
    q_XQ = apart_X[:, None] + torch.arange(grid.block[0], device=grid.device)
    k_C = torch.arange(grid.block[1], device=grid.device)
    masks_XQC = mask.allows(q_XQ.flatten(), k_C).view(-1, *grid.block)
    tiles_BHMN = torch.zeros_like(partial_BHMN, dtype=torch.int32)
    tiles_BHMN[partial_BHMN] = place_P.to(torch.int32) + 1
    return _after_one_that_allows_all(masks_XQC), tiles_BHMN


def _masks_row_by_row(mask: Mask, partial_BHMN: Tensor, grid: Grid) -> tuple[Tensor, Tensor]:
    """One question for the partial blocks of each block of queries."""
    tiles_BHMN = torch.zeros_like(partial_BHMN, dtype=torch.int32)
    tiles_BHMN[partial_BHMN] = 1
    masks = [torch.ones(0, *grid.block, dtype=torch.bool, device=grid.device)]
    num_masks = 1
    for row in partial_BHMN.any(-1).any(0).any(0).nonzero().flatten().tolist():
        partial_BHN = partial_BHMN[:, :, row]
        columns_L = partial_BHN.any(0).any(0).nonzero().flatten()
        allowed_BHLQC = _allowed(mask, row, columns_L, grid)
        shape = (*partial_BHN.shape[:2], -1, -1, -1)
        masks.append(allowed_BHLQC.expand(shape)[partial_BHN[..., columns_L]])
        places = torch.arange(len(masks[-1]), device=grid.device, dtype=torch.int32)
        tiles_BHMN[:, :, row][partial_BHN] = places + num_masks
        num_masks += len(places)
    return _after_one_that_allows_all(torch.cat(masks)), tiles_BHMN


def _allowed(mask: Mask, row: int, columns_L: Tensor, grid: Grid) -> Tensor:
    """Of a row of blocks those in these columns, `[B | 1, H | 1, L, Q, C]`. Beyond the last query
    and the last key it says what those say."""
    queries, keys = grid.block
    q_Q = grid.q_start + row * queries + torch.arange(queries, device=grid.device)
    k_LC = columns_L[:, None] * keys + torch.arange(keys, device=grid.device)
    q_Q = q_Q.clamp(max=grid.q_start + grid.num_queries - 1)
    allowed = mask.allows(q_Q, k_LC.clamp(max=grid.num_keys - 1).flatten())
    return allowed.view(*allowed.shape[:3], len(columns_L), keys).transpose(2, 3)


def _after_one_that_allows_all(masks_XQC: Tensor) -> Tensor:
    return pad(masks_XQC.to(torch.uint8), (0, 0, 0, 0, 1, 0), value=1)
