"""W8A8: a decoder's linears in eight bits, and what they are given too, on a CPU with VNNI or AMX.

Weights have a scale for each output, activations one for each token, found as they come: nothing to
calibrate. A weight is read once a pass whatever the number of tokens, so writing costs half of
bfloat16's time, and reading a prompt is multiplied in integers. A token's numbers do not depend on
the tokens beside it, bit for bit. (For an encoder, whose tokens are averaged, see `quant.int8`.)

Shapes: N rows, I inputs, O outputs.
"""

import torch
from torch import Tensor, nn

from pharos.models.heads import CausalLM
from pharos.ops.int8 import (
    ZERO,
    has_vnni,
    int8_matmul,
    pack_int8_weight,
    plain_int8_matmul,
    quantize_around_zero,
    quantize_weight,
    unpack_int8_weight,
)
from pharos.ops.native import NativeMatrix, int8_matrix
from pharos.quant.decoders import convert_decoder


class LastInput:
    """The bytes of the tensor that was quantized last: query, key and value are given the same one.
    (No linear's input is changed in place; threads may run side by side.) Native kernels do without
    it: each linear makes its own."""

    def __init__(self) -> None:
        self._last: tuple[Tensor, tuple[Tensor, Tensor]] | None = None

    def quantized(self, x: Tensor) -> tuple[Tensor, Tensor]:
        last = self._last
        if last is not None and last[0] is x:
            return last[1]
        found = quantize_around_zero(x.reshape(-1, x.shape[-1]))
        self._last = x, found
        return found


class W8A8Linear(nn.Module):
    """A frozen linear; it gives what it is given, in type and in dimensions but the last. Those of
    a model share the `last` input."""

    native: NativeMatrix | None = None

    def __init__(self, linear: nn.Linear, last: LastInput | None = None) -> None:
        super().__init__()
        self.last = last or LastInput()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.fast = has_vnni() and linear.weight.device.type == "cpu"
        weight_OI, scale_O = quantize_weight(linear.weight.detach().float())
        stored_OI = pack_int8_weight(weight_OI) if self.fast else weight_OI
        self.weight = nn.Parameter(stored_OI, requires_grad=False)
        self.scale_O = scale_O / 127
        self.bias = linear.bias

    def forward(self, x: Tensor) -> Tensor:
        if self.native is not None and self.native.takes(x):
            return self.native(x)
        q_NI, most_N1 = self.last.quantized(x)
        matmul = int8_matmul if self.fast else plain_int8_matmul
        y_NO = matmul(q_NI, self.weight, self.scale_O, zero=ZERO, dtype=x.dtype).mul_(most_N1)
        if self.bias is not None:
            y_NO += self.bias
        return y_NO.view(*x.shape[:-1], self.out_features)

    def native_matrix(self) -> NativeMatrix | None:
        if not self.fast:
            return None
        return int8_matrix(self.weight.detach(), self.scale_O, self.bias)

    def codes(self) -> tuple[Tensor, Tensor]:
        """The weight `[O, I]` as bytes, and the scale of each output."""
        weight_OI = unpack_int8_weight(self.weight) if self.fast else self.weight
        return weight_OI, self.scale_O * 127

    def dequantize(self, dtype: torch.dtype) -> Tensor:
        """The weight `[O, I]`."""
        weight_OI, scale_O = self.codes()
        return (weight_OI.float() * scale_O[:, None]).to(dtype)


def convert_w8a8(model: CausalLM) -> CausalLM:
    """Turn a decoder into one for inference with eight-bit linears and head, in place."""
    last = LastInput()
    return convert_decoder(model, lambda linear: W8A8Linear(linear, last))
