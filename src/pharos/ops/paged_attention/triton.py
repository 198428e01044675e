"""Paged attention on a GPU, by our own Triton kernels (`triton_kernels.py`).

Sequences with few rows (those that are being written, with their drafts) have their keys split
among programs; the others are prompts, of which a program takes a tile of rows over all keys.

Shapes: N rows of the flat batch, H query heads, G key-value heads (R = H / G queries share one),
K head width, P blocks of C tokens, B sequences, M blocks of one, J tasks.
"""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pharos.ops.paged_attention.decode_batch import DecodeBatch
from pharos.ops.paged_attention.flat_batch import FlatBatch
from pharos.ops.positions import DistanceBias

LOG2_E = math.log2(math.e)
FEW_ROWS, MANY_ROWS = 16, 64
"""Of a tile of queries, the heads that share a key counted each."""
SPLIT = 256
"""Keys of a program where they are split: the same for all, so that a text does not depend on its
neighbours."""


class _Tasks(NamedTuple):
    """Tiles of `rows` rows each: of which sequence, from which row, how many tokens, from which
    position. `longest` is the longest sequence among them."""

    tasks_J4: Tensor
    rows: int
    longest: int


class _Tiling(NamedTuple):
    """What the kernels are told of a batch: tasks that are split, tasks that are not, tables."""

    split: _Tasks | None
    whole: _Tasks | None
    blocks_BM: Tensor


def attend_with_triton(
    q_NHK: Tensor,
    kv_2GPCK: Tensor,
    batch: FlatBatch | DecodeBatch,
    *,
    look_back: int | None,
    bias: DistanceBias | None,
    scale: float | None,
) -> Tensor:
    """Each row over the stored keys of its own sequence, `[N, H, K]`; of those before it over
    `look_back` (None: all)."""
    shared = q_NHK.shape[1] // kv_2GPCK.shape[1]
    tiling = _tiling_of(batch, shared)
    call = _Call(q_NHK.contiguous(), kv_2GPCK, batch.block_size, look_back, bias, scale)
    if tiling.split is not None:
        call.attend_in_splits(tiling.split, tiling.blocks_BM)
    if tiling.whole is not None:
        call.attend(tiling.whole, tiling.blocks_BM)
    return call.out_NHK


