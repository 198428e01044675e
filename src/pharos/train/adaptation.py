"""A recipe's `adapter:` section: a few weights beside a frozen model, which alone are trained and
saved, in PEFT's files.

    adapter: {method: lora, r: 16, lora_alpha: 32}
    adapter: {method: lora, r: 16, lora_alpha: 32, begin_from: runs/reader/adapter}
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pharos.adapt import (
    Adapters,
    BottleneckConfig,
    LoraConfig,
    PromptTuningConfig,
    begin_from,
    restore_adapter,
    save_adapter,
)
from pharos.adapt.config import AdapterConfig
from pharos.adapt.peft_config import CONFIG_FILE
from pharos.core.errors import TrainingError
from pharos.models.family import Model
from pharos.quant import convert_nf4
from pharos.train.runner import StepRunner
from pharos.train.settings import read_settings

METHODS: Mapping[str, type] = {
    "lora": LoraConfig,
    "dora": LoraConfig,
    "qlora": LoraConfig,
    "bottleneck": BottleneckConfig,
    "prompt_tuning": PromptTuningConfig,
}
"""By name, the class whose fields are the other keys. `dora` sets `use_dora`; `qlora` is LoRA on a
base in four bits."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Adaptation:
    """`begin_from` is the folder of a trained adapter whose updates this one begins as."""

    config: AdapterConfig
    on_nf4: bool
    begin_from: Path | None = None


def read_adaptation(raw: Mapping[str, Any]) -> Adaptation:
    """Raises TrainingError for a method or a key that there is none of."""
    keys = {key: value for key, value in raw.items() if key not in ("method", "begin_from")}
    method, beginning = str(raw.get("method")), raw.get("begin_from")
    if method not in METHODS:
        raise TrainingError(f"adapter.method is {method!r}; choose from {', '.join(METHODS)}")
    config: AdapterConfig = read_settings(METHODS[method], keys, "adapter")
    if method == "dora":
        assert isinstance(config, LoraConfig)
        config = replace(config, use_dora=True)
    folder = None if beginning is None else Path(str(beginning)).expanduser()
    return Adaptation(config=config, on_nf4=method == "qlora", begin_from=folder)


def check_beginning(adaptation: Adaptation) -> None:
    """Raises TrainingError where there is no adapter to begin from."""
    folder = adaptation.begin_from
    if folder is not None and not (folder / CONFIG_FILE).is_file():
        raise TrainingError(
            f"adapter.begin_from: there is no adapter in {folder} (it has no {CONFIG_FILE}); train "
            "that one first, or leave begin_from out"
        )


def check_trains_tokens(adaptation: Adaptation) -> None:
    """Raises TrainingError for an adapter that has no embeddings of tokens."""
    if not isinstance(adaptation.config, LoraConfig):
        raise TrainingError(
            "adapter.method cannot learn the embeddings of model.new_tokens; choose lora, dora or "
            "qlora"
        )


def with_new_tokens(adaptation: Adaptation, model: Model, ids: Sequence[int]) -> Adaptation:
    """The embeddings of these tokens are trained and saved too. Raises TrainingError where the head
    has other rows for them, which nothing would train."""
    config = adaptation.config
    if not ids or not isinstance(config, LoraConfig):
        return adaptation
    targets = config.target_modules if isinstance(config.target_modules, tuple) else ()
    has_head = getattr(model, "lm_head", None) is not None
    if has_head and "lm_head" not in (*targets, *(config.modules_to_save or ())):
        raise TrainingError(
            "the model's head has rows of its own for model.new_tokens, which nothing would train; "
            "give adapter.modules_to_save: [lm_head]"
        )
    tokens = (*config.trainable_token_indices, *ids)
    return replace(adaptation, config=replace(config, trainable_token_indices=tokens))


def adapt(model: Model, adaptation: Adaptation, *, compute: torch.dtype, seed: int) -> Adapters:
    """Freeze the model, in NF4 if so told, and put a new adapter on it, which may begin as another.
    `compute` is the type that its matrices are multiplied in."""
    stored = next(p.dtype for p in model.parameters() if p.is_floating_point())
    if adaptation.on_nf4:
        convert_nf4(model)
    model.to(frozen_dtype(stored, compute))
    adapters = Adapters(model)
    adapters.add(adaptation.config, seed=seed)
    if adaptation.begin_from is not None:
        begin_from(adapters, adaptation.begin_from)
    return adapters


def frozen_dtype(stored: torch.dtype, compute: torch.dtype) -> torch.dtype:
    """What weights that are not trained are kept in: 16 bits if they are stored so and bfloat16 is
    computed with, which reads float16 as well; else float32."""
    is_small = stored in (torch.bfloat16, torch.float16)
    return torch.bfloat16 if is_small and compute == torch.bfloat16 else torch.float32


class AdapterRunner(StepRunner):
    """Trains an adapter: what is saved and loaded is the adapter alone, `base` being the name of
    the model that it belongs to."""

    def __init__(
        self,
        module: nn.Module,
        model: nn.Module,
        adapters: Adapters,
        *,
        base: str,
        dtype: torch.dtype,
        is_compiled: bool = False,
    ) -> None:
        super().__init__(module, model, dtype=dtype, is_compiled=is_compiled)
        self.adapters, self.base = adapters, base

    def save(
        self, folder: Path, optimizer: torch.optim.Optimizer, beside: Callable[[Path], None]
    ) -> None:
        save_adapter(self.adapters, folder, base_model=self.base)
        beside(folder)

    def load(self, folder: Path, optimizer: torch.optim.Optimizer) -> None:
        restore_adapter(self.adapters, folder)


def check_all_saved(model: nn.Module, adapters: Adapters) -> None:
    """Nothing must train that the adapter's files do not hold."""
    saved = {id(p) for part in adapters.parts() for p in part.parameters()}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and id(parameter) not in saved:
            raise TrainingError(
                f"{name} would train beside the adapter and not be saved with it; leave adapter "
                "out, or choose another objective"
            )
