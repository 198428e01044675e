"""bfloat16: float32's range in half the bytes, and many times its speed on a processor with AMX or
tensor cores. On a CPU the weights are also packed for the multiplier."""

from typing import TypeVar

import torch
from torch import Tensor, nn

from pharos.models.family import Body
from pharos.models.heads import CausalLM
from pharos.ops import can_pack, pack_weight, packed_linear
from pharos.ops.native import NativeMatrix, bf16_matrix
from pharos.quant.native import use_native
from pharos.quant.swap import swap_linears

M = TypeVar("M", bound=nn.Module)


class PackedLinear(nn.Module):
    """A frozen linear, with or without a GELU after it, in oneDNN's layout."""

    native: NativeMatrix | None = None

    def __init__(self, linear: nn.Linear, gelu: bool) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.gelu = gelu
        packed_OI = pack_weight(linear.weight.detach())
        self.weight = nn.Parameter(packed_OI, requires_grad=False)
        self.bias = linear.bias

    def forward(self, x_NI: Tensor) -> Tensor:
        if self.native is not None and self.native.takes(x_NI):
            return self.native(x_NI)
        return packed_linear(x_NI, self.weight, self.bias, gelu=self.gelu)

    def dequantize(self, dtype: torch.dtype) -> Tensor:
        """The weight `[O, I]` as it was."""
        return self.weight.to_dense().to(dtype)

    def native_matrix(self) -> NativeMatrix | None:
        return None if self.gelu else bf16_matrix(self.weight.detach(), self.bias)


class PackedEmbedding(nn.Embedding):
    """A frozen table, and the head that is tied to it, whose weight is kept once more, packed."""

    native: NativeMatrix | None = None

    def __init__(self, table: nn.Embedding) -> None:
        size, width = table.weight.shape
        super().__init__(size, width, _weight=table.weight.detach(), _freeze=True)
        self.packed_VD = pack_weight(table.weight.detach())

    def project(self, x_D: Tensor) -> Tensor:
        """The scores of the vocabulary."""
        if self.native is not None and self.native.takes(x_D):
            return self.native(x_D)
        return packed_linear(x_D, self.packed_VD, None, gelu=False)

    def native_matrix(self) -> NativeMatrix | None:
        return bf16_matrix(self.packed_VD, None)


def convert_bf16(model: M) -> M:
    """Turn a model into one for inference in bfloat16, in place."""
    model.to(torch.bfloat16)
    pack_linears(model)
    return model


def pack_linears(model: nn.Module) -> None:
    """Lay the linears of a bfloat16 model out for the processor's multiplier, in place; nothing is
    done where that is not possible. What is computed stays the same, but for rounding."""
    weights = list(model.parameters())
    if all(can_pack(weight) and weight.dtype == torch.bfloat16 for weight in weights):
        swap_linears(model, PackedLinear)
        if isinstance(model, CausalLM) and model.lm_head is None:
            _pack_table(model.body)
        if isinstance(model, CausalLM):
            use_native(model)


def _pack_table(body: Body) -> None:
    if type(body.embedding) is nn.Embedding:
        body.embedding = PackedEmbedding(body.embedding)
