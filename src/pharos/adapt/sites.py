"""Where a model can be adapted, by the names that its checkpoint has.

One linear of ours may be several of the checkpoint's (query, key and value in one): each of these
is a site of its own, with its rows of the outputs. So an adapter for query and value alone is what
it is anywhere else.
"""

import difflib
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from pharos.adapt.config import ALL_LINEAR, Targets
from pharos.core.errors import ModelError
from pharos.models.family import Body, Model
from pharos.models.load import family_of
from pharos.models.weight_map import Source, Transposed, WeightMap

NOT_BY_DEFAULT = ("router",)


@dataclass(frozen=True, slots=True)
class Site:
    """A linear or an embedding of the checkpoint: part number `part` of the `num_parts` that our
    module of the name `ours` is joined of."""

    theirs: str
    ours: str
    is_linear: bool
    is_inside: bool
    """Between the embedding and the head."""
    is_transposed: bool = False
    part: int = 0
    num_parts: int = 1

    def rows(self, out_features: int) -> slice:
        size = out_features // self.num_parts
        return slice(self.part * size, (self.part + 1) * size)


Sites = Mapping[str, Site]
"""By the checkpoint's name."""


def weight_map_of(model: Model) -> WeightMap:
    return model.weight_map(_prefix(model))


def head_copies(model: Model) -> dict[str, str]:
    """By the names that a file may hold a tied head's weight under, the names of what it is."""
    has_head = getattr(model, "lm_head", model) is None
    return model.copies(_prefix(model)) if has_head else {}


def _prefix(model: Model) -> str:
    return "" if isinstance(model, Body) else family_of(model.config.model_type).prefix


def find_sites(model: Model) -> dict[str, Site]:
    """Every linear and embedding of a model that has no adapters yet."""
    sites: dict[str, Site] = {}
    for name, source in weight_map_of(model).items():
        ours, _, kind = name.rpartition(".")
        module = model.get_submodule(ours)
        is_linear = is_linear_module(module)
        if kind == "weight" and (is_linear or isinstance(module, nn.Embedding)):
            is_inside = isinstance(model, Body) or ours.startswith("body.")
            for site in _sites_of(source, ours, is_linear, is_inside):
                sites[site.theirs] = site
    return sites


def is_linear_module(module: nn.Module) -> bool:
    """Also one whose weight is kept in another form."""
    is_table = isinstance(module, nn.Embedding)
    return isinstance(module, nn.Linear) or (hasattr(module, "dequantize") and not is_table)


def _sites_of(source: Source, ours: str, is_linear: bool, is_inside: bool) -> list[Site]:
    return [
        Site(
            theirs=name.removesuffix(".weight"),
            ours=ours,
            is_linear=is_linear,
            is_inside=is_inside,
            is_transposed=isinstance(source, Transposed),
            part=part,
            num_parts=len(source.names),
        )
        for part, name in enumerate(source.names)
    ]


def select(sites: Sites, targets: Targets) -> list[Site]:
    """The sites that are meant. Raises ModelError for a name that no site has."""
    if targets == ALL_LINEAR:
        return [site for site in inside_linears(sites) if not _is_left_out(site)]
    if isinstance(targets, str):
        found = [site for name, site in sites.items() if re.fullmatch(targets, name)]
        if not found:
            raise _unknown(targets, sites)
        return found
    for target in targets:
        if not any(has_ending(name, target) for name in sites):
            raise _unknown(target, sites)
    return [s for s in sites.values() if any(has_ending(s.theirs, t) for t in targets)]


def inside_linears(sites: Sites) -> list[Site]:
    return [site for site in sites.values() if site.is_linear and site.is_inside]


def sublayer_ends(sites: Sites) -> list[Site]:
    """The last linears of attention and feed-forward."""
    return [s for s in inside_linears(sites) if s.ours.rpartition(".")[2] in ("out", "down")]


def has_ending(name: str, ending: str) -> bool:
    return name == ending or name.endswith(f".{ending}")


def around(name: str) -> list[str]:
    """A name, behind those of the modules that it is in."""
    parts = name.split(".")
    return [".".join(parts[:count]) for count in range(1, len(parts) + 1)]


def in_short(chosen: Collection[Site], sites: Sites) -> list[str]:
    """The shortest endings of names that mean these sites and no others."""
    names = {site.theirs for site in chosen}
    short: set[str] = set()
    for name in names:
        parts = name.split(".")
        endings = (".".join(parts[-count:]) for count in range(1, len(parts) + 1))
        is_clear = (e for e in endings if all(n in names for n in sites if has_ending(n, e)))
        short.add(next(is_clear))
    return sorted(short)


def _is_left_out(site: Site) -> bool:
    return site.ours.rpartition(".")[2] in NOT_BY_DEFAULT


def _unknown(target: str, sites: Sites) -> ModelError:
    endings = sorted({name.rpartition(".")[2] for name in sites})
    near: Sequence[str] = difflib.get_close_matches(target, endings, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return ModelError(
        f"the model has no module {target!r} to adapt{hint} Its modules end in {', '.join(endings)}"
    )
