"""W8A16: a decoder's weights in eight bits, with a scale for each output; what they multiply stays
in bfloat16. Nearer to the original than W8A8, and as fast for a token at a time on any CPU; a
prompt is read no faster than in bfloat16, since its weights are made bfloat16 again.

Shapes: N rows, I inputs, O outputs.
"""

import torch
from torch import Tensor, nn

from pharos.models.heads import CausalLM
from pharos.ops.int8 import (
    can_multiply_int8_weight,
    int8_weight_matmul,
    plain_int8_weight_matmul,
    quantize_weight,
)
from pharos.ops.native import NativeMatrix, int8_rows_matrix
from pharos.quant.decoders import convert_decoder


class W8A16Linear(nn.Module):
    """A frozen linear; it gives what it is given, in type and in dimensions but the last."""

    native: NativeMatrix | None = None

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        weight_OI, scale_O = quantize_weight(linear.weight.detach().float(), torch.bfloat16)
        self.weight = nn.Parameter(weight_OI, requires_grad=False)
        self.scale_O = scale_O
        self.bias = linear.bias

    def forward(self, x: Tensor) -> Tensor:
        if self.native is not None and self.native.takes(x):
            return self.native(x)
        x_NI = x.reshape(-1, self.in_features).bfloat16()
        is_fast = can_multiply_int8_weight(self.weight)
        matmul = int8_weight_matmul if is_fast else plain_int8_weight_matmul
        y_NO = matmul(x_NI, self.weight, self.scale_O)
        if self.bias is not None:
            y_NO += self.bias
        return y_NO.to(x.dtype).view(*x.shape[:-1], self.out_features)

    def native_matrix(self) -> NativeMatrix | None:
        return int8_rows_matrix(self.weight.detach(), self.scale_O, self.bias)

    def codes(self) -> tuple[Tensor, Tensor]:
        """The weight `[O, I]` as bytes, and the scale of each output."""
        return self.weight.detach(), self.scale_O

    def dequantize(self, dtype: torch.dtype) -> Tensor:
        """The weight `[O, I]`."""
        return (self.weight.float() * self.scale_O.float()[:, None]).to(dtype)


def convert_w8a16(model: CausalLM) -> CausalLM:
    """Turn a decoder into one for inference with eight-bit weights and head, in place."""
    return convert_decoder(model, W8A16Linear)
