"""Adapters: small trainable parts swapped into a model that does not know of them."""

from pharos.adapt.adapters import Adapters
from pharos.adapt.config import BottleneckConfig, LoraConfig, PromptTuningConfig
from pharos.adapt.layers import disabled
from pharos.adapt.peft_files import begin_from, load_adapter, restore_adapter, save_adapter
from pharos.adapt.prompt_tuning import virtual_ids, with_prompt
from pharos.adapt.vocabulary import grow_vocabulary, is_tied, untie_embeddings

__all__ = [
    "Adapters",
    "BottleneckConfig",
    "LoraConfig",
    "PromptTuningConfig",
    "begin_from",
    "disabled",
    "grow_vocabulary",
    "is_tied",
    "load_adapter",
    "restore_adapter",
    "save_adapter",
    "untie_embeddings",
    "virtual_ids",
    "with_prompt",
]
