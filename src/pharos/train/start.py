"""The model that a run begins with: fresh, from a folder, or a student of one."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from pharos.core.errors import TrainingError
from pharos.models.checkpoint import read_config
from pharos.models.family import Model, Task
from pharos.models.load import (
    family_of,
    load_model,
    load_under_new_head,
    new_model,
    task_in,
)
from pharos.models.resolve import find_model
from pharos.train.objectives.student import student_of
from pharos.train.recipe import ModelSection


def first_model(
    section: ModelSection,
    task: Task,
    *,
    vocab_size: int,
    labels: Sequence[str] | None,
    special_ids: Mapping[str, int | None],
    seed: int,
    is_frozen: bool = False,
) -> Model:
    """A model with a head for `task`, every parameter in float32 and to be trained; one that an
    adapter is for, `is_frozen`, as it is stored. `special_ids` (`bos_token_id`, …) and
    `vocab_size` complete a config that does not tell them."""
    if section.config is not None:
        raw = _completed(section.config, vocab_size, labels, special_ids)
        return new_model(raw, task, seed=seed)
    if section.student_of is not None:
        assert section.layers is not None
        teacher = load_model(section.student_of, task=task, dtype=torch.float32)
        return trainable(student_of(teacher, section.layers))
    assert section.load is not None
    if is_frozen:
        return _loaded(section.load, task, labels, seed, dtype=None)
    return trainable(_loaded(section.load, task, labels, seed, dtype=torch.float32))


def trainable(model: Model) -> Model:
    """With parameters of its own, not the file's that it was mapped from, in training."""
    for parameter in model.parameters():
        parameter.data = parameter.detach().float().clone()
        parameter.requires_grad_(True)
    return model


def _completed(
    config: Mapping[str, Any],
    vocab_size: int,
    labels: Sequence[str] | None,
    special_ids: Mapping[str, int | None],
) -> dict[str, Any]:
    raw = {"vocab_size": vocab_size, **special_ids, **config}
    if raw["vocab_size"] < vocab_size:
        raise TrainingError(
            f"model.config.vocab_size is {raw['vocab_size']}, and the tokenizer has {vocab_size} "
            "tokens; make it at least that, or leave it out"
        )
    return raw | _labelled(labels)


def _loaded(
    name: str, task: Task, labels: Sequence[str] | None, seed: int, *, dtype: torch.dtype | None
) -> Model:
    """Whole, if the checkpoint has the head that is wanted; else its body under a new head, parts
    of which it may have (a pooler)."""
    raw = read_config(find_model(name).path)
    family = family_of(raw.get("model_type"))
    config = family.config.from_hugging_face(raw)
    is_same = task_in(raw, family) == task and (labels is None or config.labels == tuple(labels))
    if is_same or (task == "masked_lm" and task_in(raw, family) == "pretraining"):
        return load_model(name, task=task, dtype=dtype)
    return load_under_new_head(name, task, labels=labels, dtype=dtype, seed=seed)[0]


def _labelled(labels: Sequence[str] | None) -> dict[str, Any]:
    if labels is None:
        return {}
    return {
        "id2label": {str(i): label for i, label in enumerate(labels)},
        "label2id": {label: i for i, label in enumerate(labels)},
    }
