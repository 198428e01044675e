"""Attention that looks at every pair of a query and a key: the plain twin, and torch's kernels.

Shapes: B sequences, H query heads, G key-value heads (H a multiple of G), T queries, S keys, K
width of a head.
"""

import torch
from torch import Tensor

from pharos.ops.attention.chunk import can_chunk, chunk_attention
from pharos.ops.attention.fused import fused_attention
from pharos.ops.attention.scoring import Scoring
from pharos.ops.masks import Causal, Full, Mask


def plain_attention(
    q_BHTK: Tensor,
    k_BGSK: Tensor,
    v_BGSK: Tensor,
    scoring: Scoring,
    *,
    dropout: float = 0.0,
) -> Tensor:
    """`softmax(scale · q kᵀ + bias) v` in float32, written out. A query that may look at nothing
    gets zeros."""
    mask, bias, scale, _ = scoring
    heads_per_group = q_BHTK.shape[1] // k_BGSK.shape[1]
    k_BHSK = k_BGSK.float().repeat_interleave(heads_per_group, dim=1)
    v_BHSK = v_BGSK.float().repeat_interleave(heads_per_group, dim=1)
    scores_BHTS = scale * q_BHTK.float() @ k_BHSK.mT
    q_T, k_S = scoring.positions(q_BHTK, k_BGSK)
    if bias is not None:
        scores_BHTS = scores_BHTS + bias.tile(q_T, k_S).float()
    allowed = mask.allows(q_T, k_S)
    shares_BHTS = scores_BHTS.masked_fill(~allowed, float("-inf")).softmax(dim=-1)
    shares_BHTS = shares_BHTS.masked_fill(~allowed, 0.0)
    shares_BHTS = torch.dropout(shares_BHTS, dropout, train=True)
    return (shares_BHTS @ v_BHSK).to(q_BHTK.dtype)


def sdpa_attention(
    q_BHTK: Tensor,
    k_BGSK: Tensor,
    v_BGSK: Tensor,
    scoring: Scoring,
    *,
    dropout: float = 0.0,
) -> Tensor:
    """torch's fused kernels. A mask other than none or causal is handed over as a matrix."""
    mask, bias, scale, q_start = scoring
    if bias is None and _sees_all(mask, q_BHTK.shape[2], k_BGSK.shape[2], q_start):
        return _shared(q_BHTK, k_BGSK, v_BGSK, None, scale, dropout)
    if bias is None and isinstance(mask, Causal) and q_start == 0:
        k_BHSK, v_BHSK = _every_head(k_BGSK, q_BHTK), _every_head(v_BGSK, q_BHTK)
        return fused_attention(q_BHTK, k_BHSK, v_BHSK, is_causal=True, scale=scale, dropout=dropout)
    if is_chunk(q_BHTK, k_BGSK, v_BGSK, scoring) and not dropout:
        return chunk_attention(q_BHTK, k_BGSK, v_BGSK, scale=scale)
    q_T, k_S = scoring.positions(q_BHTK, k_BGSK)
    allowed = matrix = mask.allows(q_T, k_S)
    if bias is not None:
        bias_HTS = bias.tile(q_T, k_S).to(q_BHTK.dtype)
        matrix = bias_HTS.where(allowed, float("-inf"))
    if q_BHTK.shape[2] == 1 and matrix.shape[1] == 1:
        out_BHTK = _shared(q_BHTK, k_BGSK, v_BGSK, matrix, scale, dropout)
    else:
        k_BHSK, v_BHSK = _every_head(k_BGSK, q_BHTK), _every_head(v_BGSK, q_BHTK)
        out_BHTK = fused_attention(
            q_BHTK, k_BHSK, v_BHSK, matrix=matrix, scale=scale, dropout=dropout
        )
    return out_BHTK.masked_fill(~allowed.any(dim=-1, keepdim=True), 0.0)


def is_chunk(q_BHTK: Tensor, k_BGSK: Tensor, v_BGSK: Tensor, scoring: Scoring) -> bool:
    """Whether the queries are a text's next chunk, causally masked, and no matrix is needed."""
    is_last = scoring.q_start == k_BGSK.shape[2] - q_BHTK.shape[2] > 0
    is_plain = isinstance(scoring.mask, Causal) and scoring.bias is None
    return is_last and is_plain and can_chunk(q_BHTK, k_BGSK, v_BGSK)


def _sees_all(mask: Mask, num_queries: int, num_keys: int, q_start: int) -> bool:
    return isinstance(mask, Full) or (
        isinstance(mask, Causal) and num_queries == 1 and q_start == num_keys - 1
    )


def _shared(
    q_BHTK: Tensor,
    k_BGSK: Tensor,
    v_BGSK: Tensor,
    matrix_B11S: Tensor | None,
    scale: float,
    dropout: float,
) -> Tensor:
    """Where all queries see the same keys, the heads that share keys are but more queries of one
    head: nothing is copied."""
    groups, length, width = k_BGSK.shape[1], q_BHTK.shape[2], q_BHTK.shape[3]
    q_BGRK = q_BHTK.reshape(len(q_BHTK), groups, -1, width)
    out_BGRK = fused_attention(
        q_BGRK, k_BGSK, v_BGSK, matrix=matrix_B11S, scale=scale, dropout=dropout
    )
    return out_BGRK.view(len(q_BHTK), -1, length, v_BGSK.shape[3])


def _every_head(x_BGSK: Tensor, q_BHTK: Tensor) -> Tensor:
    """Keys or values, repeated so that each query head has its own; a view if nothing is shared."""
    heads, groups = q_BHTK.shape[1], x_BGSK.shape[1]
    return x_BGSK if heads == groups else x_BGSK.repeat_interleave(heads // groups, dim=1)
