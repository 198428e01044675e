"""Adapters in the files of Hugging Face's PEFT: `adapter_config.json`, `adapter_model.safetensors`.

Tensors have the checkpoint's names, `base_model.model.<module>.lora_A.weight`; what is joined or
transposed in our modules is taken apart on the way. When a file is read, its tensors tell what is
adapted, and with which rank; the config tells how large the updates are. Bottleneck adapters, which
PEFT does not have, are kept in the same way under a `peft_type` of their own.

A file may come from a stranger: whatever does not fit is a ModelError that names it.
"""

from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pharos.adapt.adapters import DEFAULT, Adapters
from pharos.adapt.config import AdapterConfig, BottleneckConfig, LoraConfig, PromptTuningConfig
from pharos.adapt.layers import Dequantizes, Part, SavedCopy, weight_of
from pharos.adapt.peft_config import (
    CONFIG_FILE,
    PROMPT,
    own_config,
    read_adapter_config,
    read_config,
    shared_config,
    token_ids,
)
from pharos.adapt.saved_modules import modules_of
from pharos.adapt.sites import Site
from pharos.adapt.vocabulary import is_tied
from pharos.adapt.weights_file import (
    WEIGHTS_FILE,
    TrainedOn,
    read_tensors,
    read_trained_on,
    write_tensors,
)
from pharos.core.errors import ModelError
from pharos.core.json_files import write_object

PROMPT_KEY = "prompt_embeddings"
TOKENS = ".token_adapter.trainable_tokens_delta"


def save_adapter(
    adapters: Adapters, folder: str | Path, name: str = DEFAULT, *, base_model: str | None = None
) -> None:
    """Write an adapter as PEFT does; `base_model` tells readers the model that it is for. The files
    take their names only once they are whole."""
    folder = Path(folder)
    parts = adapters.parts(name)
    config = adapters.configs[name]
    folder.mkdir(parents=True, exist_ok=True)
    saved = _saved_names(adapters, parts)
    raw = shared_config(adapters.model, base_model) | own_config(adapters, config, parts, saved)
    prefix = _prefix(raw["peft_type"])
    tensors = {
        key if key == PROMPT_KEY else f"{prefix}{key}": tensor.detach().cpu().contiguous()
        for part in parts
        for key, tensor in _with_head(adapters, part.tensors()).items()
    }
    weights = folder / f"{WEIGHTS_FILE}.part"
    write_tensors(weights, tensors, TrainedOn.of(adapters.model))
    weights.chmod((folder.stat().st_mode & 0o666) | 0o600)  # safetensors writes for the owner only
    write_object(folder / f"{CONFIG_FILE}.part", raw)
    weights.replace(folder / WEIGHTS_FILE)
    (folder / f"{CONFIG_FILE}.part").replace(folder / CONFIG_FILE)


def load_adapter(adapters: Adapters, folder: str | Path, name: str = DEFAULT) -> None:
    """An adapter from its folder, which becomes the active one. Raises ModelError for one that does
    not fit, before anything of the model is touched."""
    folder = Path(folder)
    raw, tensors = read_adapter_config(folder), tensors_of(folder)
    try:
        _check_head(adapters, folder, tensors)
        _Loading(adapters, raw, tensors).run(name)
    except ModelError as error:
        base = raw.get("base_model_name_or_path")
        trained = f" (it was trained on {str(base)[:80]!r})" if base else ""
        raise ModelError(f"{folder} does not fit this model{trained}: {error}") from error


def restore_adapter(adapters: Adapters, folder: str | Path, name: str = DEFAULT) -> None:
    """The values that `save_adapter` wrote, into an adapter that is there already: its parameters
    stay the same tensors, so an optimizer goes on with them. Raises ModelError for the files of
    another adapter."""
    folder = Path(folder)
    _fill(adapters.parts(name), folder)


def begin_from(adapters: Adapters, folder: str | Path, name: str = DEFAULT) -> None:
    """The updates of a saved adapter, as the beginning of one that is there already. Modules that
    are saved whole begin as they are: the head is another task's. Raises ModelError for an adapter
    of another kind, rank or scale."""
    folder = Path(folder)
    raw = read_adapter_config(folder)
    found, wanted = (_scale_of(config) for config in (read_config(raw), adapters.configs[name]))
    if found != wanted:
        raise ModelError(f"{folder} has {found}, and what shall begin as it {wanted}")
    _fill([part for part in adapters.parts(name) if not isinstance(part, SavedCopy)], folder)


