"""Eight-bit matrix multiplication with scales that depend on the row alone.

A row of activations becomes `u8 = round(x / s) + z`. The zero point `z` is fixed, because the
multiplier takes one for all rows; the scale `s` is the smallest with which the row fits into
0..255, so a text's numbers do not depend on the texts beside it. Weights are `s8`, one scale an
output.
u8 × s8 is what VNNI multiplies; s8 × s8 falls to a reference loop on a CPU without AMX.

Shapes: N rows, I inputs, O outputs.
"""

import torch
from torch import Tensor

SYMMETRIC = 128
"""Zero point for values on both sides of zero."""
MOSTLY_POSITIVE = 16
"""Zero point for what a GELU gives: never below -0.17."""


def has_vnni() -> bool:
    """Whether this CPU, and this build of torch, multiply eight-bit integers in hardware."""
    capabilities = torch.cpu.get_capabilities()
    vnni = capabilities.get("avx512_vnni") or capabilities.get("avx_vnni")
    return bool(vnni) and hasattr(torch.ops.onednn, "qlinear_pointwise")


def quantize_weight(weight_OI: Tensor) -> tuple[Tensor, Tensor]:
    """`s8` weights and the scale of each output."""
    scale_O = (weight_OI.abs().amax(dim=1) / 127).clamp_(min=1e-12)
    return (weight_OI / scale_O[:, None]).round().to(torch.int8), scale_O


def quantize_rows(x_NI: Tensor, zero_point: int) -> tuple[Tensor, Tensor]:
    """`u8` activations and the scale of each row, `[N, 1]`. A row of zeros gets a tiny scale."""
    highest_N1 = x_NI.amax(dim=1, keepdim=True) / (255 - zero_point)
    lowest_N1 = x_NI.amin(dim=1, keepdim=True) / -zero_point
    scale_N1 = torch.maximum(highest_N1, lowest_N1).clamp_(min=1e-12)
    # The conversion drops the fraction, so half a step more rounds.
    return x_NI.div(scale_N1).add_(zero_point + 0.5).to(torch.uint8), scale_N1


def pack_int8_weight(weight_OI: Tensor) -> Tensor:
    """`s8` weights in oneDNN's layout: opaque, of use to `int8_matmul` only."""
    packed: Tensor = torch.ops.onednn.qlinear_prepack(weight_OI, None)
    return packed


def int8_matmul(x_NI: Tensor, zero_point: int, packed_OI: Tensor, scale_O: Tensor) -> Tensor:
    """`(x - z) Wᵀ`, each output times its scale, in float32."""
    zero_points_O = torch.zeros_like(scale_O, dtype=torch.int32)
    y_NO: Tensor = torch.ops.onednn.qlinear_pointwise(
        x_NI, 1.0, zero_point, packed_OI, scale_O, zero_points_O, None,
        1.0, 0, torch.float32, "none", [], "",
    )  # fmt: skip
    return y_NO


def plain_int8_matmul(x_NI: Tensor, zero_point: int, weight_OI: Tensor, scale_O: Tensor) -> Tensor:
    """The twin of `int8_matmul`, with the weight as it was."""
    return (x_NI.float() - zero_point) @ (weight_OI.float() * scale_O[:, None]).T
