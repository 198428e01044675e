"""Tensor functions, each a fast version with a plain twin beside it."""

from pharos.ops.attention import packed_attention, plain_packed_attention
from pharos.ops.packing import Run, mean_pool, runs_of

__all__ = ["Run", "mean_pool", "packed_attention", "plain_packed_attention", "runs_of"]
