"""A model's folder in Hugging Face layout to a module, and back.

model = load_model("path/to/llama")
save_model(model, "somewhere/else")
"""

import importlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch

from pharos.core.errors import ModelError
from pharos.models.checkpoint import (
    MAX_SHARD_BYTES,
    WEIGHTS_FILE,
    load_weights,
    read_config,
    read_weights,
    save_weights,
    verify_sha256,
)
from pharos.models.family import Body, Family, Model, Task
from pharos.models.initialize import initialize
from pharos.models.placeholders import Uninitialized
from pharos.models.resolve import find_model
from pharos.models.weight_map import Source, WeightMap

FAMILY_FILES = {
    "albert": "albert",
    "bert": "bert",
    "big_bird": "bigbird",
    "camembert": "roberta",
    "deberta-v2": "deberta",
    "distilbert": "distilbert",
    "longformer": "longformer",
    "roberta": "roberta",
    "xlm-roberta": "roberta",
    "falcon": "falcon",
    "gpt2": "gpt2",
    "llama": "llama",
    "mistral": "llama",
    "mixtral": "mixtral",
    "qwen2": "llama",
    "qwen3": "llama",
    "transformer": "transformer",
    "marian": "transformer",
    "t5": "t5",
}
"""By `model_type`, the file of the architecture."""


def family_of(model_type: object) -> Family:
    """Raises ModelError for a `model_type` that no file is for."""
    if not isinstance(model_type, str) or model_type not in FAMILY_FILES:
        known = ", ".join(sorted(FAMILY_FILES))
        raise ModelError(f"config.json: unknown model_type {model_type!r}; known are {known}")
    module = importlib.import_module(f"pharos.models.{FAMILY_FILES[model_type]}")
    family: Family = module.FAMILY
    return family


def load_model(
    name: str | Path,
    *,
    task: Task | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
) -> Model:
    """The model of that name (see `models.resolve.find_model`), ready to run.

    `task` chooses the head (default: the one that `config.json` names under `architectures`).
    `dtype` converts the weights (default: as they are in the file); what is not converted stays
    memory-mapped. Raises ModelError for a folder whose parts do not fit, naming what does not.
    """
    found = find_model(str(name))
    raw = read_config(found.path)
    if found.sha256 is not None:
        verify_sha256(found.path / WEIGHTS_FILE, found.sha256)
    family = family_of(raw.get("model_type"))
    chosen = task or task_in(raw, family)
    weights = {family.new_name(key): x for key, x in read_weights(found.path).items()}
    if family.complete is not None:
        raw = dict(family.complete(raw, weights))
    model = build_model(raw, chosen)
    prefix = family.prefix if any(key.startswith(family.prefix) for key in weights) else ""
    _merge_copies(weights, model.copies(prefix))
    weight_map = model.weight_map(prefix)
    weights = _without_unused(weights, weight_map, _unused(family, chosen, prefix))
    load_weights(model, weights, weight_map, dtype=dtype)
    return model.eval().to(device)


def load_under_new_head(
    name: str | Path,
    task: Task,
    *,
    labels: Sequence[str] | None = None,
    dtype: torch.dtype | None = None,
    seed: int = 0,
) -> tuple[Model, frozenset[str]]:
    """The body of a checkpoint under a head that it may lack, for `labels` if they are given; and
    which of the head's parameters the checkpoint does not have: these begin as random numbers.
    (BERT's pooler is a part of a classifier's head, and is mostly there.) Raises ModelError for a
    task that the architecture has no head for."""
    folder = find_model(str(name)).path
    body = load_model(name, task="body", dtype=dtype)
    family = family_of(body.config.model_type)
    if labels is not None:
        body.config = replace(body.config, labels=tuple(labels))
    _check_head(family, task, body.config.model_type)
    with Uninitialized():
        model = family.tasks[task](cast(Body, body)).eval()
    weights = {family.new_name(key): x for key, x in read_weights(folder).items()}
    prefix = family.prefix if any(key.startswith(family.prefix) for key in weights) else ""
    head = {n: s for n, s in model.weight_map(prefix).items() if not n.startswith("body.")}
    found = {
        ours: source
        for ours, source in head.items()
        if _shapes_of(source, weights) == source.shapes(tuple(model.get_parameter(ours).shape))
    }
    wanted = {name: weights[name] for source in found.values() for name in source.names}
    load_weights(model, wanted, found, dtype=dtype)
    fresh = frozenset(head.keys() - found.keys())
    initialize(model, seed=seed, only=fresh)
    return model, fresh


