"""Tensor functions, each a fast version with a plain twin beside it."""

from pharos.ops.linear import (
    can_pack,
    multiplies_bf16,
    pack_weight,
    packed_linear,
    plain_linear,
)
from pharos.ops.packed_attention import packed_attention, plain_packed_attention
from pharos.ops.packing import Packed, Run, mean_pool, pack

__all__ = [
    "Packed",
    "Run",
    "can_pack",
    "mean_pool",
    "multiplies_bf16",
    "pack",
    "pack_weight",
    "packed_attention",
    "packed_linear",
    "plain_linear",
    "plain_packed_attention",
]
