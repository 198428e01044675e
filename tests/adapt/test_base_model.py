"""The model that an adapter is for: under which head, of how many classes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from pharos.adapt import Adapters, LoraConfig, load_adapter, save_adapter
from pharos.adapt.base_model import check_head, load_base, saved_names
from pharos.core.errors import ModelError
from pharos.models.family import Model, Task
from pharos.models.load import family_of, load_model, new_model, save_model, task_of

BERT = {
    "model_type": "bert",
    "vocab_size": 50,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 32,
}
T5 = {
    "model_type": "t5",
    "vocab_size": 50,
    "d_model": 16,
    "d_kv": 8,
    "d_ff": 32,
    "num_layers": 1,
    "num_heads": 2,
}
FEELINGS = {"id2label": {"0": "calm", "1": "glad", "2": "sad"}}
LABELS = ("calm", "glad", "sad")
QUERIES = LoraConfig(r=2, target_modules=("query",))
IDS = torch.tensor([[3, 1, 4, 1, 5]])


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """An encoder without a head of classes."""
    save_model(new_model(BERT, "masked_lm", seed=1), tmp_path / "base")
    return tmp_path / "base"


@pytest.fixture
def trained(tmp_path: Path) -> Callable[..., Path]:
    """Writes an adapter of a model of its own, for a task, and tells its folder."""

    def write(task: Task, config: LoraConfig = QUERIES, **changes: Any) -> Path:
        adapters = Adapters(new_model({**BERT, **changes}, task, seed=2))
        adapters.add(config)
        save_adapter(adapters, tmp_path / "adapter")
        return tmp_path / "adapter"

    return write


def as_by_peft(adapter: Path) -> Path:
    """Without what our own files say besides."""
    path = adapter / "adapter_model.safetensors"
    save_file(load_file(path), path, metadata={"format": "pt"})
    return adapter


def with_adapter(base: Path, adapter: Path) -> Model:
    model, fresh = load_base(base, adapter)
    adapters = Adapters(model)
    load_adapter(adapters, adapter)
    check_head(adapters, fresh, adapter)
    return model


def test_an_adapter_of_the_model_as_it_is_needs_no_other_head(
    base: Path, trained: Callable[..., Path]
) -> None:
    model, fresh = load_base(base, trained("masked_lm"))
    assert not fresh
    assert torch.equal(model(IDS), load_model(base)(IDS))


def test_a_classifier_has_the_head_and_the_classes_that_the_file_names(
    base: Path, trained: Callable[..., Path]
) -> None:
    model, fresh = load_base(base, trained("sequence_classification", **FEELINGS))
    assert task_of(model, family_of("bert")) == "sequence_classification"
    assert model.config.labels == LABELS
    assert fresh == {f"{part}.{kind}" for part in ("dense", "out") for kind in ("weight", "bias")}


def test_pefts_file_tells_the_task_and_its_head_the_number_of_classes(
    base: Path, trained: Callable[..., Path]
) -> None:
    model = with_adapter(base, as_by_peft(trained("sequence_classification", **FEELINGS)))
    assert model(IDS).shape == (1, 3)
    assert model.config.labels == ("LABEL_0", "LABEL_1", "LABEL_2")


def test_the_head_is_the_adapters_and_not_the_drawn_one(
    base: Path, trained: Callable[..., Path]
) -> None:
    adapter = trained("sequence_classification", **FEELINGS)
    adapters = Adapters(load_base(base, adapter)[0])
    load_adapter(adapters, adapter)
    saved = load_file(adapter / "adapter_model.safetensors")
    weight = "base_model.model.classifier.weight"
    assert saved_names(adapters) >= {"classifier.weight", "classifier.bias"}
    assert any(torch.equal(saved[weight], p) for p in adapters.model.parameters())


def test_a_head_that_neither_the_base_nor_the_adapter_has_is_named(
    base: Path, trained: Callable[..., Path]
) -> None:
    only_a_part = LoraConfig(r=2, target_modules=("query",), modules_to_save=("classifier",))
    adapter = trained("sequence_classification", only_a_part, **FEELINGS)
    with pytest.raises(ModelError, match=r"lacks bert\.pooler\.dense\.\w+, a part of its head"):
        with_adapter(base, adapter)


def test_an_architecture_without_such_a_head_is_told(
    tmp_path: Path, trained: Callable[..., Path]
) -> None:
    save_model(new_model(T5, "seq2seq_lm"), tmp_path / "t5")
    with pytest.raises(ModelError, match="adapter does not fit this model"):
        load_base(tmp_path / "t5", trained("token_classification", **FEELINGS))


def test_a_model_that_is_missing_is_told_before_the_adapter_is_read(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="nowhere"):
        load_base(tmp_path / "nowhere", tmp_path / "no adapter either")


def test_pefts_file_without_a_task_is_for_the_model_as_it_is(
    base: Path, trained: Callable[..., Path]
) -> None:
    model, fresh = load_base(base, as_by_peft(trained("masked_lm")))
    assert task_of(model, family_of("bert")) == "masked_lm"
    assert not fresh
