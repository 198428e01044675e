"""What an adapter's file says of the model that it was trained on."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from pharos.adapt import Adapters, LoraConfig, save_adapter
from pharos.adapt.peft_files import needs_quantized_base
from pharos.adapt.weights_file import (
    WEIGHTS_FILE,
    TrainedOn,
    read_tensors,
    read_trained_on,
    write_tensors,
)
from pharos.core.errors import ModelError
from pharos.models.doubles import tiny_llama
from pharos.models.family import Model
from pharos.models.load import new_model
from pharos.quant import convert_bf16, convert_nf4, convert_w8a8, convert_w8a16

BERT = {
    "model_type": "bert",
    "vocab_size": 50,
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
}


def saved(model: Model, folder: Path) -> Path:
    adapters = Adapters(model)
    adapters.add(LoraConfig(r=2))
    save_adapter(adapters, folder)
    return folder


def test_it_says_what_the_head_is_for_and_what_its_classes_are_called(tmp_path: Path) -> None:
    raw = BERT | {"id2label": {"0": "refund", "1": "size \"L\" or 'größer'", "2": ""}}
    for task in ("sequence_classification", "token_classification", "masked_lm", "body"):
        folder = saved(new_model(raw, task), tmp_path / task)  # type: ignore[arg-type]
        found = read_trained_on(folder)
        assert (found.task, found.quantization) == (task, None)
        assert found.labels == ("refund", "size \"L\" or 'größer'", "")


@given(
    labels=st.none() | st.lists(st.text(), min_size=1, max_size=5).map(tuple),
    quantization=st.none() | st.just("nf4"),
    has_own_head=st.booleans(),
)
@settings(deadline=None)
def test_what_is_written_is_read_and_the_same_is_the_same_bytes(
    labels: tuple[str, ...] | None,
    quantization: str | None,
    has_own_head: bool,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    tensors = {f"größe.{i}": torch.full((i,), float(i)) for i in range(4)}
    told = TrainedOn(
        task="reward", labels=labels, quantization=quantization, has_own_head=has_own_head
    )
    folder = tmp_path_factory.mktemp("adapter")
    written = set()
    for _ in range(4):
        write_tensors(folder / WEIGHTS_FILE, tensors, told)
        written.add((folder / WEIGHTS_FILE).read_bytes())
    assert len(written) == 1
    assert read_trained_on(folder) == told
    found = read_tensors(folder)
    assert found.keys() == tensors.keys()
    assert all(found[name].equal(tensors[name]) for name in tensors)


@pytest.mark.parametrize(
    ("convert", "is_needed"),
    [
        (convert_nf4, True),
        (convert_bf16, False),
        (convert_w8a8, False),
        (convert_w8a16, False),
        (lambda model: model, False),
    ],
)
def test_only_an_adapter_of_an_nf4_base_needs_one(
    convert: Callable[[Model], Model], is_needed: bool, tmp_path: Path
) -> None:
    assert needs_quantized_base(saved(convert(tiny_llama()), tmp_path)) is is_needed


def test_a_file_of_pefts_own_says_nothing(tmp_path: Path) -> None:
    folder = saved(tiny_llama(), tmp_path)
    save_file(load_file(folder / WEIGHTS_FILE), folder / WEIGHTS_FILE, metadata={"format": "pt"})
    assert read_trained_on(folder) == TrainedOn()


@pytest.mark.parametrize(
    ("told", "says"),
    [
        ({"pharos_task": "everything"}, "pharos_task is 'everything'; known are body"),
        ({"pharos_labels": "yes, no"}, "pharos_labels is not JSON"),
        ({"pharos_labels": "[" * 100_000}, "pharos_labels is not JSON"),
        ({"pharos_labels": json.dumps({"0": "yes"})}, "must be a list of names"),
        ({"pharos_labels": "[]"}, "must be a list of names"),
        ({"pharos_labels": "[1, 2]"}, "must be a list of names"),
    ],
)
def test_what_a_stranger_wrote_there_is_named(
    told: dict[str, str], says: str, tmp_path: Path
) -> None:
    save_file({"a": torch.zeros(1)}, tmp_path / WEIGHTS_FILE, metadata=told)
    with pytest.raises(ModelError, match=says):
        read_trained_on(tmp_path)