def _fill(parts: Collection[Part], folder: Path) -> None:
    tensors = tensors_of(folder)
    wanted = {key: tensor.shape for part in parts for key, tensor in part.tensors().items()}
    for key, shape in wanted.items():
        if key not in tensors or tensors[key].shape != shape:
            raise ModelError(f"{folder / WEIGHTS_FILE} has no {key} of {tuple(shape)}")
    for part in parts:
        part.load(tensors)


def _check_head(adapters: Adapters, folder: Path, names: Collection[str]) -> None:
    """Raises ModelError for an adapter that knows the head apart from the embedding, where both are
    one weight. Of another architecture's adapter something else is to be said."""
    if not any(name.partition(".lora_")[0] in adapters.sites for name in names):
        return
    copies = adapters.head_copies
    heads = tuple(copy.removesuffix("weight") for copy in copies)
    is_apart = any(name.startswith(heads) and copies.get(name) not in names for name in names)
    if is_tied(adapters.model) and (is_apart or read_trained_on(folder).has_own_head):
        raise ModelError(
            "it was trained with a head apart from the embedding, and here both are one weight; "
            "call untie_embeddings(model) first, or merge with --untie"
        )


def _scale_of(config: AdapterConfig) -> str:
    """The kind of adapter, and what its updates are multiplied by."""
    if not isinstance(config, LoraConfig):
        return type(config).__name__
    keys = ("r", "lora_alpha", "use_rslora", "use_dora")
    return ", ".join(f"{key} {getattr(config, key)}" for key in keys)


def tensors_of(folder: Path) -> dict[str, Tensor]:
    """What an adapter's folder holds, by the names that the checkpoint of its model has."""
    prefix = _prefix(read_adapter_config(folder)["peft_type"])
    return {key.removeprefix(prefix): tensor for key, tensor in read_tensors(folder).items()}


def needs_quantized_base(folder: Path) -> bool:
    """Whether the adapter was trained on an NF4 base: that is the base to merge it into."""
    return read_trained_on(folder).quantization == "nf4"


def most_token_id(folder: Path) -> int:
    """The largest id whose embedding the adapter has trained; -1 if there is none."""
    return max(token_ids(read_adapter_config(folder).get("trainable_token_indices")), default=-1)