def load_for_task(
    name: str | Path,
    task: Task,
    *,
    labels: Sequence[str] | None = None,
    dtype: torch.dtype | None = None,
    seed: int = 0,
) -> tuple[Model, frozenset[str]]:
    """Whole, if the checkpoint has the head that is wanted; else its body under a new one, and
    which parameters are fresh: see `load_under_new_head`."""
    raw = read_config(find_model(str(name)).path)
    family = family_of(raw.get("model_type"))
    before = task_in(raw, family)
    config = family.config.from_hugging_face(raw)
    is_same = before == task and (labels is None or config.labels == tuple(labels))
    is_part = task == "body" or (task == "masked_lm" and before == "pretraining")
    if is_same or is_part:
        return load_model(name, task=task, dtype=dtype), frozenset()
    return load_under_new_head(name, task, labels=labels, dtype=dtype, seed=seed)


def _shapes_of(source: Source, weights: Mapping[str, torch.Tensor]) -> list[tuple[int, ...]]:
    return [tuple(weights[name].shape) for name in source.names if name in weights]


def new_model(raw: Mapping[str, Any], task: Task, *, seed: int = 0) -> Model:
    """The module that the content of a `config.json` describes, with weights to be trained."""
    model = build_model(raw, task)
    initialize(model, seed=seed)
    return model


def _unused(family: Family, task: Task, prefix: str) -> list[str]:
    """Patterns of the tensors that a checkpoint may hold beside those that the task needs."""
    patterns = list(family.ignored)
    if task in family.left_out:
        patterns.append(family.left_out[task])
    if task == "body":
        patterns.append(f"(?!{re.escape(prefix)})")
    return patterns


def _without_unused(
    weights: Mapping[str, torch.Tensor], weight_map: WeightMap, patterns: Sequence[str]
) -> dict[str, torch.Tensor]:
    wanted = {name for source in weight_map.values() for name in source.names}
    return {
        key: tensor
        for key, tensor in weights.items()
        if key in wanted or not any(re.match(pattern, key) for pattern in patterns)
    }


def _merge_copies(weights: dict[str, torch.Tensor], copies: Mapping[str, str]) -> None:
    """Keep one of each tied weight that a file holds more than once. They must be equal."""
    for copy, name in copies.items():
        tensor = weights.pop(copy, None)
        if tensor is not None and not torch.equal(weights.setdefault(name, tensor), tensor):
            raise ModelError(
                f"{copy} and {name} differ, but config.json ties them; "
                "set tie_word_embeddings to false there if both were trained"
            )


def build_model(raw: Mapping[str, Any], task: Task) -> Model:
    """The module that a `config.json` describes, its weights still to be loaded."""
    family = family_of(raw.get("model_type"))
    config = family.config.from_hugging_face(raw)
    if task != "body":
        _check_head(family, task, config.model_type)
    try:
        with Uninitialized():
            body = family.body(config)
            return body if task == "body" else family.tasks[task](body)
    except RuntimeError as error:
        raise ModelError(
            f"config.json: a network of these sizes cannot be built: {error}"
        ) from error


def _check_head(family: Family, task: Task, model_type: str) -> None:
    if task not in family.tasks:
        known = ", ".join(["body", *family.tasks])
        raise ModelError(f"a {model_type} has no head for {task!r}; choose from {known}")


def save_model(model: Model, folder: str | Path, *, max_shard_bytes: int = MAX_SHARD_BYTES) -> None:
    """`config.json` and `model.safetensors` (or shards of it), as Hugging Face's libraries read
    them. Other files in the folder stay."""
    folder = Path(folder)
    config = model.config
    family = family_of(config.model_type)
    task = task_of(model, family)
    save_weights(
        model,
        folder,
        model.weight_map("" if task == "body" else family.prefix),
        max_shard_bytes=max_shard_bytes,
    )
    dtype = next(model.parameters()).dtype
    raw = config.to_hugging_face() | {
        "architectures": [family.architecture(config.model_type, task)],
        "dtype": str(dtype).removeprefix("torch."),
    }
    (folder / "config.json").write_text(json.dumps(raw, indent=2) + "\n", encoding="utf-8")


def task_in(raw: Mapping[str, Any], family: Family) -> Task:
    """What the first of the `architectures` is for. Raises ModelError if that is not known."""
    architectures = raw.get("architectures")
    named = architectures[0] if isinstance(architectures, list) and architectures else ""
    task = family.task_of(named) if isinstance(named, str) else None
    if task is None:
        raise ModelError(
            f"config.json: architectures is {architectures!r}, which tells no head that is known; "
            f"name the task: {', '.join(['body', *family.tasks])}"
        )
    return task


def task_of(model: Model, family: Family) -> Task:
    """What the head of a model is for."""
    for task, head in family.tasks.items():
        if type(model) is head:
            return task
    return "body"
