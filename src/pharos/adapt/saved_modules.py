"""Modules that an adapter trains and saves whole: the head of a classifier, an embedding."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn

from pharos.adapt.embeddings import embedding_of
from pharos.adapt.layers import Dequantizes, linear_like, weight_of
from pharos.adapt.sites import around, has_ending
from pharos.core.errors import ModelError
from pharos.models.family import Body, Model
from pharos.models.weight_map import Source, WeightMap


@dataclass(frozen=True, slots=True)
class SavedModule:
    """Our module of the name `ours`, and where each of its parameters stands in a file."""

    ours: str
    sources: Mapping[str, Source]

    def copy_of(self, module: nn.Module) -> nn.Module:
        if isinstance(module, Dequantizes):
            weight = weight_of(module, torch.float32)
            is_table = isinstance(module, nn.Embedding)
            module = embedding_of(weight) if is_table else linear_like(module, weight)
        return copy.deepcopy(module).float().requires_grad_()

    @property
    def names(self) -> set[str]:
        """The modules that the checkpoint knows it as."""
        return {n.rpartition(".")[0] for source in self.sources.values() for n in source.names}


def saved_modules(
    model: Model, weight_map: WeightMap, wanted: tuple[str, ...] | None
) -> list[SavedModule]:
    """Those whose checkpoint's names, or modules around them, end in what is wanted; None stands
    for a classifier's head. Raises ModelError for a name that no module has."""
    modules = modules_of(weight_map)
    if wanted is None:
        return [module for module in modules if is_fresh_head(model, module)]
    for name in wanted:
        if not any(_is_meant(module, name) for module in modules):
            known = ", ".join(sorted(names_outside(model, modules)))
            raise ModelError(
                f"the model has no module {name!r} to save; outside the body are {known}"
            )
    return [module for module in modules if any(_is_meant(module, name) for name in wanted)]


def modules_of(weight_map: WeightMap) -> list[SavedModule]:
    """Every module that has parameters of its own."""
    modules: dict[str, dict[str, Source]] = {}
    for name, source in weight_map.items():
        ours, _, leaf = name.rpartition(".")
        if ours:
            modules.setdefault(ours, {})[leaf] = source
    return [SavedModule(ours, sources) for ours, sources in modules.items()]


def is_fresh_head(model: Model, module: SavedModule) -> bool:
    """Whether it belongs to a head that begins as random numbers."""
    is_head = not isinstance(model, Body) and not module.ours.startswith("body.")
    return is_head and not hasattr(model, "lm_head") and not hasattr(model, "bias")


def names_outside(model: Model, modules: list[SavedModule]) -> set[str]:
    outside = [module for module in modules if not module.ours.startswith("body.")]
    return {name for module in outside for name in module.names} or {"none"}


def _is_meant(module: SavedModule, wanted: str) -> bool:
    return all(any(has_ending(outer, wanted) for outer in around(name)) for name in module.names)
