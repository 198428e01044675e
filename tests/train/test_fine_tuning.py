"""Runs that go on from a model: conversations, and adapters beside frozen weights."""

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pharos.adapt import Adapters, load_adapter
from pharos.core import Message, SamplingParams, TrainingError
from pharos.data.train_tokenizer import TokenizerConfig, train_tokenizer
from pharos.models.load import load_model, new_model, save_model
from pharos.serve.local import LocalModel, load_local
from pharos.train.events import Evaluation, Observer, StepRecord
from pharos.train.recipe import read_recipe
from pharos.train.run import open_run

LLAMA = {
    "model_type": "llama",
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 128,
    "max_position_embeddings": 128,
}
PLACES = ("tower", "harbour", "library", "garden", "kitchen")
THINGS = ("lamp", "gull", "rope", "map")
SPECIAL = ("<|im_start|>", "<|im_end|>")
WORDS = [f"Where is the {thing} of the {place}?" for thing in THINGS for place in PLACES]


def answer(number: int) -> str:
    return f"The {THINGS[number % 4]} lies {number} steps from the {PLACES[number % 5]}."


CONVERSATIONS = [
    [
        {"role": "user", "content": question},
        {"role": "assistant", "content": answer(number)},
    ]
    for number, question in enumerate(WORDS)
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty conversations, and a fresh model with a tokenizer."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("chat")
    lines = (json.dumps({"messages": messages}) + "\n" for messages in CONVERSATIONS)
    (folder / "chat.jsonl").write_text("".join(lines))
    texts = WORDS + [answer(number) for number in range(20)]
    config = TokenizerConfig(kind="bpe", vocab_size=340, special_tokens=SPECIAL)
    tokenizer = train_tokenizer(texts * 3, config)
    model = folder / "model"
    tokenizer.save(model)
    save_model(new_model({**LLAMA, "vocab_size": 340}, "causal_lm", seed=1), model)
    return folder


def recipe(folder: Path, output: Path, **sections: Any) -> dict[str, Any]:
    raw: dict[str, Any] = {
        "output": str(output),
        "model": {"load": str(folder / "model")},
        "objective": {"name": "sft"},
        "data": data(folder),
        "optimizer": {"lr": 1e-2, "weight_decay": 0.0},
        "training": training(),
        "device": "cpu",
    }
    return {**raw, **sections}


def data(folder: Path, **changes: Any) -> dict[str, Any]:
    usual = {"train": str(folder / "chat.jsonl"), "template": "chatml", "max_tokens": 64}
    return {**usual, "validation": 0, **changes}


def training(**changes: Any) -> dict[str, Any]:
    usual: dict[str, Any] = {
        "steps": 4,
        "batch_size": 4,
        "log_every": 1,
        "checkpoint_every": 2,
        "check_first_step": False,
    }
    return {**usual, **changes}


class Losses(Observer):
    def __init__(self, stop_at: int | None = None) -> None:
        self.losses: dict[int, float] = {}
        self.samples: list[str] = []
        self.stop_at = stop_at

    def on_step(self, record: StepRecord) -> None:
        self.losses[record.step] = record.train_loss
        if record.step == self.stop_at:
            raise Killed

    def on_evaluation(self, evaluation: Evaluation) -> None:
        self.samples += evaluation.samples


class Killed(BaseException):
    """As if the process had ended there."""


def train(
    raw: Mapping[str, Any], *, resume: bool = False, stop_at: int | None = None
) -> tuple[dict[str, Tensor], Losses]:
    losses = Losses(stop_at)
    with open_run(read_recipe(raw), resume=resume, say=lambda text: None) as run:
        with contextlib.suppress(Killed):
            run.train([losses])
        weights = {name: x.detach().clone() for name, x in run.model.named_parameters()}
    return weights, losses


ADAPTERS: dict[str, dict[str, Any]] = {
    "lora": {"method": "lora", "r": 4, "lora_dropout": 0.1},
    "dora": {"method": "dora", "r": 4},
    "qlora": {"method": "qlora", "r": 4},
    "bottleneck": {"method": "bottleneck", "size": 8},
    "prompt_tuning": {"method": "prompt_tuning", "num_virtual_tokens": 4},
    "with a head": {"method": "lora", "r": 4, "modules_to_save": ["lm_head"]},
}


@pytest.mark.parametrize("kind", ADAPTERS)
def test_a_run_with_an_adapter_that_was_killed_goes_on_as_if_it_had_not_been(
    kind: str, folder: Path, tmp_path: Path
) -> None:
    sections = {"adapter": ADAPTERS[kind]}
    whole, losses = train(recipe(folder, tmp_path / "whole", **sections))
    broken = recipe(folder, tmp_path / "broken", **sections)
    train(broken, stop_at=3)  # the last checkpoint is of step 2
    resumed, losses_after = train(broken, resume=True)
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert losses_after.losses == {step: losses.losses[step] for step in (3, 4)}


@pytest.mark.parametrize("kind", ADAPTERS)
def test_only_the_adapter_trains_and_only_it_is_saved(
    kind: str, folder: Path, tmp_path: Path
) -> None:
    before = (folder / "model" / "model.safetensors").read_bytes()
    raw = recipe(folder, tmp_path / "run", adapter=ADAPTERS[kind])
    with open_run(read_recipe(raw), resume=False, say=lambda text: None) as run:
        assert run.adapters is not None
        first = {name: p.detach().clone() for name, p in run.model.named_parameters()}
        ours = {id(p) for part in run.adapters.parts() for p in part.parameters()}
        run.train()
        for name, parameter in run.model.named_parameters():
            assert torch.equal(parameter, first[name]) == (id(parameter) not in ours), name
    for saved in (tmp_path / "run" / "adapter", tmp_path / "run" / "checkpoints" / "step-00000004"):
        assert (saved / "adapter_model.safetensors").is_file()
        assert not (saved / "model.safetensors").is_file()
        config = json.loads((saved / "adapter_config.json").read_text())
        assert config["base_model_name_or_path"] == str(folder / "model")
    assert (folder / "model" / "model.safetensors").read_bytes() == before
