"""Adapters that a stranger wrote: whatever does not fit is named, and the model stays as it was."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from pharos.adapt import Adapters, LoraConfig, PromptTuningConfig, load_adapter, save_adapter
from pharos.adapt.config import check_pattern, matches
from pharos.core.errors import ModelError
from pharos.models.doubles import tiny_llama
from pharos.models.load import new_model

Tensors = dict[str, torch.Tensor]
QUERY = "base_model.model.model.layers.0.self_attn.q_proj"
IDS = torch.tensor([[3, 1, 4, 1, 5]])


def folder_of(path: Path, config: Any = None) -> Path:
    adapters = Adapters(tiny_llama())
    adapters.add(config or LoraConfig(r=4, target_modules=("q_proj", "v_proj")))
    save_adapter(adapters, path, base_model="somebody/llama")
    return path


def change_tensors(folder: Path, change: Callable[[Tensors], object]) -> None:
    tensors = load_file(folder / "adapter_model.safetensors")
    change(tensors)
    save_file(tensors, folder / "adapter_model.safetensors")


def change_config(folder: Path, **changes: object) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def refused(folder: Path, message: str, model: Any = None) -> None:
    model = model or tiny_llama()
    before = model(IDS)
    adapters = Adapters(model)
    with pytest.raises(ModelError, match=message):
        load_adapter(adapters, folder)
    assert torch.equal(model(IDS), before)
    assert not adapters.configs


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.update({f"{QUERY}.lora_A.weight": torch.zeros(4, 9)}), r"is \(4, 9\) of"),
        (lambda t: t.update({f"{QUERY}.lora_A.weight": torch.zeros(3, 32)}), r"lora_B.weight is"),
        (lambda t: t.update({f"{QUERY}.lora_A.weight": torch.zeros(4)}), r"a matrix \[rank, in\]"),
        (lambda t: t.update({f"{QUERY}.lora_A.weight": torch.zeros(0, 32)}), "a matrix"),
        (lambda t: t.update({f"{QUERY}.lora_B.weight": torch.zeros(32, 4).int()}), "int32"),
        (lambda t: t.pop(f"{QUERY}.lora_B.weight"), "lora_B.weight is missing"),
        (lambda t: t.update({f"{QUERY}.lora_B.bias": torch.zeros(32)}), "nothing here is called"),
        (lambda t: t.update({"evil": torch.zeros(1)}), "nothing here is called evil"),
        (
            lambda t: t.update({f"{QUERY}x.lora_A.weight": torch.zeros(4, 32)}),
            "no linear 'model.layers.0.self_attn.q_projx'",
        ),
        (lambda t: t.update({f"{QUERY}.lora_magnitude_vector": torch.zeros(32)}), "use_dora"),
        (
            lambda t: t.update({"base_model.model.lm_head.base_layer.weight": torch.zeros(50, 32)}),
            "it is another base",
        ),
    ],
)
def test_tensors_that_do_not_fit_are_named(
    change: Callable[[Tensors], object], message: str, tmp_path: Path
) -> None:
    folder = folder_of(tmp_path)
    change_tensors(folder, change)
    refused(folder, message)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"peft_type": "IA3"}, "peft_type is 'IA3'; known are LORA"),
        ({"peft_type": ["LORA"]}, "peft_type is"),
        ({"r": "8"}, "r is '8'; it must be a number"),
        ({"r": 0}, "r is 0"),
        ({"r": 2.5}, "a whole number"),
        ({"lora_alpha": None}, "lora_alpha is None"),
        ({"lora_alpha": 1e30}, "lora_alpha is"),
        ({"lora_dropout": 7}, "lora_dropout is 7"),
        ({"use_dora": "yes"}, "use_dora is 'yes'"),
        ({"bias": "all"}, "bias is 'all'"),
        ({"layer_replication": [[0, 2]]}, "layer_replication is set"),
        ({"alpha_pattern": ["q_proj"]}, "alpha_pattern must be an object"),
        ({"alpha_pattern": {"(a+)+$": 1}}, "too involved"),
        ({"alpha_pattern": {"(": 1}}, "no regular expression"),
        ({"rank_pattern": {"q_proj": True}}, "q_proj is True"),
    ],
)
def test_settings_that_do_not_fit_are_named(
    changes: dict[str, object], message: str, tmp_path: Path
) -> None:
    folder = folder_of(tmp_path)
    change_config(folder, **changes)
    refused(folder, message)


def test_an_adapter_of_another_base_says_which(tmp_path: Path) -> None:
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4}
    bert = {"model_type": "bert", "vocab_size": 50, "intermediate_size": 48} | sizes
    message = r"it was trained on 'somebody/llama'\): there is no linear 'model\.layers"
    refused(folder_of(tmp_path), message, new_model(bert, "masked_lm").eval())


def test_new_tokens_beyond_the_vocabulary_ask_for_it_to_grow(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, LoraConfig(trainable_token_indices=(4, 5)))
    change_config(folder, trainable_token_indices={"embed_tokens": [4, 50]})
    refused(folder, "grow_vocabulary")
    change_config(folder, trainable_token_indices={"embed_tokens": [4, 4]})
    refused(folder, "different ids below 50")
    change_config(folder, trainable_token_indices={"embed_tokens": [4, 5, 6]})
    refused(folder, "trainable_tokens_delta is")
    change_config(folder, trainable_token_indices="4")
    refused(folder, "must be a list of ids")


def test_a_prompt_of_another_width_is_named(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, PromptTuningConfig(num_virtual_tokens=3))
    change_config(folder, num_virtual_tokens=4)
    refused(folder, "num_virtual_tokens is 4")
    change_config(folder, num_virtual_tokens=3)
    change_tensors(folder, lambda t: t.update(prompt_embeddings=torch.zeros(3, 31)))
    refused(folder, "prompt_embeddings is")


def test_broken_files_and_pickles_are_named(tmp_path: Path) -> None:
    refused(tmp_path, "adapter_config.json cannot be read")
    folder = folder_of(tmp_path)
    (folder / "adapter_model.safetensors").write_bytes(b"nonsense")
    refused(folder, "cannot be read as safetensors")
    (folder / "adapter_model.safetensors").unlink()
    refused(folder, "cannot be read")
    (folder / "adapter_model.bin").write_bytes(b"")
    refused(folder, "is a pickle")


@pytest.mark.parametrize(
    "pattern", ["(a+)+", "(a|a)*b", r"(.*)\1", "a*b*c*d*", "a?" * 40, "(x{9}){9}", "a" * 300, "["]
)
def test_patterns_that_could_take_forever_are_refused(pattern: str) -> None:
    with pytest.raises(ModelError):
        check_pattern(pattern)


@pytest.mark.parametrize(
    ("pattern", "name", "fits"),
    [
        ("q_proj", "model.layers.0.self_attn.q_proj", True),
        ("proj", "model.layers.0.self_attn.q_proj", False),
        (r"layers\.[01]\.self_attn\..*", "model.layers.1.self_attn.q_proj", True),
        ("^model.layers.1.self_attn.q_proj", "model.layers.1.self_attn.q_proj", True),
    ],
)
def test_a_pattern_describes_a_name_or_its_end(pattern: str, name: str, fits: bool) -> None:
    check_pattern(pattern)
    assert matches(pattern, name) is fits
    assert bool(re.match(rf"(.*\.)?({pattern})$", name)) is fits  # as PEFT reads it
