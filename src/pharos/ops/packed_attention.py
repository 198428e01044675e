"""Attention within each text of a packed batch (see `pharos.ops.packing`).

Shapes: N rows of the batch, B texts of a run, T rows of each, H heads, K width of a head.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from pharos.ops.attention.fused import fused_attention
from pharos.ops.packing import Run


def packed_attention(qkv_N3HK: Tensor, runs: Sequence[Run], *, dropout: float = 0.0) -> Tensor:
    """Scaled dot-product attention, every row of a text to every token of it: `[N, H, K]`.
    `dropout` is the share of the weights that are dropped."""
    heads_HK = qkv_N3HK.shape[2:]
    outputs = []
    # Slices would do, but the gradient of each is as large as the batch.
    for run, qkv_M3HK in zip(
        runs, qkv_N3HK.split_with_sizes([run.num_rows for run in runs]), strict=True
    ):
        qkv_BT3HK = qkv_M3HK.view(run.texts, run.length, 3, *heads_HK)
        q_BHTK, k_BHTK, v_BHTK = qkv_BT3HK.permute(2, 0, 3, 1, 4)
        mask_B11T = None if run.mask is None else run.mask[:, None, None, :]
        out_BHTK = fused_attention(q_BHTK, k_BHTK, v_BHTK, matrix=mask_B11T, dropout=dropout)
        outputs.append(out_BHTK.transpose(1, 2).flatten(0, 1))
    return outputs[0] if len(outputs) == 1 else torch.cat(outputs)


def plain_packed_attention(qkv_N3HK: Tensor, runs: Sequence[Run]) -> Tensor:
    """The twin: one text at a time, `softmax(q kᵀ / √K) v` in float32."""
    outputs = []
    for run in runs:
        qkv_BT3HK = qkv_N3HK[run.rows].float().view(run.texts, run.length, *qkv_N3HK.shape[1:])
        for text, qkv_T3HK in enumerate(qkv_BT3HK):
            q_HTK, k_HTK, v_HTK = qkv_T3HK.permute(1, 2, 0, 3)
            scores_HTT = q_HTK @ k_HTK.mT / q_HTK.shape[-1] ** 0.5
            if run.mask is not None:
                scores_HTT = scores_HTT.where(run.mask[text], float("-inf"))
            outputs.append((scores_HTT.softmax(dim=-1) @ v_HTK).transpose(0, 1))
    return torch.cat(outputs).to(qkv_N3HK.dtype)
