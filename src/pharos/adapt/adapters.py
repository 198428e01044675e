"""Adapters on a model: small trained parts, swapped in from outside.

    adapters = Adapters(model)                  # freezes the model
    adapters.add(LoraConfig(r=16))              # and this is what trains
    save_adapter(adapters, "adapter")           # PEFT reads it
    with disabled(model): ...                   # the base, bit for bit
    adapters.merge_and_unload()                 # a plain model again

A model may have several, by name; those that are active add up. For a batch whose rows go through
different ones, see `route`.
"""

import re
from collections.abc import Sequence
from contextlib import AbstractContextManager

from torch import nn

from pharos.adapt.config import AdapterConfig
from pharos.adapt.embeddings import PromptPart, TokenRowsPart
from pharos.adapt.layers import Adapted, Part, SavedCopy, wrappers
from pharos.adapt.plan import Place, Plan
from pharos.adapt.routing import check_routable, is_expert, make_route, routed
from pharos.adapt.sites import find_sites, head_copies, weight_map_of
from pharos.models.family import Model

DEFAULT = "default"


class Adapters:
    """The adapters of one model, which is frozen from here on. `configs` are their settings.

    `sites`, `weight_map` and `head_copies` are those of the model without adapters: with them, its
    own map no longer finds its parameters, and it cannot be saved before `merge_and_unload`, or
    `unload`. `in_experts` are the adapters that change experts of a mixture.
    """

    def __init__(self, model: Model) -> None:
        if any(wrappers(model)):
            raise ValueError("the model has adapters already; use the Adapters that made them")
        self.model = model
        self.sites = find_sites(model)
        self.weight_map = weight_map_of(model)
        self.head_copies = head_copies(model)
        self.configs: dict[str, AdapterConfig] = {}
        self._token = object()
        self.in_experts: set[str] = set()
        model.requires_grad_(False)

    def add(self, config: AdapterConfig, name: str = DEFAULT, *, seed: int = 0) -> None:
        """A new adapter, which becomes the active one. At first it changes nothing (a prompt has
        vectors of its own from the start). Raises ModelError for modules that there are not."""
        plan = self.new_plan(seed=seed)
        plan.put_all(config)
        self.install(plan, config, name)

    def new_plan(self, *, seed: int = 0) -> Plan:
        return Plan(self.model, self.sites, self.weight_map, seed=seed)

    def install(self, plan: Plan, config: AdapterConfig, name: str) -> None:
        """Swap the wrappers in, make the parts, and activate."""
        self._check_new(name)
        plan.check()
        for place in plan.places:
            wrapper = self._wrapper(place)
            wrapper.add(name, place.make(wrapper.base))
        self.configs[name] = config
        if any(is_expert(self.model, place.ours) for place in plan.places):
            self.in_experts.add(name)
        self.activate(name)

    def activate(self, *names: str) -> None:
        """These adapters take part from now on, and their parameters train; the others rest."""
        for name in names:
            self._check_known(name)
        self._check_unmerged()
        self._check_sum(names)
        for _, wrapper in wrappers(self.model):
            wrapper.active = names
            for name in self.configs:
                for part in wrapper.parts_of(name):
                    part.requires_grad_(name in names)

    def route(self, parts: Sequence[tuple[str | None, int]]) -> AbstractContextManager[None]:
        """Within it, and in this thread, a batch is made of these parts, one after another: an
        adapter's name, or None for the base alone, and how many rows follow. Which adapters are
        active plays no role.

        Raises ValueError for an unknown name and ModelError for a model that mixes rows.
        """
        for name, _ in parts:
            if name is not None:
                self._check_known(name)
        device = next(self.model.parameters()).device
        route = make_route(self._token, parts, device=device)
        if len(route.groups) > 1:
            check_routable(self.model, {name for name, _ in route.groups} & self.in_experts)
        return routed(route)

    def freeze(self, name: str = DEFAULT) -> None:
        """For inference alone: what an adapter's parts compute anew in every pass, though it is
        always the same, they compute now."""
        self._check_known(name)
        for _, wrapper in wrappers(self.model):
            for part in wrapper.parts_of(name):
                part.freeze(wrapper.base)

    def parts(self, name: str = DEFAULT) -> list[Part]:
        """What an adapter has, everywhere in the model: its parameters are these modules'."""
        self._check_known(name)
        return [part for _, wrapper in wrappers(self.model) for part in wrapper.parts_of(name)]

    def remove(self, name: str = DEFAULT) -> None:
        """Forget an adapter. Where no other is left, the module that was there comes back."""
        self._check_known(name)
        self._check_unmerged()
        del self.configs[name]
        self.in_experts.discard(name)
        for ours, wrapper in list(wrappers(self.model)):
            wrapper.discard(name)
            if not wrapper.adapters:
                self._set(ours, wrapper.base)

    @property
    def is_merged(self) -> bool:
        return any(wrapper.merged is not None for _, wrapper in wrappers(self.model))

    def merge(self) -> None:
        """Compute with the active adapters in the weights: no cost, and no training. The base is
        kept beside. A quantized base is merged in bfloat16. Raises ValueError for a prompt or a
        bottleneck, which no weight can hold."""
        self._check_unmerged()
        merged = [(w, w.with_parts()) for _, w in wrappers(self.model) if w.active_parts()]
        for wrapper, module in merged:
            wrapper.merged = module

    def unmerge(self) -> None:
        """The base as it was, bit for bit, and the adapters beside it again."""
        for _, wrapper in wrappers(self.model):
            wrapper.merged = None

    def unload(self) -> Model:
        """The model without adapters; they are lost unless saved."""
        for ours, wrapper in list(wrappers(self.model)):
            self._set(ours, wrapper.base)
        self.configs.clear()
        return self.model

    def merge_and_unload(self) -> Model:
        """A plain model that computes what base and active adapters did. One weight after another,
        so two models' memory is never needed."""
        for _, wrapper in wrappers(self.model):
            wrapper.check_mergeable()
        for ours, wrapper in list(wrappers(self.model)):
            made = wrapper.merged or (wrapper.with_parts() if wrapper.active_parts() else None)
            self._set(ours, made or wrapper.base)
        self.configs.clear()
        return self.model

    def _wrapper(self, place: Place) -> Adapted:
        module = self.model.get_submodule(place.ours)
        if isinstance(module, Adapted):
            return module
        wrapper = place.wrapper(module, self._token)
        self._set(place.ours, wrapper)
        return wrapper

    def _set(self, ours: str, module: nn.Module) -> None:
        parent, _, leaf = ours.rpartition(".")
        setattr(self.model.get_submodule(parent), leaf, module)

    def _check_known(self, name: str) -> None:
        if name not in self.configs:
            known = ", ".join(self.configs) or "none"
            raise ValueError(f"unknown adapter {name!r}; there are {known}")

    def _check_new(self, name: str) -> None:
        if not re.fullmatch(r"[A-Za-z0-9_-]+", name) or hasattr(nn.ModuleDict, name):
            raise ValueError(f"an adapter cannot be named {name!r}; take letters, digits, - and _")
        if name in self.configs:
            raise ValueError(f"there is an adapter {name!r} already; remove it, or rename this one")

    def _check_unmerged(self) -> None:
        if self.is_merged:
            raise ValueError("the adapters are merged; unmerge them first")

    def _check_sum(self, names: tuple[str, ...]) -> None:
        """What cannot be added up: DoRA's factors, prompts, rows, whole modules."""
        alone = (SavedCopy, PromptPart, TokenRowsPart)
        for ours, wrapper in wrappers(self.model):
            found = [parts for name in names if (parts := wrapper.parts_of(name))]
            all_parts = [part for parts in found for part in parts]
            is_dora = any(getattr(part, "magnitude_O", None) is not None for part in all_parts)
            if len(found) > 1 and (is_dora or any(isinstance(part, alone) for part in all_parts)):
                shown = ", ".join(names)
                raise ValueError(f"adapters {shown} do not add up at {ours}; activate one of them")