class _Call:
    """What the kernels are told alike."""

    def __init__(
        self,
        q_NHK: Tensor,
        kv_2GPCK: Tensor,
        block_size: int,
        look_back: int | None,
        bias: DistanceBias | None,
        scale: float | None,
    ) -> None:
        from pharos.ops.paged_attention import triton_kernels

        self.kernels: Any = triton_kernels
        self.q_NHK, self.out_NHK = q_NHK, torch.empty_like(q_NHK)
        self.k_GPCK, self.v_GPCK = kv_2GPCK
        heads, width = q_NHK.shape[1:]
        self.groups = kv_2GPCK.shape[1]
        scale = width**-0.5 if scale is None else scale
        self.sizes = self.kernels.Sizes(
            heads,
            self.groups,
            heads // self.groups,
            width,
            kv_2GPCK[0, 0].numel() // width,
            -1 if look_back is None else look_back,
            scale * LOG2_E,
        )
        self.bias = None
        if bias is not None:
            table_HR = (bias.values_HR.expand(heads, -1).float() * LOG2_E).contiguous()
            self.bias = self.kernels.Bias(table_HR, bias.zero, table_HR.shape[1])
        self.block_size = block_size
        self.width = _padded(width)
        self.keys_in_tile = 64 if self.width <= 64 or q_NHK.element_size() == 2 else 32

    def attend(self, tasks: _Tasks, blocks_BM: Tensor) -> None:
        self._launch(tasks, blocks_BM, num_splits=1, split=0, parts=None)

    def attend_in_splits(self, tasks: _Tasks, blocks_BM: Tensor) -> None:
        """If one split has all keys of the longest sequence, there is nothing to combine."""
        num_splits = -(-tasks.longest // SPLIT)
        if num_splits == 1:
            return self.attend(tasks, blocks_BM)
        shape = (len(tasks.tasks_J4), self.groups, num_splits, tasks.rows)
        like = self.q_NHK.new_empty(0, dtype=torch.float32)
        parts = self.kernels.Parts(
            like.new_empty(*shape, self.width), like.new_empty(shape), like.new_empty(shape)
        )
        self._launch(tasks, blocks_BM, num_splits=num_splits, split=SPLIT, parts=parts)
        self.kernels.combine_kernel[len(tasks.tasks_J4), self.groups](
            self.out_NHK,
            parts,
            self.sizes,
            self._tables(tasks, blocks_BM),
            num_splits,
            X=tasks.rows,
            W=self.width,
            SPLIT=SPLIT,
        )
        return None

    def _launch(
        self, tasks: _Tasks, blocks_BM: Tensor, *, num_splits: int, split: int, parts: Any
    ) -> None:
        self.kernels.attend_kernel[len(tasks.tasks_J4), self.groups, num_splits](
            self.q_NHK,
            self.k_GPCK,
            self.v_GPCK,
            self.out_NHK,
            parts,
            self.sizes,
            self._tables(tasks, blocks_BM),
            self.bias,
            X=tasks.rows,
            C=self.keys_in_tile,
            W=self.width,
            SPLIT=split,
            BLOCK=self.block_size,
            DOT="tf32x3",  # float32 as three products of the matrix units; no matter to the others
            num_warps=4,
            num_stages=2,
        )

    def _tables(self, tasks: _Tasks, blocks_BM: Tensor) -> Any:
        return self.kernels.Tables(tasks.tasks_J4, blocks_BM, blocks_BM.stride(0))


def decode_bytes(num_rows: int, longest: int, *, heads: int, groups: int, width: int) -> int:
    """What the splits of a `DecodeBatch` take while they are computed: room for as many as its
    longest sequence can have, in float32."""
    numbers = _few(heads // groups) * (_padded(width) + 2)
    return num_rows * groups * -(-longest // SPLIT) * numbers * 4


def _tiling_of(batch: FlatBatch | DecodeBatch, shared: int) -> _Tiling:
    if isinstance(batch, DecodeBatch):
        tasks = _Tasks(batch.tasks_N4, _few(shared), batch.longest)
        return _Tiling(tasks, None, batch.blocks_NM)
    return batch.once(("triton", shared), lambda: _tiling(batch, shared))


def _tiling(batch: FlatBatch, shared: int) -> _Tiling:
    few, many = _few(shared), max(MANY_ROWS, _power_of_two(shared))
    split: list[tuple[int, int, int, int]] = []
    whole: list[tuple[int, int, int, int]] = []
    row = 0
    for i, segment in enumerate(batch.segments):
        is_few = segment.num_tokens * shared <= few
        tokens = (few if is_few else many) // shared
        for start in range(0, segment.num_tokens, tokens):
            count = min(tokens, segment.num_tokens - start)
            (split if is_few else whole).append((i, row + start, count, segment.start + start))
        row += segment.num_tokens
    most = max(len(segment.table) for segment in batch.segments)
    blocks = [[*s.table, *[0] * (most - len(s.table))] for s in batch.segments]
    blocks_BM = torch.tensor(blocks, dtype=torch.int32, device=batch.device)
    return _Tiling(_tasks(split, few, batch), _tasks(whole, many, batch), blocks_BM)


def _tasks(tasks: list[tuple[int, int, int, int]], rows: int, batch: FlatBatch) -> _Tasks | None:
    if not tasks:
        return None
    longest = max(position + count for _, _, count, position in tasks)
    return _Tasks(torch.tensor(tasks, dtype=torch.int32, device=batch.device), rows, longest)


def _few(shared: int) -> int:
    """Rows of a tile where keys are split: at least those of one token."""
    return max(FEW_ROWS, _power_of_two(shared))


def _padded(width: int) -> int:
    """Of a head, as the matrix units take it."""
    return max(_power_of_two(width), 16)


def _power_of_two(count: int) -> int:
    return 1 << (count - 1).bit_length()
