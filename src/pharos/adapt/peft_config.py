"""`adapter_config.json` of Hugging Face's PEFT, both ways: our settings as it tells them, and those
of ours that it does not have. A file may come from a stranger: what is of another kind, or changes
what is computed in a way that is not built here, is a ModelError that names it.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from pharos.adapt.adapters import Adapters
from pharos.adapt.config import (
    AdapterConfig,
    BottleneckConfig,
    LoraConfig,
    PromptTuningConfig,
    check_pattern,
)
from pharos.adapt.embeddings import TokenRowsPart
from pharos.adapt.layers import Part
from pharos.adapt.lora import EmbeddingLoraPart, LoraPart
from pharos.adapt.sites import in_short
from pharos.core.errors import ModelError
from pharos.core.json_files import read_object
from pharos.models.family import Model, Task
from pharos.models.load import family_of, task_of

CONFIG_FILE = "adapter_config.json"
MAX_CONFIG_BYTES = 4_000_000
LORA, BOTTLENECK, PROMPT = "LORA", "BOTTLENECK", "PROMPT_TUNING"

TASK_TYPES: Mapping[Task, str] = {
    "causal_lm": "CAUSAL_LM",
    "seq2seq_lm": "SEQ_2_SEQ_LM",
    "sequence_classification": "SEQ_CLS",
    "reward": "SEQ_CLS",
    "token_classification": "TOKEN_CLS",
    "question_answering": "QUESTION_ANS",
    "body": "FEATURE_EXTRACTION",
    "encoder": "FEATURE_EXTRACTION",
}

NOT_BUILT = (
    "alora_invocation_tokens",
    "arrow_config",
    "layer_replication",
    "lora_bias",
    "target_parameters",
    "use_bdlora",
    "use_qalora",
)
"""Settings of PEFT's that change what is computed, and are not built here."""


def read_adapter_config(folder: Path) -> dict[str, Any]:
    raw = read_object(folder / CONFIG_FILE, max_bytes=MAX_CONFIG_BYTES)
    kind = raw.get("peft_type")
    if kind not in (LORA, BOTTLENECK, PROMPT):
        raise ModelError(
            f"{folder / CONFIG_FILE}: peft_type is {kind!r}; "
            f"known are {LORA}, {PROMPT}, {BOTTLENECK}"
        )
    for key in NOT_BUILT:
        if raw.get(key):
            raise ModelError(f"{folder / CONFIG_FILE}: {key} is set, which is not built here")
    if raw.get("bias", "none") != "none":
        raise ModelError(f"{folder / CONFIG_FILE}: bias is {raw['bias']!r}; only 'none' is built")
    return raw


def read_config(raw: Mapping[str, Any]) -> AdapterConfig:
    """The settings that we have too. Raises ModelError for values of another kind."""
    kinds: Mapping[str, Callable[[Mapping[str, Any]], AdapterConfig]] = {
        LORA: _read_lora,
        BOTTLENECK: _read_bottleneck,
        PROMPT: lambda raw: PromptTuningConfig(num_virtual_tokens=_int(raw, "num_virtual_tokens")),
    }
    try:
        return kinds[raw["peft_type"]](raw)
    except ValueError as error:
        raise ModelError(f"{CONFIG_FILE}: {error}") from error


def _read_lora(raw: Mapping[str, Any]) -> LoraConfig:
    ranks = _pattern(raw, "rank_pattern")
    return LoraConfig(
        r=_int(raw, "r"),
        lora_alpha=_number(raw, "lora_alpha"),
        lora_dropout=_number(raw, "lora_dropout", 0.0),
        use_rslora=_flag(raw, "use_rslora"),
        use_dora=_flag(raw, "use_dora"),
        rank_pattern={pattern: int(rank) for pattern, rank in ranks.items()},
        alpha_pattern=_pattern(raw, "alpha_pattern"),
        modules_to_save=(),
    )


def _read_bottleneck(raw: Mapping[str, Any]) -> BottleneckConfig:
    activation = raw.get("activation")
    if activation not in ("relu", "gelu", "silu"):
        raise ModelError(f"{CONFIG_FILE}: activation is {activation!r}; take relu, gelu or silu")
    return BottleneckConfig(size=_int(raw, "size"), activation=activation, modules_to_save=())


