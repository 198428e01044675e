"""The model that a run begins with: fresh, from a folder, or a student of one."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from pharos.adapt import grow_vocabulary, untie_embeddings
from pharos.adapt.vocabulary import body_of
from pharos.core.errors import TrainingError
from pharos.data.tokenizer import Tokenizer
from pharos.models.family import Model, Task
from pharos.models.load import load_for_task, load_model, new_model
from pharos.train.freezing import freeze
from pharos.train.model_section import ModelSection
from pharos.train.objectives.student import student_of


def first_model(
    section: ModelSection,
    task: Task,
    *,
    vocab_size: int,
    labels: Sequence[str] | None,
    special_ids: Mapping[str, int | None],
    seed: int,
    new_ids: Sequence[int] = (),
    is_frozen: bool = False,
) -> Model:
    """A model with a head for `task`, every parameter in float32 and to be trained, but for what
    the section freezes; one that an adapter is for, `is_frozen`, as it is stored. `special_ids`
    (`bos_token_id`, …) and `vocab_size` complete a config that does not tell them; `new_ids` are
    those of the section's new tokens."""
    if section.config is not None or section.student_of is not None:
        model = _fresh(section, task, vocab_size, labels, special_ids, seed)
    else:
        assert section.load is not None
        dtype = None if is_frozen else torch.float32
        model = load_for_task(section.load, task, labels=labels, dtype=dtype, seed=seed)[0]
        if section.untie_embeddings:
            _untie(model)
        if new_ids:
            _make_room(model, new_ids)
        model = model if is_frozen else trainable(model)
    if section.freeze:
        freeze(model, section.freeze)
        _check_learned(model, new_ids)
    return model


def _fresh(
    section: ModelSection,
    task: Task,
    vocab_size: int,
    labels: Sequence[str] | None,
    special_ids: Mapping[str, int | None],
    seed: int,
) -> Model:
    """With weights that were drawn, or with some of a teacher's layers."""
    if section.config is not None:
        raw = _completed(section.config, vocab_size, labels, special_ids)
        return new_model(raw, task, seed=seed)
    assert section.student_of is not None
    assert section.layers is not None
    teacher = load_model(section.student_of, task=task, dtype=torch.float32)
    return trainable(student_of(teacher, section.layers))


def _untie(model: Model) -> None:
    untie_embeddings(model)
    if getattr(model, "lm_head", None) is None:
        raise TrainingError(
            f"a {type(model).__name__} has no head over its embedding; leave out "
            "model.untie_embeddings"
        )


def _make_room(model: Model, new_ids: Sequence[int]) -> None:
    """Many models have more rows than their tokenizers have tokens: those are taken first."""
    missing = max(new_ids) + 1 - model.config.vocab_size
    if missing > 0:
        grow_vocabulary(model, missing)


def _check_learned(model: Model, new_ids: Sequence[int]) -> None:
    if new_ids and not body_of(model).embedding.weight.requires_grad:
        raise TrainingError(
            "model.freeze has the embedding, in which model.new_tokens are to be learned; leave it "
            "out"
        )


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


def _labelled(labels: Sequence[str] | None) -> dict[str, Any]:
    if labels is None:
        return {}
    return {
        "id2label": {str(i): label for i, label in enumerate(labels)},
        "label2id": {label: i for i, label in enumerate(labels)},
    }


def special_ids_of(tokenizer: Tokenizer) -> dict[str, int | None]:
    """As a `config.json` names them."""
    roles: dict[str, int | None] = {
        "bos_token_id": tokenizer.bos_id,
        "eos_token_id": tokenizer.eos_id,
        "pad_token_id": tokenizer.pad_id,
    }
    return {name: id_ for name, id_ in roles.items() if id_ is not None}
