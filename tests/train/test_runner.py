"""A compiled step beside the plain one."""

import contextlib
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend

from pharos.train.events import Observer, StepRecord
from pharos.train.recipe import read_recipe
from pharos.train.run import open_run

pytestmark = pytest.mark.slow

STORY = "the lighthouse of pharos stood beside a library and its keeper read every night. "
GPT2 = {"model_type": "gpt2", "n_layer": 2, "n_head": 2, "n_embd": 16, "n_positions": 16}
LORA = {"method": "lora", "r": 2, "lora_dropout": 0.1}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A text; and a model of its letters, as a run has left it."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "story.txt").write_text(STORY * 12)
    train(recipe(folder, folder / "base", steps=1, compile=False))
    return folder


@pytest.fixture
def compiler(monkeypatch: pytest.MonkeyPatch) -> CompileCounterWithBackend:
    """Both passes are traced and run as torch's own operators: no C++ is compiled."""
    counter = CompileCounterWithBackend("aot_eager")
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=counter))
    torch._dynamo.reset()
    return counter


def recipe(folder: Path, output: Path, *, lora: bool = False, **training: Any) -> dict[str, Any]:
    text = {"path": str(folder / "story.txt")}
    begun: dict[str, Any] = {
        "model": {"config": GPT2},
        "tokenizer": {"train": {"kind": "characters"}},
    }
    if lora:
        begun = {"model": {"load": str(folder / "base" / "model")}, "adapter": LORA}
    usual = {"steps": 4, "batch_size": 4, "log_every": 1, "checkpoint_every": 2, "compile": True}
    return {
        "output": str(output),
        "objective": {"name": "causal_lm"},
        "data": {
            "sources": {"story": text},
            "sequence_length": 16,
            "packing": "concat",
            "validation": 0.2,
            "clean": False,
        },
        "optimizer": {"lr": 3e-3},
        "training": usual | training,
        "device": "cpu",
        **begun,
    }


class Losses(Observer):
    def __init__(self, stop_at: int | None) -> None:
        self.losses: dict[int, float] = {}
        self.stop_at = stop_at

    def on_step(self, record: StepRecord) -> None:
        self.losses[record.step] = record.train_loss
        if record.step == self.stop_at:
            raise Killed


class Killed(BaseException):
    """As if the process had ended there."""


def train(
    raw: Mapping[str, Any], *, resume: bool = False, stop_at: int | None = None
) -> tuple[dict[str, Tensor], dict[int, float]]:
    """The weights at the end, and the losses by step."""
    losses = Losses(stop_at)
    with open_run(read_recipe(raw), resume=resume, say=lambda text: None) as run:
        with contextlib.suppress(Killed):
            run.train([losses])
        weights = {name: x.detach().clone() for name, x in run.model.named_parameters()}
    return weights, losses.losses


def files_of(output: Path) -> dict[str, set[str]]:
    """The names of the tensors in each file that a run has left."""
    return {
        str(path.relative_to(output)): set(load_file(path))
        for path in output.rglob("*.safetensors")
    }


@pytest.mark.parametrize("lora", [False, True])
def test_a_compiled_step_trains_as_the_plain_one_and_leaves_the_same_files(
    lora: bool, folder: Path, tmp_path: Path, compiler: CompileCounterWithBackend
) -> None:
    plain, losses = train(recipe(folder, tmp_path / "plain", lora=lora, compile=False))
    assert compiler.frame_count == 0
    compiled, found = train(recipe(folder, tmp_path / "compiled", lora=lora))
    assert compiler.frame_count > 0
    assert found == pytest.approx(losses, rel=1e-5)
    assert compiled.keys() == plain.keys()
    for name, parameter in plain.items():
        torch.testing.assert_close(compiled[name], parameter, rtol=1e-4, atol=1e-5)
    assert files_of(tmp_path / "compiled") == files_of(tmp_path / "plain")


def test_a_compiled_run_goes_on_bit_for_bit_and_without_the_compiler_too(
    folder: Path, tmp_path: Path, compiler: CompileCounterWithBackend
) -> None:
    whole, losses = train(recipe(folder, tmp_path / "whole"))
    broken = recipe(folder, tmp_path / "broken")
    train(broken, stop_at=3)
    resumed, found = train(broken, resume=True)
    assert all(torch.equal(resumed[name], parameter) for name, parameter in whole.items())
    assert found == {step: losses[step] for step in (3, 4)}
    train(recipe(folder, tmp_path / "half"), stop_at=3)
    _, plainly = train(recipe(folder, tmp_path / "half", compile=False), resume=True)
    assert plainly == pytest.approx(found, rel=1e-5)
