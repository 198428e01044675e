"""Adapters as recipes ask for them: how they compute, and what a step of uneven rows is."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from pharos.data.train_tokenizer import TokenizerConfig, train_tokenizer
from pharos.models.load import new_model, save_model
from pharos.train.adaptation import frozen_dtype
from pharos.train.events import Observer, StepRecord
from pharos.train.recipe import read_recipe
from pharos.train.run import open_run

LLAMA = {
    "model_type": "llama",
    "hidden_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 128,
    "vocab_size": 300,
}
ANSWERS = ["Yes.", "The lamp lies in the tower. " * 5, "In the garden, by the gate.", "No."] * 2


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Answers of very different lengths, and a fresh model with a tokenizer."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("chat")
    rows = [{"prompt": f"Where is {i}?", "completion": text} for i, text in enumerate(ANSWERS)]
    (folder / "chat.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    tokenizer = train_tokenizer(ANSWERS * 9, TokenizerConfig(vocab_size=300))
    tokenizer.save(folder / "model")
    save_model(new_model(LLAMA, "causal_lm", seed=1), folder / "model")
    return folder


def recipe(folder: Path, output: Path, method: str = "lora", **training: Any) -> dict[str, Any]:
    usual = {"steps": 4, "batch_size": 8, "log_every": 1, "check_first_step": False}
    return {
        "output": str(output),
        "model": {"load": str(folder / "model")},
        "adapter": {"method": method, "r": 4},
        "objective": {"name": "sft"},
        "data": {"train": str(folder / "chat.jsonl"), "max_tokens": 96, "validation": 0},
        "optimizer": {"lr": 1e-2, "weight_decay": 0.0},
        "training": usual | training,
        "device": "cpu",
    }


class Losses(Observer):
    def __init__(self) -> None:
        self.losses: list[float] = []
        self.norms: list[float] = []

    def on_step(self, record: StepRecord) -> None:
        self.losses.append(record.train_loss)
        self.norms.append(record.gradient_norm)


def trained(raw: dict[str, Any]) -> tuple[Losses, set[torch.dtype]]:
    """What was lost, and the types of what was trained."""
    losses = Losses()
    with open_run(read_recipe(raw), resume=False, say=lambda text: None) as run:
        run.train([losses])
        return losses, {p.dtype for p in run.model.parameters() if p.requires_grad}


@pytest.mark.slow
@pytest.mark.parametrize("is_packed", [False, True])
def test_eight_answers_of_any_length_one_by_one_are_a_batch_of_eight(
    is_packed: bool, folder: Path, tmp_path: Path
) -> None:
    found = []
    for micro in (8, 2, 1):
        raw = recipe(folder, tmp_path / str(micro), micro_batch_size=micro)
        raw["data"]["packing"] = is_packed
        found.append(trained(raw)[0])
    for dealt in found[1:]:
        assert dealt.losses == pytest.approx(found[0].losses, rel=1e-5)
        assert dealt.norms == pytest.approx(found[0].norms, rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["lora", "dora", "qlora"])
def test_in_float16_an_adapter_itself_stays_in_float32_and_learns(
    method: str, folder: Path, tmp_path: Path
) -> None:
    losses, kept = trained(recipe(folder, tmp_path, method, precision="fp16", steps=8))
    assert kept == {torch.float32}
    assert losses.losses[-1] < losses.losses[0] - 0.1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("precision", "told"),
    [("fp32", "qlora computes in float32,"), ("fp16", "qlora computes in float16 (which often")],
)
def test_a_precision_that_qlora_is_not_known_with_is_told(
    precision: str, told: str, folder: Path, tmp_path: Path
) -> None:
    said: list[str] = []
    raw = recipe(folder, tmp_path, "qlora", precision=precision)
    with open_run(read_recipe(raw), resume=False, say=said.append):
        assert sum(line.startswith(told) for line in said) == 1


@pytest.mark.parametrize(
    ("stored", "compute", "kept"),
    [
        (torch.bfloat16, torch.bfloat16, torch.bfloat16),
        (torch.float16, torch.bfloat16, torch.bfloat16),
        (torch.float16, torch.float16, torch.float32),
        (torch.bfloat16, torch.float32, torch.float32),
        (torch.float32, torch.bfloat16, torch.float32),
    ],
)
def test_what_is_frozen_takes_16_bits_only_where_nothing_is_lost_by_it(
    stored: torch.dtype, compute: torch.dtype, kept: torch.dtype
) -> None:
    assert frozen_dtype(stored, compute) == kept
