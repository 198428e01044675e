"""Eight-bit matrix multiplication with a scale and an offset for each row.

A row of activations becomes `u8 = round((x - lowest) / s)`, where `s` spreads the row over 0..255:
a text's numbers do not depend on the texts beside it. Weights are `s8`, one scale an output. Then

    x Wᵀ = s · (u8 s8ᵀ) · scale + lowest · sums,    sums = the sum of each output's weights

Offsets that differ from row to row also keep rounding errors from agreeing: with one for all rows,
the mean over a text is twice as far off (cosine to float32 0.9976 instead of 0.9989).
u8 × s8 is what VNNI multiplies; s8 × s8 falls to a reference loop on a CPU without AMX.

A decoder's rows, which no mean is taken of, do without an offset (`quantize_around_zero`): 128
stands for 0, and the result is the integers' product times the row's scale, and no more. That is
also how its numbers stay the same, bit for bit, whichever rows are beside.

Shapes: N rows, I inputs, O outputs.
"""

import torch
from torch import Tensor
from torch.nn.functional import linear

ZERO = 128
"""What stands for 0 in unsigned bytes around it."""
ZERO_POINT = torch.zeros(1, dtype=torch.int32)
"""Of all outputs' weights."""
FEW_ROWS = 12
OUTPUTS_AT_ONCE = 256


def has_vnni() -> bool:
    """Whether this CPU, and this build of torch, multiply eight-bit integers in hardware."""
    capabilities = torch.cpu.get_capabilities()
    vnni = capabilities.get("avx512_vnni") or capabilities.get("avx_vnni")
    return bool(vnni) and hasattr(torch.ops.onednn, "qlinear_pointwise")


def quantize_weight(
    weight_OI: Tensor, scale_dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor]:
    """`s8` weights and the scale of each output."""
    scale_O = (weight_OI.abs().amax(dim=1) / 127).clamp_(min=1e-12).to(scale_dtype)
    steps_OI = (weight_OI / scale_O[:, None]).round_().clamp_(-127, 127)
    return steps_OI.to(torch.int8), scale_O


def quantize_rows(x_NI: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """`u8` activations, and the scale and the lowest value of each row, `[N, 1]`."""
    lowest_N1 = x_NI.amin(dim=1, keepdim=True)
    scale_N1 = ((x_NI.amax(dim=1, keepdim=True) - lowest_N1) / 255).clamp_(min=1e-12)
    # The conversion drops the fraction, so half a step more rounds.
    q_NI = x_NI.sub(lowest_N1 - scale_N1 / 2).div_(scale_N1).to(torch.uint8)
    return q_NI, scale_N1, lowest_N1


def quantize_around_zero(x_NI: Tensor) -> tuple[Tensor, Tensor]:
    """`u8 = round(127 x / m) + 128`, where m is the largest magnitude of the row, `[N, 1]`."""
    most_N1 = x_NI.abs().amax(dim=1, keepdim=True).clamp_(min=1e-12)
    steps_NI = x_NI.to(torch.float32, copy=True).mul_(127 / most_N1.float())
    return steps_NI.add_(ZERO + 0.5).to(torch.uint8), most_N1


def pack_int8_weight(weight_OI: Tensor) -> Tensor:
    """`s8` weights in oneDNN's layout: opaque, of use to `int8_matmul` only."""
    packed: Tensor = torch.ops.onednn.qlinear_prepack(weight_OI, None)
    return packed


def unpack_int8_weight(packed_OI: Tensor) -> Tensor:
    """The `s8` weights `[O, I]` that were packed."""
    return packed_OI.to_dense().T


def int8_matmul(
    x_NI: Tensor,
    packed_OI: Tensor,
    scale_O: Tensor,
    *,
    zero: int = 0,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """`(u8 - zero) s8ᵀ`, each output times its scale."""
    y_NO: Tensor = torch.ops.onednn.qlinear_pointwise(
        x_NI, 1.0, zero, packed_OI, scale_O, ZERO_POINT, None,
        1.0, 0, dtype, "none", [], "",
    )  # fmt: skip
    return y_NO


def plain_int8_matmul(
    x_NI: Tensor,
    weight_OI: Tensor,
    scale_O: Tensor,
    *,
    zero: int = 0,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """The twin of `int8_matmul`, with the weight as it was."""
    return ((x_NI.float() - zero) @ (weight_OI.float() * scale_O[:, None]).T).to(dtype)


def can_multiply_int8_weight(weight_OI: Tensor) -> bool:
    """Whether `int8_weight_matmul` works for this weight. (torch's kernel reads 16 inputs at a
    time, and does not look whether there are as many.)"""
    is_whole = weight_OI.shape[1] % 16 == 0 and weight_OI.device.type == "cpu"
    return is_whole and hasattr(torch.ops.aten, "_weight_int8pack_mm")


def int8_weight_matmul(x_NI: Tensor, weight_OI: Tensor, scale_O: Tensor) -> Tensor:
    """`x s8ᵀ`, each output times its scale, in the type of `x` (and of the scales): bfloat16.

    A few rows are multiplied with the bytes as they are read. For many, some outputs' weights at a
    time are made bfloat16 again, few enough to stay in a core's cache.
    """
    if len(x_NI) <= FEW_ROWS:
        few_NO: Tensor = torch.ops.aten._weight_int8pack_mm(x_NI, weight_OI, scale_O)
        return few_NO
    y_NO = x_NI.new_empty(len(x_NI), len(weight_OI))
    for start in range(0, len(weight_OI), OUTPUTS_AT_ONCE):
        some = slice(start, start + OUTPUTS_AT_ONCE)
        y_NO[:, some] = linear(x_NI, weight_OI[some].to(x_NI.dtype))
    return y_NO.mul_(scale_O)


def plain_int8_weight_matmul(x_NI: Tensor, weight_OI: Tensor, scale_O: Tensor) -> Tensor:
    """The twin of `int8_weight_matmul`."""
    return linear(x_NI, weight_OI.to(x_NI.dtype)) * scale_O
