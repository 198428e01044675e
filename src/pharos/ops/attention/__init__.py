"""Scaled dot-product attention (Vaswani et al. 2017): one function over several backends.

    attention(q, k, v, mask=Causal(), bias=Alibi(heads).bias(length))

- `plain`: float32, every step written out. The twin that all others are compared with.
- `sdpa`: torch's fused kernels; a mask other than none or causal becomes a matrix.
- `tiled`: exact, tile by tile: memory grows with the length, time falls with the mask's density.
- `triton`: the same as kernels for NVIDIA GPUs; needs the triton package.

Sharing of keys and values follows from the shapes: as many heads as the queries have (multi-head),
fewer (grouped-query, Ainslie et al. 2023), or one (multi-query, Shazeer 2019).
"""

from typing import Literal, get_args

from torch import Tensor

from pharos.ops.attention.dense import is_chunk, plain_attention, sdpa_attention
from pharos.ops.attention.scoring import Scoring
from pharos.ops.attention.tiled import tiled_attention
from pharos.ops.attention.triton import can_use_triton, triton_attention
from pharos.ops.masks import Causal, Full, Mask
from pharos.ops.positions import DistanceBias

Backend = Literal["plain", "sdpa", "tiled", "triton"]

SMALL = 1 << 18  # pairs of a query and a key: up to 512 by 512, one matrix is soonest done

__all__ = ["Backend", "attention", "choose_backend"]


def attention(
    q_BHTK: Tensor,
    k_BGSK: Tensor,
    v_BGSK: Tensor,
    *,
    mask: Mask | None = None,
    bias: DistanceBias | None = None,
    scale: float | None = None,
    q_start: int | None = None,
    dropout: float = 0.0,
    backend: Backend | None = None,
) -> Tensor:
    """`softmax(scale · q kᵀ + bias) v` over the keys that `mask` allows: `[B, H, T, K]`, in q's
    dtype. A query that may look at nothing gets zeros.

    The keys stand at positions 0 to S - 1, the queries at `q_start` onwards (default: they are the
    last of the keys' positions, as with a cache). `scale` is 1 / √K unless given. `dropout` drops
    attention weights, with the `plain` and `sdpa` backends only. Without `backend` the fastest that
    can do it is taken. `ValueError` for shapes that do not fit and for what a backend cannot do.
    """
    _check_shapes(q_BHTK, k_BGSK, v_BGSK)
    mask = Full() if mask is None else mask
    scale = q_BHTK.shape[-1] ** -0.5 if scale is None else scale
    q_start = k_BGSK.shape[2] - q_BHTK.shape[2] if q_start is None else q_start
    scoring = Scoring(mask, bias, scale, q_start)
    if backend is None and not dropout and is_chunk(q_BHTK, k_BGSK, v_BGSK, scoring):
        backend = "sdpa"
    backend = backend or choose_backend(q_BHTK, k_BGSK, mask=mask, bias=bias, dropout=dropout)
    if backend == "plain":
        return plain_attention(q_BHTK, k_BGSK, v_BGSK, scoring, dropout=dropout)
    if backend == "sdpa":
        return sdpa_attention(q_BHTK, k_BGSK, v_BGSK, scoring, dropout=dropout)
    if dropout:
        raise ValueError(f"dropout {dropout} with the {backend} backend; choose plain or sdpa")
    if backend == "tiled":
        return tiled_attention(q_BHTK, k_BGSK, v_BGSK, scoring)
    if backend == "triton":
        return triton_attention(q_BHTK, k_BGSK, v_BGSK, scoring)
    raise ValueError(f"unknown backend {backend!r}; choose from {', '.join(get_args(Backend))}")


def choose_backend(
    q_BHTK: Tensor, k_BGSK: Tensor, *, mask: Mask, bias: DistanceBias | None, dropout: float
) -> Backend:
    """The fastest backend for these shapes on this device (docs/benchmarks.md)."""
    num_queries, num_keys = q_BHTK.shape[2], k_BGSK.shape[2]
    known = isinstance(mask, Full) or (isinstance(mask, Causal) and num_queries == num_keys)
    if dropout or (known and bias is None) or num_queries * num_keys <= SMALL:
        return "sdpa"
    return "triton" if q_BHTK.is_cuda and can_use_triton(q_BHTK) else "tiled"


def _check_shapes(q_BHTK: Tensor, k_BGSK: Tensor, v_BGSK: Tensor) -> None:
    shapes = f"q {tuple(q_BHTK.shape)}, k {tuple(k_BGSK.shape)}, v {tuple(v_BGSK.shape)}"
    if not q_BHTK.ndim == k_BGSK.ndim == v_BGSK.ndim == 4:
        raise ValueError(f"{shapes}: attention takes [batch, heads, length, width]")
    if k_BGSK.shape[:3] != v_BGSK.shape[:3] or q_BHTK.shape[3] != k_BGSK.shape[3]:
        raise ValueError(f"{shapes}: a value for each key, and queries as wide as keys")
    if q_BHTK.shape[0] != k_BGSK.shape[0] or q_BHTK.shape[1] % k_BGSK.shape[1]:
        raise ValueError(f"{shapes}: equal batches, and query heads a multiple of key heads")
