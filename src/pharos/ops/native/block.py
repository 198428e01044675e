"""A few rows through a whole block of the Llama family: norms, attention over paged keys, gated
feed-forward, and both sums.

    block = NativeBlock(parts)
    rows = NativePass.of(batch, rotate, dtype)     # once for all blocks of a pass
    y = block(x, kv, rows)

Shapes: N rows of the flat batch, D hidden width, G key-value heads, P blocks of C tokens, K head
width, E rotated pairs.
"""

from collections.abc import Callable
from ctypes import addressof
from itertools import accumulate, chain
from typing import NamedTuple

import torch
from torch import Tensor

from pharos.ops.native.linear import DTYPES, MOST_ROWS, NativeMatrix, address_of
from pharos.ops.native.load import Library
from pharos.ops.native.structures import Block, Pass
from pharos.ops.paged_attention.flat_batch import FlatBatch
from pharos.ops.positions import Rotation


class Norm(NamedTuple):
    weight: Tensor
    eps: float


class Matrices(NamedTuple):
    """Of a block, in the order of the kernels."""

    query: NativeMatrix
    key: NativeMatrix
    value: NativeMatrix
    out: NativeMatrix
    gate: NativeMatrix
    up: NativeMatrix
    down: NativeMatrix


class Parts(NamedTuple):
    """Of a block. `query_norm` and `key_norm` are over each head, if there are any; `look_back` is
    how many tokens before itself a token sees (None: all)."""

    matrices: Matrices
    attention_norm: Norm
    mlp_norm: Norm
    query_norm: Norm | None
    key_norm: Norm | None
    head_dim: int
    look_back: int | None


class NativePass:
    """Where the rows of a flat batch stand, as the kernels read it."""

    def __init__(self, batch: FlatBatch, rotate: Rotation, dtype: torch.dtype) -> None:
        segments = batch.segments
        begins = accumulate((len(segment.table) for segment in segments), initial=0)
        rows = [
            (segment.start + i, begin)
            for segment, begin in zip(segments, begins, strict=False)
            for i in range(segment.num_tokens)
        ]
        positions, tables = zip(*rows, strict=True)
        self.rotate = rotate
        self._kept = (
            torch.tensor(positions),
            batch.slots_N,
            torch.tensor(tables),
            torch.tensor(list(chain.from_iterable(segment.table for segment in segments))),
            rotate.cos.to(dtype).contiguous(),
            rotate.sin.to(dtype).contiguous(),
        )
        self.struct = Pass(
            *map(address_of, self._kept),
            num_rows=len(rows),
            num_pairs=rotate.cos.shape[-1],
            block_size=batch.block_size,
            dtype=DTYPES[dtype],
            num_threads=torch.get_num_threads(),
        )
        self.address = addressof(self.struct)
        self._memory = torch.empty(0)

    @classmethod
    def of(cls, batch: FlatBatch, rotate: Rotation, dtype: torch.dtype) -> "NativePass":
        """The same for all blocks that ask with this rotation, as those of a pass do."""
        return batch.once(("native", id(rotate), dtype), lambda: cls(batch, rotate, dtype))

    def memory(self, floats: int) -> int:
        """The address of so much memory to compute in."""
        if self._memory.numel() < floats:
            self._memory = torch.empty(floats)
        return self._memory.data_ptr()


class NativeBlock:
    """It is not copied with the module that it belongs to, whose copy has tensors of its own."""

    def __init__(self, loaded: Library, parts: Parts) -> None:
        self._library, self._parts = loaded, parts
        norms = (parts.attention_norm, parts.mlp_norm, parts.query_norm, parts.key_norm)
        self._norms = [None if norm is None else norm.weight.detach().float() for norm in norms]
        matrices, width = parts.matrices, parts.head_dim
        head_norm = parts.query_norm or parts.attention_norm
        self.struct = Block(
            *(matrix.struct for matrix in matrices),
            *map(address_of, self._norms),
            attention_eps=parts.attention_norm.eps,
            mlp_eps=parts.mlp_norm.eps,
            head_eps=head_norm.eps,
            scale=width**-0.5,
            num_heads=matrices.query.num_outputs // width,
            num_groups=matrices.key.num_outputs // width,
            head_dim=width,
            look_back=-1 if parts.look_back is None else parts.look_back,
        )
        self.address = addressof(self.struct)
        self.num_groups = matrices.key.num_outputs // width

    def takes(self, x_1ND: Tensor, kv_2GPCK: Tensor) -> bool:
        """Whether `x` is one to eight rows of a flat batch, and the keys are of its type."""
        batch, num_rows, _ = x_1ND.shape
        return (
            batch == 1
            and 0 < num_rows <= MOST_ROWS
            and x_1ND.dtype in DTYPES
            and x_1ND.dtype == kv_2GPCK.dtype
            and kv_2GPCK.device.type == "cpu"
            and not (x_1ND.requires_grad and torch.is_grad_enabled())
        )

    def __call__(self, x_1ND: Tensor, kv_2GPCK: Tensor, rows: NativePass) -> Tensor:
        """The rows after the block; their keys and values are stored on the way."""
        shape = kv_2GPCK.shape
        assert shape[1] == self.num_groups and shape[4] == self._parts.head_dim, shape
        assert kv_2GPCK.is_contiguous()
        x_1ND = x_1ND.contiguous()
        y_1ND = torch.empty_like(x_1ND)
        struct = rows.struct
        struct.num_slots = shape[2] * shape[3]
        floats = self._library.block_floats(self.address, struct.num_rows, struct.num_threads)
        self._library.block(
            self.address,
            rows.address,
            x_1ND.data_ptr(),
            kv_2GPCK.data_ptr(),
            y_1ND.data_ptr(),
            rows.memory(floats),
        )
        return y_1ND

    def __reduce__(self) -> tuple[Callable[[], None], tuple[()]]:
        return type(None), ()
