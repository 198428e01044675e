"""What an adapter puts where, told before anything of the model is touched.

Shapes: P tokens of a prompt, D hidden width.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from pharos.adapt.bottleneck import BottleneckPart
from pharos.adapt.config import (
    AdapterConfig,
    BottleneckConfig,
    LoraConfig,
    PromptTuningConfig,
    Targets,
)
from pharos.adapt.embeddings import AdaptedEmbedding, PromptPart, TokenRowsPart
from pharos.adapt.layers import Adapted, AdaptedCopy, Part, SavedCopy
from pharos.adapt.linears import AdaptedLinear
from pharos.adapt.lora import EmbeddingLoraPart, LoraPart
from pharos.adapt.prompt_tuning import first_rows
from pharos.adapt.saved_modules import SavedModule, saved_modules
from pharos.adapt.sites import Site, Sites, select, sublayer_ends
from pharos.adapt.vocabulary import EMBEDDINGS, is_tied
from pharos.core.errors import ModelError
from pharos.models.family import Body, Model
from pharos.models.weight_map import WeightMap


class Place(NamedTuple):
    """Our module of the name `ours` is to be wrapped, and `make` gives the part, of the module that
    is wrapped."""

    ours: str
    wrapper: type[Adapted]
    make: Callable[[nn.Module], Part]


class Plan:
    """The places of one adapter. Raises ModelError for what the model has not, or cannot do."""

    def __init__(self, model: Model, sites: Sites, weight_map: WeightMap, *, seed: int) -> None:
        self.model, self.sites, self.weight_map = model, sites, weight_map
        self.generator = torch.Generator().manual_seed(seed)
        self.places: list[Place] = []

    def put_all(self, config: AdapterConfig) -> None:
        """Everything that the settings ask for."""
        if isinstance(config, LoraConfig):
            for site in self._chosen(config.target_modules):
                self.put_lora(site, config, config.rank_of(site.theirs))
            if config.trainable_token_indices:
                self.put_tokens(self.embedding_site(), config.trainable_token_indices)
        elif isinstance(config, BottleneckConfig):
            targets = config.target_modules
            for site in sublayer_ends(self.sites) if targets is None else self._chosen(targets):
                self.put_bottleneck(site, config)
        else:
            self._put_new_prompt(config)
        for saved in saved_modules(self.model, self.weight_map, config.modules_to_save):
            self.put_copy(saved)

    def put_lora(self, site: Site, config: LoraConfig, rank: int) -> None:
        self.check_tie(site.ours, "a low-rank update of")

        def make(base: nn.Module) -> Part:
            if isinstance(base, nn.Embedding):
                return EmbeddingLoraPart(site, base, config, rank, self.generator)
            return LoraPart(site, base, config, rank, self.generator)

        self._put(site.ours, AdaptedLinear if site.is_linear else AdaptedEmbedding, make)

    def put_tokens(self, site: Site, ids: tuple[int, ...]) -> None:
        size = self.model.config.vocab_size
        if len(set(ids)) < len(ids) or not all(0 <= i < size for i in ids):
            raise ModelError(
                f"trainable_token_indices (…, {', '.join(map(str, sorted(ids)[-3:]))}) must be "
                f"different ids below {size}, the size of the vocabulary; for new tokens, call "
                "grow_vocabulary first (model.new_tokens in a recipe)"
            )

        def make(base: nn.Module) -> Part:
            assert isinstance(base, nn.Embedding)
            return TokenRowsPart(site.theirs, ids, base)

        self._put(site.ours, AdaptedEmbedding, make)

    def put_bottleneck(self, site: Site, config: BottleneckConfig) -> None:
        if site.num_parts > 1 or not site.is_linear:
            raise ModelError(f"{site.theirs} is no linear of its own here; name another module")

        def make(base: nn.Module) -> Part:
            return BottleneckPart(site, base, config, self.generator)

        self._put(site.ours, AdaptedLinear, make)

    def put_prompt(self, make_rows: Callable[[nn.Embedding], Tensor]) -> None:
        """`make_rows` gives `[P, D]`, of the embedding. PEFT's files hold it twice for an
        encoder-decoder."""
        num_copies = 2 if hasattr(self.model, "decode") else 1

        def make(base: nn.Module) -> Part:
            assert isinstance(base, nn.Embedding)
            return PromptPart(make_rows(base), base.num_embeddings, num_copies)

        self._put(self.embedding_site().ours, AdaptedEmbedding, make)

    def put_copy(self, saved: SavedModule) -> None:
        def make(base: nn.Module) -> Part:
            return SavedCopy(saved.copy_of(base), saved.sources)

        self._put(saved.ours, AdaptedCopy, make)

    def embedding_site(self) -> Site:
        """The embedding of the tokens that are read."""
        wanted = "embedding" if isinstance(self.model, Body) else EMBEDDINGS[0]
        for site in self.sites.values():
            if site.ours == wanted:
                return site
        raise ModelError(f"a {type(self.model).__name__} has more than one embedding of tokens")

    def check_tie(self, ours: str, what: str) -> None:
        if ours in EMBEDDINGS and is_tied(self.model):
            raise ModelError(
                f"{what} the embedding would not reach the head, which is tied to it; call "
                "untie_embeddings(model) first (model.untie_embeddings in a recipe, --untie where "
                "it is merged), or train rows with trainable_token_indices"
            )

    def check(self) -> None:
        """No module can be wrapped in two ways, nor one that is more than a linear."""
        kinds: dict[str, set[type[Adapted]]] = {}
        for place in self.places:
            standing = self.model.get_submodule(place.ours)
            there: set[type[Adapted]] = {type(standing)} if isinstance(standing, Adapted) else set()
            kinds.setdefault(place.ours, there).add(place.wrapper)
            if getattr(standing, "gelu", False):
                raise ModelError(
                    f"{place.ours} was converted together with the GELU behind it; load adapters "
                    "before the model is converted"
                )
        for ours, found in kinds.items():
            if len(found) > 1:
                raise ModelError(f"{ours} is both adapted and in modules_to_save; choose one")

    def _put_new_prompt(self, config: PromptTuningConfig) -> None:
        number, init_ids = config.num_virtual_tokens, config.init_ids
        size = self.model.config.vocab_size
        if not all(0 <= i < size for i in init_ids):
            raise ModelError(f"init_ids {list(init_ids)[:5]} must be ids below {size}")
        self.put_prompt(lambda base: first_rows(base, number, init_ids, self.generator))

    def _chosen(self, targets: Targets) -> Sequence[Site]:
        if is_tied(self.model) and not isinstance(targets, str) and "lm_head" in targets:
            raise ModelError(
                "lm_head is the embedding again and has no weight of its own; call "
                "untie_embeddings(model) first (model.untie_embeddings in a recipe)"
            )
        return select(self.sites, targets)

    def _put(self, ours: str, kind: type[Adapted], make: Callable[[nn.Module], Part]) -> None:
        self.places.append(Place(ours, kind, make))
