"""A few rows through the blocks of a model of the Llama family in one call: norms, attention over
paged keys, gated feed-forward, and the sums.

    blocks = NativeBlocks(library(), [Parts(...), ...])
    if blocks.takes(x, kvs):
        y = blocks(x, kvs, NativePass(batch, rotate, x.dtype))

One call and not one a block: what Python does between two of them takes a tenth of a millisecond
when the weights have just driven it out of the caches.

Shapes: N rows of the flat batch, D hidden width, G key-value heads, P blocks of C tokens, K head
width, E rotated pairs.
"""

from collections.abc import Callable, Sequence
from ctypes import addressof, c_void_p
from itertools import accumulate, chain
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from pharos.ops.native.linear import DTYPES, NativeMatrix, address_of
from pharos.ops.native.load import Library
from pharos.ops.native.structures import Block, Pass
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


class Rows(Protocol):
    """Of one sequence: its tokens at the positions `start` and after. Their keys and those of all
    tokens before stand in the blocks `table`, in order."""

    @property
    def table(self) -> Sequence[int]: ...
    @property
    def start(self) -> int: ...
    @property
    def num_tokens(self) -> int: ...


class Batch(Protocol):
    """Rows of many sequences, and in which slots their keys are stored."""

    @property
    def segments(self) -> Sequence[Rows]: ...

    slots_N: Tensor
    block_size: int


class NativePass:
    """Where the rows of a flat batch stand, as the kernels read it."""

    def __init__(self, batch: Batch, rotate: Rotation, dtype: torch.dtype) -> None:
        segments = batch.segments
        begins = accumulate((len(segment.table) for segment in segments), initial=0)
        rows = [
            (segment.start + i, begin)
            for segment, begin in zip(segments, begins, strict=False)
            for i in range(segment.num_tokens)
        ]
        positions, tables = zip(*rows, strict=True)
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


class NativeBlocks:
    """The blocks of one model. They are not copied with the module that they belong to, whose copy
    has tensors of its own."""

    def __init__(self, loaded: Library, blocks: Sequence[Parts]) -> None:
        self._library, self._kept = loaded, [(parts, _norms(parts)) for parts in blocks]
        self.structs = (Block * len(blocks))(*(_struct(*kept) for kept in self._kept))
        matrices = [matrix for parts in blocks for matrix in parts.matrices]
        self._most_rows = {
            dtype: min(matrix.most_rows(dtype) for matrix in matrices) for dtype in DTYPES
        }
        first = self.structs[0]
        self.cached = len(blocks), first.num_groups, first.head_dim

    def most_rows(self, dtype: torch.dtype) -> int:
        """As many as all of their matrices take."""
        return self._most_rows.get(dtype, 0)

    def takes(self, x_1ND: Tensor, kvs_2GPCK: Sequence[Tensor]) -> bool:
        """Whether `x` is a few rows of a flat batch, and the keys are of its type."""
        batch, num_rows, _ = x_1ND.shape
        return (
            batch == 1
            and 0 < num_rows <= self.most_rows(x_1ND.dtype)
            and x_1ND.dtype == kvs_2GPCK[0].dtype
            and x_1ND.device.type == kvs_2GPCK[0].device.type == "cpu"
            and not (x_1ND.requires_grad and torch.is_grad_enabled())
        )

    def __call__(self, x_1ND: Tensor, kvs_2GPCK: Sequence[Tensor], rows: NativePass) -> Tensor:
        """The rows after all blocks; their keys and values are stored on the way."""
        y_1ND = x_1ND.clone(memory_format=torch.contiguous_format)
        count, struct = len(self.structs), rows.struct
        _, num_groups, num_blocks, block_size, head_dim = kvs_2GPCK[0].shape
        assert (len(kvs_2GPCK), num_groups, head_dim) == self.cached, kvs_2GPCK[0].shape
        struct.num_slots = num_blocks * block_size
        kvs = (c_void_p * count)(*(kv.data_ptr() for kv in kvs_2GPCK))
        address = addressof(self.structs)
        floats = self._library.blocks_floats(address, count, struct.num_rows, struct.num_threads)
        memory = torch.empty(floats, dtype=torch.float32)
        self._library.blocks(
            address,
            count,
            addressof(struct),
            y_1ND.data_ptr(),
            addressof(kvs),
            memory.data_ptr(),
        )
        return y_1ND

    def __reduce__(self) -> tuple[Callable[[], None], tuple[()]]:
        return type(None), ()


def _norms(parts: Parts) -> list[Tensor | None]:
    norms = (parts.attention_norm, parts.mlp_norm, parts.query_norm, parts.key_norm)
    return [None if norm is None else norm.weight.detach().float() for norm in norms]


def _struct(parts: Parts, norms: Sequence[Tensor | None]) -> Block:
    matrices, width = parts.matrices, parts.head_dim
    return Block(
        *(matrix.struct for matrix in matrices),
        *map(address_of, norms),
        attention_eps=parts.attention_norm.eps,
        mlp_eps=parts.mlp_norm.eps,
        head_eps=(parts.query_norm or parts.attention_norm).eps,
        scale=width**-0.5,
        num_heads=matrices.query.num_outputs // width,
        num_groups=matrices.key.num_outputs // width,
        head_dim=width,
        look_back=-1 if parts.look_back is None else parts.look_back,
    )
