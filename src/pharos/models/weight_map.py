"""How a parameter of ours is made of a checkpoint's tensors, and back.

Most are the same tensor under another name. Some are several joined (query, key and value as one
linear) or transposed (GPT-2 keeps its linears as `[in, out]`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

Shape = tuple[int, ...]


class Source(Protocol):
    """`names` are the checkpoint's tensors. `shapes` are what they must have for a parameter of the
    given shape, `read` makes the parameter of them, and `write` takes it apart again."""

    @property
    def names(self) -> tuple[str, ...]: ...

    def shapes(self, parameter: Shape) -> list[Shape]: ...

    def read(self, tensors: Sequence[Tensor]) -> Tensor: ...

    def write(self, parameter: Tensor) -> list[Tensor]: ...


WeightMap = Mapping[str, Source]
"""By our parameter's name."""


@dataclass(frozen=True, slots=True)
class One:
    """The same tensor under the checkpoint's name."""

    name: str

    @property
    def names(self) -> tuple[str, ...]:
        return (self.name,)

    def shapes(self, parameter: Shape) -> list[Shape]:
        return [parameter]

    def read(self, tensors: Sequence[Tensor]) -> Tensor:
        return tensors[0]

    def write(self, parameter: Tensor) -> list[Tensor]:
        return [parameter]


@dataclass(frozen=True, slots=True)
class Transposed:
    """A matrix that the checkpoint keeps with rows and columns exchanged."""

    name: str

    @property
    def names(self) -> tuple[str, ...]:
        return (self.name,)

    def shapes(self, parameter: Shape) -> list[Shape]:
        return [parameter[::-1]]

    def read(self, tensors: Sequence[Tensor]) -> Tensor:
        return tensors[0].T.contiguous()

    def write(self, parameter: Tensor) -> list[Tensor]:
        return [parameter.T.contiguous()]


@dataclass(frozen=True, slots=True)
class Joined:
    """Tensors of equal shape, one after another along their first dimension."""

    names: tuple[str, ...]

    def shapes(self, parameter: Shape) -> list[Shape]:
        return [(parameter[0] // len(self.names), *parameter[1:])] * len(self.names)

    def read(self, tensors: Sequence[Tensor]) -> Tensor:
        return torch.cat(list(tensors))

    def write(self, parameter: Tensor) -> list[Tensor]:
        return [part.contiguous() for part in parameter.chunk(len(self.names))]


def under(prefix: str, names: Mapping[str, str]) -> dict[str, Source]:
    """The same tensors under other names, the checkpoint's below `prefix`."""
    return {ours: One(f"{prefix}{theirs}") for ours, theirs in names.items()}


def below(ours: str, weight_map: WeightMap) -> dict[str, Source]:
    """The map of a part, for the module that has it under the name `ours`."""
    return {f"{ours}.{name}": source for name, source in weight_map.items()}
