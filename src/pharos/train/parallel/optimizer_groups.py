"""Parameters that an optimizer may step together."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torch.distributed.tensor import DTensor

Group = dict[str, Any]


def by_layout(groups: Sequence[Group]) -> list[Group]:
    """The same groups, each split so that its parameters lie alike: torch's optimizers take one
    step over many tensors at once, which must be all plain, or all spread over one mesh."""
    split: list[Group] = []
    for group in groups:
        kinds: dict[object, list[Tensor]] = {}
        for parameter in group["params"]:
            kinds.setdefault(_layout(parameter), []).append(parameter)
        split += [group | {"params": parameters} for parameters in kinds.values()]
    return split


def _layout(parameter: Tensor) -> object:
    return parameter.device_mesh if isinstance(parameter, DTensor) else None