class _Loading:
    """One adapter on its way from its files into a model. Tensors are claimed as they are planned;
    what nobody claims is an error."""

    def __init__(
        self, adapters: Adapters, raw: Mapping[str, Any], tensors: Mapping[str, Tensor]
    ) -> None:
        self.adapters, self.raw, self.tensors = adapters, raw, dict(tensors)
        self.plan = adapters.new_plan()
        self.unclaimed = set(self.tensors)

    def run(self, name: str) -> None:
        config = read_config(self.raw)
        if isinstance(config, PromptTuningConfig):
            self._plan_prompt(config)
        else:
            config = self._plan_sites(config)
        self._plan_saved()
        self._check_base_copies()
        if self.unclaimed:
            shown = ", ".join(sorted(self.unclaimed)[:5])
            raise ModelError(f"nothing here is called {shown}")
        self._check_shapes()
        self.adapters.install(self.plan, config, name)
        for part in self.adapters.parts(name):
            part.load(self.tensors)

    def _plan_sites(self, config: AdapterConfig) -> AdapterConfig:
        for key in sorted(self.tensors):
            if isinstance(config, LoraConfig) and key.endswith(".lora_A.weight"):
                self._plan_lora(config, key.removesuffix(".lora_A.weight"), is_linear=True)
            elif isinstance(config, LoraConfig) and key.endswith(".lora_embedding_A"):
                self._plan_lora(config, key.removesuffix(".lora_embedding_A"), is_linear=False)
            elif isinstance(config, LoraConfig) and key.endswith(TOKENS):
                config = self._plan_tokens(config, key.removesuffix(TOKENS))
            elif isinstance(config, BottleneckConfig) and key.endswith(".adapter_down.weight"):
                self._plan_bottleneck(config, key.removesuffix(".adapter_down.weight"))
        return config

    def _plan_lora(self, config: LoraConfig, name: str, *, is_linear: bool) -> None:
        site = self._site(name, is_linear=is_linear)
        kinds = ("A.weight", "B.weight") if is_linear else ("embedding_A", "embedding_B")
        first, second = (f"{name}.lora_{kind}" for kind in kinds)
        magnitude = f"{name}.lora_magnitude_vector"
        a_RI, has_length = self.tensors[first], magnitude in self.tensors
        if a_RI.ndim != 2 or not a_RI.numel():
            raise ModelError(f"{first} is {tuple(a_RI.shape)}; a matrix [rank, in] is expected")
        if has_length != config.use_dora and is_linear:
            raise ModelError(f"{magnitude} and use_dora of {CONFIG_FILE} do not agree")
        self._claim(first, second, *([magnitude] if has_length else []))
        rank = a_RI.shape[0]
        self.plan.put_lora(site, config, rank)

    def _plan_tokens(self, config: LoraConfig, name: str) -> LoraConfig:
        site = self._site(name, is_linear=False)
        ids = token_ids(self.raw.get("trainable_token_indices"))
        self._claim(f"{name}{TOKENS}")
        self.plan.put_tokens(site, ids)
        return replace(config, trainable_token_indices=ids)

    def _plan_bottleneck(self, config: BottleneckConfig, name: str) -> None:
        kinds = ("down.weight", "down.bias", "up.weight", "up.bias")
        self._claim(*(f"{name}.adapter_{kind}" for kind in kinds))
        site = self._site(name, is_linear=True)
        self.plan.put_bottleneck(site, config)

    def _plan_prompt(self, config: PromptTuningConfig) -> None:
        self._claim(PROMPT_KEY)
        rows, number = self.tensors[PROMPT_KEY], config.num_virtual_tokens
        if rows.ndim != 2 or rows.shape[0] < number:
            raise ModelError(f"{PROMPT_KEY} is {tuple(rows.shape)}; num_virtual_tokens is {number}")
        self.plan.put_prompt(lambda base: torch.zeros(number, base.embedding_dim))

    def _plan_saved(self) -> None:
        tied = is_tied(self.adapters.model) and not self._has_the_head_too()
        for saved in modules_of(self.adapters.weight_map):
            names = {name for source in saved.sources.values() for name in source.names}
            if names & self.unclaimed:
                if tied:
                    self.plan.check_tie(saved.ours, "a trained copy of")
                self._claim(*names)
                self.plan.put_copy(saved)

    def _has_the_head_too(self) -> bool:
        """Whether the file says of a tied head that it is the embedding."""
        says_so = bool(self.raw.get("ensure_weight_tying"))
        for copy, name in self.adapters.head_copies.items():
            if copy in self.tensors and name in self.tensors:
                says_so = torch.equal(self.tensors[copy], self.tensors[name])
                self._claim(*([copy] if says_so else []))
        return says_so

    def _check_base_copies(self) -> None:
        """PEFT saves the base's embedding beside an update of it: it must be that of this model."""
        for key in [key for key in self.unclaimed if key.endswith(".base_layer.weight")]:
            site = self.adapters.sites.get(key.removesuffix(".base_layer.weight"))
            if site is None:
                continue
            module = self.adapters.model.get_submodule(site.ours)
            weight, found = weight_of(module, torch.float32).cpu(), self.tensors[key]
            is_rounded = isinstance(module, Dequantizes)
            if weight.shape != found.shape or not (
                is_rounded or torch.allclose(weight, found.float())
            ):
                raise ModelError(f"{key} is not the weight of this model: it is another base")
            self._claim(key)

    def _site(self, name: str, *, is_linear: bool) -> Site:
        site = self.adapters.sites.get(name)
        if site is None or site.is_linear != is_linear:
            kind = "linear" if is_linear else "embedding"
            raise ModelError(f"there is no {kind} {name!r} here")
        return site

    def _claim(self, *keys: str) -> None:
        missing = [key for key in keys if key not in self.tensors]
        if missing:
            raise ModelError(f"{', '.join(missing)} is missing")
        self.unclaimed -= set(keys)

    def _check_shapes(self) -> None:
        """Parts are made to see what they expect, and thrown away."""
        for ours, _, make in self.plan.places:
            base = self.adapters.model.get_submodule(ours)
            part = make(getattr(base, "base", base))
            for key, wanted in part.tensors().items():
                found = self.tensors[key]
                if found.shape != wanted.shape or not found.is_floating_point():
                    shown = f"{tuple(found.shape)} of {found.dtype}"
                    raise ModelError(f"{key} is {shown}; the model has {tuple(wanted.shape)}")


def _saved_names(adapters: Adapters, parts: Collection[Part]) -> list[str]:
    copies = [part for part in parts if isinstance(part, SavedCopy)]
    names = {name for part in copies for name in _with_head(adapters, part.tensors())}
    return sorted({name.rpartition(".")[0] for name in names})


def _with_head(adapters: Adapters, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A trained embedding that is the head too is saved as both: PEFT would adapt one of them."""
    copies = {
        c: tensors[name].clone() for c, name in adapters.head_copies.items() if name in tensors
    }
    return {**tensors, **copies}


def _prefix(peft_type: object) -> str:
    """PEFT puts one module less around a model with a prompt."""
    return "base_model." if peft_type == PROMPT else "base_model.model."
