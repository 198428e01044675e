"""From hidden states to the scores of a vocabulary, as the one product that it mostly is: for a
loss that does without all scores at once (`pharos.ops.cross_entropy`)."""

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor, nn
from torch.nn.functional import linear


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


def project(table: nn.Module, x_D: Tensor, bias_V: Tensor | None = None) -> Tensor:
    """`x Wᵀ + b` with a table `[V, D]`: the scores of a head that is the embedding again. A table
    that has an adapter, or is kept in another form, has a `project` of its own."""
    own: Callable[[Tensor], Tensor] | None = getattr(table, "project", None)
    if own is None:
        weight_VD: Tensor = table.weight  # type: ignore[assignment]
        return linear(x_D, weight_VD, bias_V)
    y_V = own(x_D)
    return y_V if bias_V is None else y_V + bias_V
