"""torch's fused attention, in the precision whose backward pass is fast.

On a CPU the backward pass of torch's kernel in 16 bits multiplies narrow heads at 4 GFLOP/s: with
heads of 32 it takes ten times as long as the forward pass, and a third of that in float32. So where
there is a backward pass to come and heads are narrow, it is computed in float32 (8 texts of 128
tokens, 12 heads of 32, one thread: 44 ms instead of 169, forward and backward; with heads of 64
there is no difference). With dropout torch takes another path, which has no such kernel.

Shapes: B sequences, H heads, T queries, S keys, K width of a head.
"""

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

NARROW = 64
"""Heads of fewer numbers are narrow."""


def fused_attention(
    q_BHTK: Tensor,
    k_BHSK: Tensor,
    v_BHSK: Tensor,
    *,
    matrix: Tensor | None = None,
    is_causal: bool = False,
    scale: float | None = None,
    dropout: float = 0.0,
) -> Tensor:
    """`[B, H, T, K]`, in q's dtype. `matrix`, which broadcasts to `[B, H, T, S]`, says which keys
    are seen, or is added to the scores."""
    dtype = q_BHTK.dtype
    if dropout or not _trains_narrow_heads_on_cpu(q_BHTK, k_BHSK, v_BHSK):
        return scaled_dot_product_attention(
            q_BHTK, k_BHSK, v_BHSK, matrix, dropout, is_causal, scale=scale
        )
    if matrix is not None and matrix.is_floating_point():
        matrix = matrix.float()
    with torch.autocast("cpu", enabled=False):
        out_BHTK = scaled_dot_product_attention(
            q_BHTK.float(), k_BHSK.float(), v_BHSK.float(), matrix, 0.0, is_causal, scale=scale
        )
    return out_BHTK.to(dtype)


def _trains_narrow_heads_on_cpu(*qkv: Tensor) -> bool:
    q = qkv[0]
    is_reduced = q.dtype in (torch.bfloat16, torch.float16)
    has_backward = torch.is_grad_enabled() and any(x.requires_grad for x in qkv)
    return has_backward and is_reduced and q.device.type == "cpu" and q.shape[-1] < NARROW
