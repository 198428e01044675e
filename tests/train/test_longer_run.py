"""A run that is complete, and is to be longer."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pharos.core import TrainingError
from pharos.models.load import load_model
from pharos.train.recipe import read_recipe
from pharos.train.run import open_run

pytestmark = pytest.mark.slow

CONSTANT = {"name": "constant", "warmup_steps": 1}
SIZES = {"model_type": "gpt2", "n_layer": 1, "n_head": 1, "n_embd": 8, "n_positions": 8}


def train(output: Path, steps: int, schedule: dict[str, Any], *, resume: bool = False) -> None:
    path = output.parent / "lines.jsonl"
    path.write_text("".join(json.dumps({"text": f"lamp {i}"}) + "\n" for i in range(20)))
    raw = {
        "output": str(output),
        "tokenizer": {"train": {"kind": "characters"}},
        "model": {"config": SIZES},
        "objective": {"name": "causal_lm"},
        "data": {"sources": {"lines": {"path": str(path)}}, "sequence_length": 8, "validation": 0},
        "schedule": schedule,
        "training": {"steps": steps, "batch_size": 2},
        "device": "cpu",
    }
    with open_run(read_recipe(raw), resume=resume, say=lambda text: None) as run:
        assert run.train()


def weights(output: Path) -> dict[str, Tensor]:
    return load_model(output / "model").state_dict()


def test_with_a_constant_learning_rate_a_run_goes_on_as_if_it_had_always_been_so_long(
    tmp_path: Path,
) -> None:
    train(tmp_path / "whole", 3, CONSTANT)
    train(tmp_path / "longer", 2, CONSTANT)
    train(tmp_path / "longer", 3, CONSTANT, resume=True)
    whole, longer = weights(tmp_path / "whole"), weights(tmp_path / "longer")
    assert all(torch.equal(whole[name], longer[name]) for name in whole)


def test_with_any_other_the_steps_before_would_have_been_others(tmp_path: Path) -> None:
    train(tmp_path / "run", 2, {"name": "linear"})
    with pytest.raises(TrainingError, match=r"was made with training\.steps 2 \(now 3\)"):
        train(tmp_path / "run", 3, {"name": "linear"}, resume=True)
