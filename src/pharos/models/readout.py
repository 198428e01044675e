"""From hidden states to the scores of a vocabulary, as the one product that it mostly is: for a
loss that does without all scores at once (`pharos.ops.cross_entropy`)."""

from typing import NamedTuple, Protocol, runtime_checkable

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


@runtime_checkable
class Projects(Protocol):
    """A table of embeddings that knows how to be a head: one with an adapter, or in fewer bits."""

    def project(self, x_D: Tensor) -> Tensor: ...


def project(table: nn.Module, x_D: Tensor, bias_V: Tensor | None = None) -> Tensor:
    """`x Wᵀ + b` with a table `[V, D]`: the scores of a head that is the embedding again."""
    if isinstance(table, Projects):
        y_V = table.project(x_D)
        return y_V if bias_V is None else y_V + bias_V
    weight_VD: Tensor = table.weight  # type: ignore[assignment]
    return linear(x_D, weight_VD, bias_V)
