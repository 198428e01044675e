"""What stands in a model where a linear, an embedding or another module stood.

A wrapper keeps the module that was there (`base`) and the parts of each adapter by its name; the
parts of those that are `active` take part. Switched off, or with no active part, it is its base,
bit for bit. Merged, it is `merged`: a module of the base's kind with everything in its weights.
Within a route (`pharos.adapt.routing`) each row of a batch has the parts of its own adapter,
whichever are active.

Shapes: N rows (any number of dimensions), I inputs, O outputs, V vocabulary, D hidden width.
"""

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, Protocol, cast, runtime_checkable

import torch
from torch import Tensor, nn

from pharos.adapt.routing import Route, current_route
from pharos.models.readout import project


@runtime_checkable
class Dequantizes(Protocol):
    """A linear whose weight is kept in another form."""

    def dequantize(self, dtype: torch.dtype) -> Tensor: ...


class Part(nn.Module):
    """What one adapter has at one place. `tensors` are what it saves, by their names in PEFT's
    files; `load` takes them back. `unmergeable` says why no weight can hold it, if so."""

    unmergeable: ClassVar[str | None] = None

    @abstractmethod
    def tensors(self) -> dict[str, Tensor]: ...

    def freeze(self, base: nn.Module) -> None:
        """Neither the base nor this part will change any more."""

    @torch.no_grad()
    def load(self, tensors: Mapping[str, Tensor]) -> None:
        for name, tensor in self.tensors().items():
            tensor.copy_(tensors[name])


class Adapted(nn.Module):
    """A module with the parts of adapters. `enabled` switches all of them. `owner` are the adapters
    whose routes it follows."""

    def __init__(self, base: nn.Module, owner: object) -> None:
        super().__init__()
        self.base = base
        self.owner = owner
        self.merged: nn.Module | None = None
        self.adapters = nn.ModuleDict()
        self.active: tuple[str, ...] = ()
        self.enabled = True
        self.train(base.training)

    def forward(self, x: Tensor) -> Tensor:
        if (route := self.route) is not None:
            return route.apply(x, self.base(self.known(x)), self.parts_of, self.with_each)
        y: Tensor = self.current(x) if self.is_plain else self.adapted(x)
        return y

    @property
    def route(self) -> Route | None:
        """That of the batch that is computed, if it has one."""
        route = current_route(self.owner) if self.enabled else None
        if route is not None and self.merged is not None:
            raise ValueError("the adapters are merged; unmerge them before a batch of several")
        return route

    def known(self, x: Tensor) -> Tensor:
        """What of an input the base can read."""
        return x

    @property
    def current(self) -> nn.Module:
        """What computes where no part does."""
        return self.merged if self.merged is not None and self.enabled else self.base

    @property
    def is_plain(self) -> bool:
        return not self.enabled or self.merged is not None or not self.active_parts()

    def active_parts(self) -> list[Part]:
        return [part for name in self.active for part in self.parts_of(name)]

    def every_part(self) -> list[Part]:
        return [part for name in self.adapters for part in self.parts_of(name)]

    def parts_of(self, name: str) -> list[Part]:
        if name not in self.adapters:
            return []
        return [cast(Part, part) for part in cast(nn.ModuleList, self.adapters[name])]

    def add(self, name: str, part: Part) -> None:
        if name not in self.adapters:
            self.adapters[name] = nn.ModuleList()
        cast(nn.ModuleList, self.adapters[name]).append(part.train(self.training))

    def discard(self, name: str) -> None:
        """Forget the parts of an adapter."""
        if name in self.adapters:
            del self.adapters[name]
        self.active = tuple(other for other in self.active if other != name)

    def check_mergeable(self) -> None:
        """Raises ValueError for an active part that no weight can hold."""
        for part in self.active_parts():
            if part.unmergeable is not None:
                raise ValueError(part.unmergeable)

    @abstractmethod
    def adapted(self, x: Tensor) -> Tensor:
        """The output, with the active parts."""

    @abstractmethod
    def with_each(self, parts: Sequence[Part], x: Tensor, y: Tensor) -> Tensor:
        """What the base gave for `x`, with these parts in their turn."""

    @abstractmethod
    def with_parts(self) -> nn.Module:
        """A new module of the base's kind with the active parts in its weights. Raises ValueError
        (see `check_mergeable`) if they cannot be."""


