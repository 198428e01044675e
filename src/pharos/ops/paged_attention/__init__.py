"""Attention over keys and values that stand in blocks (PagedAttention: Kwon et al. 2023,
arXiv:2309.06180).

A flat batch is the new tokens of many sequences, one after another. The keys and values of each
sequence, the new ones included, are in the blocks that its table names.

    batch = FlatBatch([Segment([3, 4], 9, 1), Segment([7], 0, 5)], block_size=16)
    for each layer:
        store(kv, k, v, batch)
        out = paged_attention(q, kv, batch, mask=Causal())

On a CPU the keys are read where they are (`views.py`), on a GPU by Triton kernels (`triton.py`). A
`DecodeBatch` is one whose sequences only the device knows.

The keys of a head lie together, `[2, G, P, C, K]`, and not those of a token: what is read at a time
is a head's, and a processor is much faster where that is one stretch of memory (1.6 times, with
eight heads that have keys).

Shapes: N rows of the flat batch, H query heads, G key-value heads, K head width, P blocks of C
tokens, S = P·C.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from pharos.ops.attention import attention
from pharos.ops.attention.triton import can_use_triton
from pharos.ops.masks import Both, Causal, Mask, Window
from pharos.ops.paged_attention.decode_batch import DecodeBatch, attend_gathered
from pharos.ops.paged_attention.flat_batch import FlatBatch, Segment
from pharos.ops.paged_attention.triton import attend_with_triton
from pharos.ops.paged_attention.views import attend_in_place
from pharos.ops.positions import DistanceBias

__all__ = [
    "DecodeBatch",
    "FlatBatch",
    "Segment",
    "look_back",
    "paged_attention",
    "plain_paged_attention",
    "store",
]


def store(kv_2GPCK: Tensor, k_GNK: Tensor, v_GNK: Tensor, batch: FlatBatch | DecodeBatch) -> None:
    """Put the keys and values of a flat batch where its sequences' tables say."""
    kv_2GSK = kv_2GPCK.flatten(2, 3)
    kv_2GSK[0].index_copy_(1, batch.slots_N, k_GNK)
    kv_2GSK[1].index_copy_(1, batch.slots_N, v_GNK)


def paged_attention(
    q_NHK: Tensor,
    kv_2GPCK: Tensor,
    batch: FlatBatch | DecodeBatch,
    *,
    mask: Mask,
    bias: DistanceBias | None = None,
    scale: float | None = None,
) -> Tensor:
    """Each row over the stored keys of its own sequence, `[N, H, K]`. Mask and bias go by the
    tokens' positions in their sequence. Raises ValueError for a mask that lets a token see later
    ones, or is not a window."""
    reach = look_back(mask)
    if q_NHK.is_cuda and can_use_triton(q_NHK[None]):
        return attend_with_triton(q_NHK, kv_2GPCK, batch, look_back=reach, bias=bias, scale=scale)
    if isinstance(batch, DecodeBatch):
        return attend_gathered(q_NHK, kv_2GPCK, batch, look_back=reach, bias=bias, scale=scale)
    return attend_in_place(q_NHK, kv_2GPCK, batch, look_back=reach, bias=bias, scale=scale)


def plain_paged_attention(
    q_NHK: Tensor,
    kv_2GPCK: Tensor,
    batch: FlatBatch,
    *,
    mask: Mask,
    bias: DistanceBias | None = None,
    scale: float | None = None,
) -> Tensor:
    """The twin: one sequence after another, all of its blocks gathered, in float32."""
    outputs, row = [], 0
    for segment in batch.segments:
        blocks = torch.tensor(list(segment.table), device=q_NHK.device)
        k_1GSK, v_1GSK = (
            x[:, :, : segment.stop] for x in kv_2GPCK[:, :, blocks].flatten(2, 3)[:, None]
        )
        q_1HTK = q_NHK[row : row + segment.num_tokens].transpose(0, 1)[None]
        out_1HTK = attention(
            q_1HTK, k_1GSK, v_1GSK, mask=mask, bias=bias, scale=scale, backend="plain"
        )
        outputs.append(out_1HTK[0].transpose(0, 1))
        row += segment.num_tokens
    return torch.cat(outputs)


def look_back(mask: Mask) -> int | None:
    """How many tokens before itself a token sees by this mask: None if there is no limit. Raises
    ValueError for a mask that is not causal, or more than a window."""
    parts = list(_conditions(mask))
    if Causal() not in parts or not all(isinstance(part, Causal | Window) for part in parts):
        raise ValueError(
            f"keys in blocks are read with {mask}; choose Causal(), or Causal() & Window(left=...)"
        )
    return min((part.left for part in parts if isinstance(part, Window)), default=None)


def _conditions(mask: Mask) -> Iterator[Mask]:
    if isinstance(mask, Both):
        yield from _conditions(mask.one)
        yield from _conditions(mask.other)
    else:
        yield mask
