"""INT8 for processors with VNNI and without bf16: weights at a quarter of their size, eight-bit
multiplication, everything between the linears in float32. Nothing to calibrate (`pharos.ops.int8`).
"""

from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu

from pharos.ops.int8 import (
    has_vnni,
    int8_matmul,
    pack_int8_weight,
    plain_int8_matmul,
    quantize_rows,
    quantize_weight,
)
from pharos.quant.swap import swap_linears

M = TypeVar("M", bound=nn.Module)


class Int8Linear(nn.Module):
    """A frozen linear in eight bits, with or without a GELU after it."""

    def __init__(self, linear: nn.Linear, gelu: bool) -> None:
        super().__init__()
        weight_OI, self.scale_O = quantize_weight(linear.weight.detach())
        self.fast = has_vnni() and weight_OI.device.type == "cpu"
        self.weight_OI = pack_int8_weight(weight_OI) if self.fast else weight_OI
        sums_O = weight_OI.float().sum(dim=1) * self.scale_O
        self.sums_and_bias_2O = torch.stack([sums_O, linear.bias.detach()])
        self.gelu = gelu

    def forward(self, x_NI: Tensor) -> Tensor:
        q_NI, scale_N1, lowest_N1 = quantize_rows(x_NI)
        matmul = int8_matmul if self.fast else plain_int8_matmul
        y_NO = matmul(q_NI, self.weight_OI, self.scale_O).mul_(scale_N1)
        lowest_and_one_N2 = torch.cat([lowest_N1, torch.ones_like(lowest_N1)], dim=1)
        y_NO = y_NO.addmm_(lowest_and_one_N2, self.sums_and_bias_2O)
        return gelu(y_NO) if self.gelu else y_NO


def convert_int8(model: M) -> M:
    """Turn a model into one for inference with eight-bit linears, in place."""
    model.to(torch.float32)
    swap_linears(model, Int8Linear)
    return model
