import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError

from pharos.core import TrainingError
from pharos.models.load import new_model
from pharos.train.checkpoint import (
    Checkpoints,
    Retention,
    load_module,
    load_state,
    save_module,
    save_state,
)

GPT2 = {
    "model_type": "gpt2",
    "vocab_size": 31,
    "n_embd": 16,
    "n_layer": 2,
    "n_head": 2,
    "n_positions": 16,
}


def touch(folder: Path) -> None:
    (folder / "weights").write_bytes(b"x" * 10)


def test_a_checkpoint_is_found_by_its_step(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "checkpoints", Retention())
    assert checkpoints.latest() is None
    for step in (5, 20, 10):
        checkpoints.save(step, touch)
    assert checkpoints.steps() == [5, 10, 20]
    assert checkpoints.latest() == checkpoints.path(20)
    assert (checkpoints.path(20) / "weights").read_bytes() == b"x" * 10


def test_what_the_policy_names_is_kept(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, Retention(keep_last=2, keep_every=10))
    for step in (3, 10, 12, 20, 21, 22):
        checkpoints.save(step, touch)
    checkpoints.prune(best=3)
    assert checkpoints.steps() == [3, 10, 20, 21, 22]


def test_a_checkpoint_that_fails_takes_no_other_with_it(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, Retention(keep_last=1))
    checkpoints.save(1, touch)

    def fail(folder: Path) -> None:
        touch(folder)
        raise OSError(28, "No space left on device")

    with pytest.raises(TrainingError, match=r"step-00000002: .*No space left.*step 1 is complete"):
        checkpoints.save(2, fail)

    def fail_in_safetensors(folder: Path) -> None:
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    with pytest.raises(TrainingError, match=r"step-00000002: .*No space left.*step 1 is complete"):
        checkpoints.save(2, fail_in_safetensors)
    assert checkpoints.steps() == [1]
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]


FILL = """
import resource, signal, sys
from pathlib import Path
import torch
from pharos.core import TrainingError
from pharos.train.checkpoint import Checkpoints, Retention, save_state

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
checkpoints = Checkpoints(Path(sys.argv[1]), Retention(keep_last=1))
checkpoints.save(1, lambda folder: save_state({"x": torch.zeros(100)}, folder))
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
try:
    checkpoints.save(2, lambda folder: save_state({"x": torch.zeros(100_000)}, folder))
except TrainingError as error:
    print(error)
"""


def test_a_disk_that_refuses_more_leaves_the_checkpoint_before(tmp_path: Path) -> None:
    told = subprocess.run(
        [sys.executable, "-c", FILL, str(tmp_path)], capture_output=True, text=True, check=True
    ).stdout
    assert "could not be written" in told
    assert Checkpoints(tmp_path, Retention()).steps() == [1]
    assert torch.equal(load_state(tmp_path / "step-00000001")["x"], torch.zeros(100))


def test_what_an_interrupted_save_left_is_no_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "step-00000007.partial").mkdir()
    checkpoints = Checkpoints(tmp_path, Retention())
    assert checkpoints.latest() is None
    checkpoints.save(7, touch)
    checkpoints.prune(best=None)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000007"]


def test_weights_come_back_bitwise_and_apart_from_the_file(tmp_path: Path) -> None:
    model, other = new_model(GPT2, "causal_lm", seed=1), new_model(GPT2, "causal_lm", seed=2)
    save_module(model, tmp_path)
    load_module(other, tmp_path)
    for ours, theirs in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    before = (tmp_path / "model.safetensors").read_bytes()
    with torch.no_grad():
        next(other.parameters()).add_(1.0)
    assert (tmp_path / "model.safetensors").read_bytes() == before


def test_a_model_alone_is_nothing_to_resume_from(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"holds no training.pt.*model.load"):
        load_state(tmp_path)
    (tmp_path / "training.pt").write_bytes(b"not a zip")
    with pytest.raises(TrainingError, match="cannot be read"):
        load_state(tmp_path)


def test_state_is_kept_as_it_is(tmp_path: Path) -> None:
    state = {"step": 3, "optimizer": {"state": {0: {"exp_avg": torch.randn(3)}}}, "best": None}
    save_state(state, tmp_path)
    found = load_state(tmp_path)
    assert torch.equal(
        found["optimizer"]["state"][0]["exp_avg"], state["optimizer"]["state"][0]["exp_avg"]
    )
    assert (found["step"], found["best"]) == (3, None)