def weight_of(base: nn.Module, dtype: torch.dtype) -> Tensor:
    """`[O, I]` of a linear, converted."""
    if isinstance(base, Dequantizes):
        return base.dequantize(dtype)
    weight: Tensor = base.get_parameter("weight")
    return weight.to(dtype)


def device_of(base: nn.Module) -> torch.device:
    """Where a linear computes. (One that is packed for the processor has no parameters.)"""
    return next((p.device for p in base.parameters()), torch.device("cpu"))


def merged_dtype(base: nn.Module) -> torch.dtype:
    """The type of a merged weight: that of the base, or bfloat16 where that is quantized."""
    if isinstance(base, Dequantizes):
        return torch.bfloat16
    return base.get_parameter("weight").dtype


def linear_like(base: nn.Module, weight_OI: Tensor) -> nn.Linear:
    """A frozen linear with this weight and the base's bias."""
    made = linear_of(weight_OI)
    if isinstance(base.bias, Tensor):
        made.bias = nn.Parameter(base.bias.detach().to(weight_OI.dtype), requires_grad=False)
    return made.train(base.training)


def linear_of(weight_OI: Tensor) -> nn.Linear:
    """A frozen linear without a bias."""
    made = nn.Linear(1, 1, bias=False)
    made.out_features, made.in_features = weight_OI.shape
    made.weight = nn.Parameter(weight_OI, requires_grad=False)
    return made


def wrappers(model: nn.Module) -> Iterator[tuple[str, Adapted]]:
    """Each wrapper in a model, with its name."""
    for name, module in model.named_modules():
        if isinstance(module, Adapted):
            yield name, module


@contextmanager
def disabled(model: nn.Module) -> Iterator[None]:
    """Within it the model is its base, bit for bit: the reference of DPO, say."""
    found: list[tuple[Adapted, bool]] = [(w, w.enabled) for _, w in wrappers(model)]
    try:
        for wrapper, _ in found:
            wrapper.enabled = False
        yield
    finally:
        for wrapper, before in found:
            wrapper.enabled = before


class SavedCopy(Part):
    """A whole module, trained and saved."""

    def __init__(self, module: nn.Module, sources: Mapping[str, Any]) -> None:
        super().__init__()
        self.module = module
        self.sources = dict(sources)

    def tensors(self) -> dict[str, Tensor]:
        written: dict[str, Tensor] = {}
        for leaf, source in self.sources.items():
            parts = source.write(self.module.get_parameter(leaf).detach())
            written.update(zip(source.names, parts, strict=True))
        return written

    @torch.no_grad()
    def load(self, tensors: Mapping[str, Tensor]) -> None:
        for leaf, source in self.sources.items():
            found = source.read([tensors[name] for name in source.names])
            self.module.get_parameter(leaf).copy_(found)


class AdaptedCopy(Adapted):
    """A module of which an adapter has a copy of its own."""

    def adapted(self, x: Tensor) -> Tensor:
        y: Tensor = self.current(x)
        return y

    def with_each(self, parts: Sequence[Part], x: Tensor, y: Tensor) -> Tensor:
        copied: Tensor = _only(parts)(x)
        return copied.to(y.dtype)

    def _with_each_projected(self, parts: Sequence[Part], x: Tensor, y: Tensor) -> Tensor:
        return project(_only(parts), x).to(y.dtype)

    @property
    def current(self) -> nn.Module:
        copies = [cast(SavedCopy, part).module for part in self.active_parts()]
        if self.enabled and self.merged is None and copies:
            return copies[-1]
        return super().current

    def project(self, x_D: Tensor) -> Tensor:
        """The scores of a head that is tied to a table of which this is a copy."""
        if (route := self.route) is None:
            return project(self.current, x_D)
        return route.apply(x_D, project(self.base, x_D), self.parts_of, self._with_each_projected)

    @property
    def weight(self) -> Tensor:
        """Of the module that computes: for those who multiply with it themselves."""
        return self.current.get_parameter("weight")

    def with_parts(self) -> nn.Module:
        return self.current


def _only(parts: Sequence[Part]) -> nn.Module:
    (part,) = parts
    return cast(SavedCopy, part).module
