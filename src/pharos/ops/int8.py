"""Eight-bit matrix multiplication with a scale and an offset for each row.

A row of activations becomes `u8 = round((x - lowest) / s)`, where `s` spreads the row over 0..255:
a text's numbers do not depend on the texts beside it. Weights are `s8`, one scale an output. Then

    x Wᵀ = s · (u8 s8ᵀ) · scale + lowest · sums,    sums = the sum of each output's weights

Offsets that differ from row to row also keep rounding errors from agreeing: with one for all rows,
the mean over a text is twice as far off (cosine to float32 0.9976 instead of 0.9989).
u8 × s8 is what VNNI multiplies; s8 × s8 falls to a reference loop on a CPU without AMX.

Shapes: N rows, I inputs, O outputs.
"""

import torch
from torch import Tensor


def has_vnni() -> bool:
    """Whether this CPU, and this build of torch, multiply eight-bit integers in hardware."""
    capabilities = torch.cpu.get_capabilities()
    vnni = capabilities.get("avx512_vnni") or capabilities.get("avx_vnni")
    return bool(vnni) and hasattr(torch.ops.onednn, "qlinear_pointwise")


def quantize_weight(weight_OI: Tensor) -> tuple[Tensor, Tensor]:
    """`s8` weights and the scale of each output."""
    scale_O = (weight_OI.abs().amax(dim=1) / 127).clamp_(min=1e-12)
    return (weight_OI / scale_O[:, None]).round().to(torch.int8), scale_O


def quantize_rows(x_NI: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """`u8` activations, and the scale and the lowest value of each row, `[N, 1]`."""
    lowest_N1 = x_NI.amin(dim=1, keepdim=True)
    scale_N1 = ((x_NI.amax(dim=1, keepdim=True) - lowest_N1) / 255).clamp_(min=1e-12)
    # The conversion drops the fraction, so half a step more rounds.
    q_NI = x_NI.sub(lowest_N1 - scale_N1 / 2).div_(scale_N1).to(torch.uint8)
    return q_NI, scale_N1, lowest_N1


def pack_int8_weight(weight_OI: Tensor) -> Tensor:
    """`s8` weights in oneDNN's layout: opaque, of use to `int8_matmul` only."""
    packed: Tensor = torch.ops.onednn.qlinear_prepack(weight_OI, None)
    return packed


def int8_matmul(x_NI: Tensor, packed_OI: Tensor, scale_O: Tensor) -> Tensor:
    """`u8 s8ᵀ`, each output times its scale, in float32."""
    zero_points_O = torch.zeros_like(scale_O, dtype=torch.int32)
    y_NO: Tensor = torch.ops.onednn.qlinear_pointwise(
        x_NI, 1.0, 0, packed_OI, scale_O, zero_points_O, None,
        1.0, 0, torch.float32, "none", [], "",
    )  # fmt: skip
    return y_NO


def plain_int8_matmul(x_NI: Tensor, weight_OI: Tensor, scale_O: Tensor) -> Tensor:
    """The twin of `int8_matmul`, with the weight as it was."""
    return x_NI.float() @ (weight_OI.float() * scale_O[:, None]).T