def token_ids(raw: Any) -> tuple[int, ...]:
    """The ids of `trainable_token_indices`: a list, or one below the embedding's name."""
    if isinstance(raw, dict):
        if len(raw) != 1:
            raise ModelError(f"{CONFIG_FILE}: trainable_token_indices names several embeddings")
        raw = next(iter(raw.values()))
    if raw is None:
        return ()
    if not isinstance(raw, list) or not all(type(i) is int for i in raw):
        raise ModelError(f"{CONFIG_FILE}: trainable_token_indices must be a list of ids")
    return tuple(raw)


def _number(raw: Mapping[str, Any], key: str, usual: float | None = None) -> float:
    value = raw.get(key, usual)
    if isinstance(value, bool) or not isinstance(value, int | float) or abs(value) > 1e9:
        raise ModelError(f"{CONFIG_FILE}: {key} is {value!r}; it must be a number")
    return value


def _int(raw: Mapping[str, Any], key: str) -> int:
    value = _number(raw, key)
    if value != int(value):
        raise ModelError(f"{CONFIG_FILE}: {key} is {value!r}; it must be a whole number")
    return int(value)


def _flag(raw: Mapping[str, Any], key: str) -> bool:
    value = raw.get(key, False)
    if not isinstance(value, bool):
        raise ModelError(f"{CONFIG_FILE}: {key} is {value!r}; it must be true or false")
    return value


def _pattern(raw: Mapping[str, Any], key: str) -> dict[str, float]:
    patterns = raw.get(key) or {}
    if not isinstance(patterns, dict):
        raise ModelError(f"{CONFIG_FILE}: {key} must be an object of numbers by pattern")
    for pattern in patterns:
        check_pattern(pattern)
    return {pattern: _number(patterns, pattern) for pattern in patterns}


def shared_config(model: Model, base_model: str | None) -> dict[str, Any]:
    """What is told of the model."""
    return {
        "base_model_name_or_path": base_model,
        "task_type": TASK_TYPES.get(task_of(model, family_of(model.config.model_type))),
        "inference_mode": True,
    }


def own_config(
    adapters: Adapters, config: AdapterConfig, parts: Collection[Part], saved: Sequence[str]
) -> dict[str, Any]:
    """What is told of an adapter; `saved` are the modules that it has copies of."""
    raw: dict[str, Any] = {"modules_to_save": list(saved) or None}
    if isinstance(config, LoraConfig):
        return raw | _lora_config(adapters, config, parts)
    names = [part.name for part in parts if hasattr(part, "name")]
    if isinstance(config, BottleneckConfig):
        own = {"peft_type": BOTTLENECK, "size": config.size, "activation": config.activation}
        return raw | own | {"target_modules": names}
    sizes = adapters.model.config
    return raw | {
        "peft_type": PROMPT,
        "num_virtual_tokens": config.num_virtual_tokens,
        "token_dim": sizes.hidden_size,
        "num_transformer_submodules": 2 if hasattr(adapters.model, "decode") else 1,
        "num_attention_heads": sizes.num_attention_heads,
        "num_layers": sizes.num_hidden_layers,
        "prompt_tuning_init": "RANDOM",
    }


def _lora_config(adapters: Adapters, config: LoraConfig, parts: Collection[Part]) -> dict[str, Any]:
    chosen = [adapters.sites[p.name] for p in parts if isinstance(p, LoraPart | EmbeddingLoraPart)]
    tokens = {
        part.name.rpartition(".")[2]: part.ids_K.tolist()
        for part in parts
        if isinstance(part, TokenRowsPart)
    }
    return {
        "peft_type": LORA,
        "r": config.r,
        "lora_alpha": config.lora_alpha,
        "lora_dropout": config.lora_dropout,
        "use_rslora": config.use_rslora,
        "use_dora": config.use_dora,
        "rank_pattern": {
            part.name: part.lora_A.shape[0]
            for part in parts
            if isinstance(part, LoraPart | EmbeddingLoraPart) and part.lora_A.shape[0] != config.r
        },
        "alpha_pattern": dict(config.alpha_pattern),
        "target_modules": in_short(chosen, adapters.sites),
        "trainable_token_indices": tokens or None,
        "fan_in_fan_out": any(site.is_transposed for site in chosen),
        "bias": "none",
    }
