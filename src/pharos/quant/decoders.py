"""What the eight-bit methods have in common on a decoder: which of its parts they take.

All linears, the head among them, but for the routers of experts, which are small and choose. A head
that is the embedding again is multiplied in eight bits too, and the embedding gives the same rows.
What is computed between is bfloat16 where the processor multiplies it, else float32.

Shapes: V vocabulary, D hidden width.
"""

from collections.abc import Callable
from typing import Protocol, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding

from pharos.core.errors import ModelError
from pharos.models.heads import CausalLM
from pharos.ops import multiplies_bf16
from pharos.quant.native import use_native
from pharos.quant.swap import swap_linears

KEPT = ("router",)


class EightBitLinear(Protocol):
    def codes(self) -> tuple[Tensor, Tensor]:
        """The weight `[O, I]` as bytes, and the scale of each output."""

    def __call__(self, x: Tensor) -> Tensor: ...


class EightBitEmbedding(nn.Embedding):
    """A frozen table in eight bits, and the head that is tied to it: its rows are the head's
    weights."""

    def __init__(self, head: EightBitLinear, dtype: torch.dtype) -> None:
        weight_VD, scale_V = head.codes()
        size, width = weight_VD.shape
        super().__init__(size, width, _weight=weight_VD, _freeze=True)
        self.head, self.scale_V, self.dtype = head, scale_V.float(), dtype

    def forward(self, ids: Tensor) -> Tensor:
        rows = embedding(ids, self.weight) * self.scale_V[ids][..., None]
        return rows.to(self.dtype)

    def project(self, x_D: Tensor) -> Tensor:
        """The scores of the vocabulary."""
        return self.head(x_D)

    def dequantize(self, dtype: torch.dtype) -> Tensor:
        """The table `[V, D]`."""
        return (self.weight.float() * self.scale_V[:, None]).to(dtype)


def convert_decoder(model: CausalLM, make: Callable[[nn.Linear], EightBitLinear]) -> CausalLM:
    """Swap what `make` gives for the linears and the head of a model, in place. Raises ModelError
    for a model that is no decoder, and for one whose embedding has an adapter."""
    if not isinstance(model, CausalLM):
        raise ModelError(f"a {type(model).__name__} is no decoder; convert_int8 is for encoders")
    table = model.body.embedding
    if type(table) is not nn.Embedding:
        raise ModelError(
            f"the embedding is a {type(table).__name__} already; convert the model before its "
            "adapters are loaded, and once"
        )
    if table.weight.device.type != "cpu":
        raise ModelError(
            f"the model is on {table.weight.device}; eight-bit linears are for CPUs: load it on "
            "one, or leave it in bfloat16"
        )
    dtype = torch.bfloat16 if multiplies_bf16() else torch.float32
    swap_linears(model, lambda linear, _: cast(nn.Module, make(linear)), kept=KEPT)
    if model.lm_head is None:
        model.body.embedding = EightBitEmbedding(make(linear_of(table)), dtype)
    model.to(dtype).requires_grad_(False)
    use_native(model)
    return model


def linear_of(table: nn.Embedding) -> nn.Linear:
    """The head that is tied to a table."""
    made = nn.Linear(1, 1, bias=False)
    made.out_features, made.in_features = table.weight.shape
    made.weight = table.weight
    return made
