"""Causal attention of a prompt, in bfloat16, on a processor that multiplies it in vectors.

    if takes_prompt(q, k, v):
        out = attend_prompt(q, k, v, look_back=None, scale=None)

Torch's kernel multiplies small matrices one by one there, and takes three times as long; with tiles
(AMX) it is left alone. The first prompt in bfloat16 on a machine may have to wait for the kernels
to be compiled (`library`), as a model does that is converted.

Shapes: T tokens, G key-value heads, R queries that share one, S keys (T ≤ S), K head width.
"""

from ctypes import addressof

import torch
from torch import Tensor

from pharos.ops.native.load import library
from pharos.ops.native.structures import Prompt

PANEL = 64
"""Keys that are looked at together, and numbers of a value."""
MOST_SHARING = 64
"""Queries that share keys: they are looked at together too. So says `kernels.c`."""
WIDEST = 256
LEAST = 16
"""Tokens: for fewer it does not pay to lay the keys out."""


def takes_prompt(q_TGRK: Tensor, k_1GSK: Tensor, v_1GSK: Tensor) -> bool:
    """Whether there are kernels for such queries, keys and values."""
    tensors, (num_tokens, groups, sharing, width) = (q_TGRK, k_1GSK, v_1GSK), q_TGRK.shape
    return (
        num_tokens >= LEAST
        and all(x.device.type == "cpu" and x.dtype == torch.bfloat16 for x in tensors)
        and not (torch.is_grad_enabled() and any(x.requires_grad for x in tensors))
        and width % PANEL == 0
        and width <= WIDEST
        and sharing <= MOST_SHARING
        and k_1GSK.shape == v_1GSK.shape == (1, groups, k_1GSK.shape[2], width)
        and all(_rows_follow(x) for x in (k_1GSK, v_1GSK))
        and k_1GSK.stride(1) == v_1GSK.stride(1)
        and (loaded := library()) is not None
        and bool(loaded.attends())
    )


def attend_prompt(
    q_TGRK: Tensor,
    k_1GSK: Tensor,
    v_1GSK: Tensor,
    *,
    look_back: int | None = None,
    scale: float | None = None,
) -> Tensor:
    """Attention of tokens that stand at the last of the keys' positions, `[T, G, R, K]`. Each sees
    itself and those before it, or the last `look_back` of them. What is no number is to be in no
    value, not even in one that is seen by others only."""
    loaded, (num_tokens, groups, sharing, width) = library(), q_TGRK.shape
    num_keys = k_1GSK.shape[2]
    assert loaded is not None and num_tokens <= num_keys, (num_tokens, num_keys)
    assert k_1GSK.shape == v_1GSK.shape == (1, groups, num_keys, width), k_1GSK.shape
    q_TGRK = q_TGRK.contiguous()
    out_TGRK = torch.empty_like(q_TGRK)
    num_panels = groups * -(-num_keys // PANEL)
    packed = torch.empty(num_panels * PANEL * width, dtype=torch.int32)
    prompt = Prompt(
        q_TGRK.data_ptr(),
        k_1GSK.data_ptr(),
        v_1GSK.data_ptr(),
        out_TGRK.data_ptr(),
        packed.data_ptr(),
        num_tokens,
        num_keys,
        k_1GSK.stride(1),
        -1 if look_back is None else look_back,
        width**-0.5 if scale is None else scale,
        groups * sharing,
        groups,
        width,
        torch.get_num_threads(),
    )
    loaded.attend(addressof(prompt))
    return out_TGRK


def _rows_follow(x_1GSK: Tensor) -> bool:
    """Whether the keys of a group lie one after another."""
    return x_1GSK.stride(3) == 1 and x_1GSK.stride(2) == x_1GSK.shape[3]
