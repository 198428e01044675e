"""Keys in blocks, read where they are: the path of a CPU.

Where the blocks of a sequence follow each other, its keys are a view; else they are copied, block
by block, which takes a third of the time of attending to them. Only short sequences are gathered on
purpose, many together, since a call for each would cost more than the copy.

Shapes: N rows of the flat batch, H query heads, G key-value heads (R = H / G queries share one),
K head width, P blocks of C tokens, T rows of a sequence, S keys of it, B sequences of a group,
X rows of all queries that share keys.
"""

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from pharos.ops.attention import attention
from pharos.ops.attention.chunk import chunk_attention
from pharos.ops.masks import Causal, Mask, Window
from pharos.ops.native import attend_prompt, takes_prompt
from pharos.ops.paged_attention.flat_batch import Alone, FlatBatch, Group
from pharos.ops.positions import DistanceBias


def attend_in_place(
    q_NHK: Tensor,
    kv_2GPCK: Tensor,
    batch: FlatBatch,
    *,
    look_back: int | None,
    bias: DistanceBias | None,
    scale: float | None,
) -> Tensor:
    """Each row over the stored keys of its own sequence, `[N, H, K]`; of those before it over
    `look_back` (None: all)."""
    reads = batch.reads(look_back, gather=bias is None)
    q_NGRK = q_NHK.view(len(q_NHK), kv_2GPCK.shape[1], -1, q_NHK.shape[2])
    every_key = _by_head(kv_2GPCK)
    outputs = [
        _attend_alone(
            q_NGRK.narrow(0, one.first_row, one.num_rows),
            *_keys_of(one, kv_2GPCK, every_key),
            look_back=look_back if one.is_cut else None,
            bias=bias,
            scale=scale,
        )
        for one in reads.alone
    ]
    outputs += [_attend_together(q_NGRK, kv_2GPCK, group, scale) for group in reads.groups]
    out_NHK = torch.cat(outputs).view(q_NHK.shape)
    return out_NHK if reads.order_N is None else out_NHK[reads.order_N]


def _by_head(kv_2GPCK: Tensor) -> tuple[Tensor, Tensor]:
    """All keys and values of some blocks, `[1, G, P·C, K]`."""
    k_1GSK, v_1GSK = kv_2GPCK.flatten(2, 3)[:, None].unbind()
    return k_1GSK, v_1GSK


def _keys_of(
    one: Alone, kv_2GPCK: Tensor, every_key: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor]:
    k_1GSK, v_1GSK = (
        every_key if one.blocks is None else _by_head(kv_2GPCK.index_select(2, one.blocks))
    )
    first, count = one.first_slot, one.num_keys
    return k_1GSK.narrow(2, first, count), v_1GSK.narrow(2, first, count)


def _attend_alone(
    q_TGRK: Tensor,
    k_1GSK: Tensor,
    v_1GSK: Tensor,
    *,
    look_back: int | None,
    bias: DistanceBias | None,
    scale: float | None,
) -> Tensor:
    """`[T, G, R, K]`. A single row sees every key that is read for it."""
    if len(q_TGRK) == 1 and bias is None:
        return scaled_dot_product_attention(q_TGRK, k_1GSK, v_1GSK, scale=scale)
    if bias is None and takes_prompt(q_TGRK, k_1GSK, v_1GSK):
        return attend_prompt(q_TGRK, k_1GSK, v_1GSK, look_back=look_back, scale=scale)
    q_1HTK = q_TGRK.flatten(1, 2).transpose(0, 1)[None]
    if bias is None and look_back is None and q_TGRK.device.type == "cpu":
        out_1HTK = chunk_attention(q_1HTK, k_1GSK, v_1GSK, scale=scale)
    else:
        mask: Mask = Causal() if look_back is None else Causal() & Window(left=look_back)
        out_1HTK = attention(q_1HTK, k_1GSK, v_1GSK, mask=mask, bias=bias, scale=scale)
    return out_1HTK[0].transpose(0, 1).view(q_TGRK.shape)


def _attend_together(q_NGRK: Tensor, kv_2GPCK: Tensor, group: Group, scale: float | None) -> Tensor:
    """`[B·T, G, R, K]`. The heads that share keys are but more rows of one head."""
    num_sequences, num_rows = group.rows_BT.shape
    q_BGRTK = q_NGRK[group.rows_BT].permute(0, 2, 3, 1, 4)
    allowed = group.allowed_B1TS
    if allowed is not None and num_rows > 1:
        allowed = allowed.repeat(1, 1, q_BGRTK.shape[2], 1)
    k_BGSK, v_BGSK = (
        x_GSK.index_select(1, group.slots_BS.flatten())
        .view(len(x_GSK), num_sequences, -1, x_GSK.shape[2])
        .transpose(0, 1)
        for x_GSK in kv_2GPCK.flatten(2, 3)
    )
    out_BGXK = scaled_dot_product_attention(
        q_BGRTK.flatten(2, 3), k_BGSK, v_BGSK, attn_mask=allowed, scale=scale
    )
    return out_BGXK.view(q_BGRTK.shape).permute(0, 3, 1, 2, 4).flatten(0, 1)
