"""bfloat16: float32's range in half the bytes, and many times its speed on a processor with AMX or
tensor cores. On a CPU the weights are also packed for the multiplier."""

from typing import TypeVar

import torch
from torch import Tensor, nn

from pharos.ops import can_pack, pack_weight, packed_linear
from pharos.quant.swap import swap_linears

M = TypeVar("M", bound=nn.Module)


class PackedLinear(nn.Module):
    """A frozen linear, with or without a GELU after it, in oneDNN's layout."""

    def __init__(self, linear: nn.Linear, gelu: bool) -> None:
        super().__init__()
        self.gelu = gelu
        self.bias_O = linear.bias.detach()
        self.packed_OI = pack_weight(linear.weight.detach())

    def forward(self, x_NI: Tensor) -> Tensor:
        return packed_linear(x_NI, self.packed_OI, self.bias_O, gelu=self.gelu)


def convert_bf16(model: M) -> M:
    """Turn a model into one for inference in bfloat16, in place."""
    model.to(torch.bfloat16)
    if all(can_pack(weight) for weight in model.parameters()):
        swap_linears(model, PackedLinear)
    return model
