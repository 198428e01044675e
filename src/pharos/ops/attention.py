"""Attention within each text of a packed batch (see `pharos.ops.packing`).

Shapes: N tokens of the batch, B texts of a run, T tokens of each, H heads, K width of a head.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from pharos.ops.packing import Run


def packed_attention(qkv_N3HK: Tensor, runs: Sequence[Run]) -> Tensor:
    """Scaled dot-product attention, every token of a text to every token of it: `[N, H, K]`.

    A run is a dense batch, so neither padding nor a mask exists.
    """
    outputs = []
    for run in runs:
        qkv_3BHTK = qkv_N3HK[run.rows].unflatten(0, (run.count, run.length)).permute(2, 0, 3, 1, 4)
        out_BHTK = F.scaled_dot_product_attention(qkv_3BHTK[0], qkv_3BHTK[1], qkv_3BHTK[2])
        outputs.append(out_BHTK.transpose(1, 2).flatten(0, 1))
    return outputs[0] if len(outputs) == 1 else torch.cat(outputs)


def plain_packed_attention(qkv_N3HK: Tensor, runs: Sequence[Run]) -> Tensor:
    """The twin: one text at a time, `softmax(q kᵀ / √K) v` in float32."""
    outputs = []
    for run in runs:
        for qkv_T3HK in qkv_N3HK[run.rows].float().split(run.length):
            q_HTK, k_HTK, v_HTK = qkv_T3HK.permute(1, 2, 0, 3)
            weights_HTT = (q_HTK @ k_HTK.mT / q_HTK.shape[-1] ** 0.5).softmax(dim=-1)
            outputs.append((weights_HTT @ v_HTK).transpose(0, 1))
    return torch.cat(outputs).to(qkv_N3HK.dtype)
