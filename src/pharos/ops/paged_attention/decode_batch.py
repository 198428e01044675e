"""A flat batch that the host knows nothing of: the newest token of each of many sequences.

A `FlatBatch` is planned on the host, from lists, anew for each pass. A pass that is recorded as a
CUDA graph has one plan for ever, and what differs is in tensors: where each token stands, and its
sequence's blocks. All else follows from these on the device, in the same few operations for any
sequences.

Shapes: N sequences, M blocks of one, H query heads, G key-value heads (R = H / G queries share
one), K head width, P blocks of C tokens in all, S = M·C keys.
"""

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from pharos.ops.positions import DistanceBias


class DecodeBatch:
    """Row n is the token at `positions_N[n]` (int64) of a sequence whose keys, and its own, stand
    in the blocks `blocks_NM[n]` (int32), in order. What follows the block of the token may be any
    blocks: they are not looked at."""

    def __init__(self, positions_N: Tensor, blocks_NM: Tensor, *, block_size: int) -> None:
        self.positions_N, self.blocks_NM, self.block_size = positions_N, blocks_NM, block_size
        self.longest = blocks_NM.shape[1] * block_size
        block_N = blocks_NM.gather(1, (positions_N // block_size)[:, None])[:, 0]
        self.slots_N = block_N * block_size + positions_N % block_size
        numbers_N = torch.arange(len(positions_N), device=positions_N.device)
        parts = (numbers_N, numbers_N, torch.ones_like(numbers_N), positions_N)
        self.tasks_N4 = torch.stack(parts, dim=1).int()
        """As the kernels are told: its sequence, its first row, how many rows, from which position
        (`triton_kernels.Tables`)."""


def attend_gathered(
    q_NHK: Tensor,
    kv_2GPCK: Tensor,
    batch: DecodeBatch,
    *,
    look_back: int | None,
    bias: DistanceBias | None,
    scale: float | None,
) -> Tensor:
    """The twin of the kernels: all blocks are gathered, and what a row may not see, or nobody has
    written, is left out of its scores. `[N, H, K]`."""
    keys_S = torch.arange(batch.longest, device=q_NHK.device)
    behind_NS = batch.positions_N[:, None] - keys_S
    allowed_NS = behind_NS >= 0
    if look_back is not None:
        allowed_NS &= behind_NS <= look_back
    within_C = torch.arange(batch.block_size, device=q_NHK.device)
    slots_NS = (batch.blocks_NM[..., None] * batch.block_size + within_C).flatten(1)
    k_NGSK, v_NGSK = (
        x_GSK[:, slots_NS].masked_fill(~allowed_NS[..., None], 0.0).transpose(0, 1)
        for x_GSK in kv_2GPCK.flatten(2, 3)
    )
    q_NGRK = q_NHK.view(len(q_NHK), kv_2GPCK.shape[1], -1, q_NHK.shape[2])
    mask = allowed_NS[:, None, None]
    if bias is not None:
        entries_NS = (bias.zero - behind_NS).clamp(0, bias.values_HR.shape[1] - 1)
        added_NHS = bias.values_HR.expand(q_NHK.shape[1], -1)[:, entries_NS].transpose(0, 1)
        added_NGRS = added_NHS.to(q_NHK.dtype).reshape(*q_NGRK.shape[:3], -1)
        mask = added_NGRS.masked_fill(~mask, float("-inf"))
    out_NGRK = scaled_dot_product_attention(q_NGRK, k_NGSK, v_NGSK, attn_mask=mask, scale=scale)
    return out_NGRK.flatten(1, 2)
