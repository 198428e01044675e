"""From hidden states to the scores of a vocabulary, as the one product that it mostly is: for a
loss that does without all scores at once (`pharos.ops.cross_entropy`)."""

from typing import NamedTuple

from torch import Tensor, nn


class Readout(NamedTuple):
    """The logits are `x Wᵀ + b`. Shapes: D width, V vocabulary."""

    x_D: Tensor
    weight_VD: Tensor
    bias_V: Tensor | None = None


def plain_weight(module: nn.Module) -> Tensor | None:
    """The weight of a linear or an embedding. None where another module was put in its place
    (quantized, or with an adapter beside it) or the weight is spread over devices: there is more to
    the scores than a product with it."""
    if type(module) not in (nn.Linear, nn.Embedding):
        return None
    weight = module.get_parameter("weight")
    return weight if type(weight) is nn.Parameter else None
