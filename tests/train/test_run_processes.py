"""Whole runs in processes of their own: several by torchrun, and some that get a signal."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from torch import Tensor

from pharos.data.tokenizer import Tokenizer
from pharos.data.train_tokenizer import TokenizerConfig, train_tokenizer
from pharos.models.load import load_model, new_model, save_model
from pharos.train.checkpoint import load_state
from pharos.train.metrics_log import read_metrics
from pharos.train.recipe import read_recipe
from pharos.train.run import open_run

pytestmark = pytest.mark.slow

STORY = "The lighthouse of Pharos stood beside a library. Its keeper read there every night."
GPT2 = {
    "model_type": "gpt2",
    "n_layer": 2,
    "n_head": 2,
    "n_embd": 16,
    "n_positions": 32,
    "embd_pdrop": 0.0,
    "attn_pdrop": 0.0,
    "resid_pdrop": 0.0,
}
BERT = {
    "model_type": "bert",
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 32,
}
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    words = STORY.split()
    texts = [" ".join(words[i % 7 :] + words[: i % 11]) for i in range(60)]
    records = [{"text": t, "text_b": t[::-1], "label": len(t) % 2} for t in texts]
    (folder / "texts.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    train_tokenizer(texts, TokenizerConfig(vocab_size=300)).save(folder / "tokenizer")
    config = TokenizerConfig(kind="wordpiece", vocab_size=300)
    train_tokenizer(texts, config).save(folder / "wordpiece")
    return folder


def write_recipe(folder: Path, output: Path, steps: int = 40, **sections: Any) -> Path:
    """A recipe as a file: JSON is YAML."""
    raw = {
        "output": str(output),
        "model": {"config": GPT2},
        "tokenizer": {"load": str(folder / "tokenizer")},
        "objective": {"name": "causal_lm"},
        "data": {
            "sources": {"stories": {"path": str(folder / "texts.jsonl")}},
            "sequence_length": 24,
            "validation": 0.2,
            "deduplicate": False,
        },
        "optimizer": {"lr": 3e-3},
        "training": training(steps=steps),
        "device": "cpu",
        **sections,
    }
    path = output.with_suffix(".yaml")
    path.write_text(json.dumps(raw))
    return path


def training(**changes: Any) -> dict[str, Any]:
    usual = {
        "batch_size": 8,
        "micro_batch_size": 2,
        "log_every": 1,
        "evaluate_every": 10,
        "evaluation_rows": 8,
        "checkpoint_every": 4,
    }
    return {**usual, **changes}


def run(recipe: Path, *arguments: str, processes: int) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(recipe, *arguments, processes=processes),
        check=False,
        capture_output=True,
        text=True,
        env=ENVIRONMENT,
        timeout=600,
    )


def command(recipe: Path, *arguments: str, processes: int = 1) -> list[str]:
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node", str(processes)]
    launched = [*(launcher if processes > 1 else []), "-m", "pharos", "train", str(recipe)]
    return [sys.executable, *launched, *arguments]


def start(recipe: Path, *arguments: str, until: str, processes: int = 1) -> "subprocess.Popen[str]":
    """A run, in a session of its own, that has just told a line which begins so."""
    process = subprocess.Popen(
        command(recipe, *arguments, processes=processes),
        stderr=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
        start_new_session=True,
    )
    assert process.stderr is not None
    assert any(line.startswith(until) for line in process.stderr)
    return process


def stopped_at(process: "subprocess.Popen[str]", output: Path) -> int:
    """The step whose checkpoint a run that was asked to stop has left, and told."""
    _, told = process.communicate(timeout=600)
    assert process.returncode == 130, told
    found = re.search(r"Stopped at step (\d+); go on with --resume", told)
    assert found is not None, told
    step = int(found[1])
    assert load_state(output / "checkpoints" / f"step-{step:08d}")["step"] == step
    return step


def children(process: int) -> list[int]:
    path = Path(f"/proc/{process}/task/{process}/children")
    return [int(each) for each in path.read_text().split()]


def weights(output: Path) -> dict[str, Tensor]:
    return dict(load_model(output / "model").named_parameters())


def losses(output: Path, name: str = "train_loss") -> list[float]:
    return [line[name] for line in read_metrics(output / "metrics.jsonl") if name in line]


@pytest.fixture(scope="module")
def alone(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output of the recipe as this process runs it."""
    output = tmp_path_factory.mktemp("alone") / "run"
    train_here(write_recipe(folder, output))
    return output


def train_here(recipe: Path) -> None:
    raw = json.loads(recipe.read_text())
    with open_run(read_recipe(raw), resume=False, say=lambda text: None) as run:
        run.train()


def assert_same(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    for name, parameter in theirs.items():
        assert parameter.equal(ours[name]), name


@pytest.fixture(scope="module")
def both(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output of the same recipe on two processes."""
    output = tmp_path_factory.mktemp("both") / "run"
    done = run(write_recipe(folder, output), processes=2)
    assert done.returncode == 0, done.stderr
    return output


def test_two_processes_train_as_one(alone: Path, both: Path) -> None:
    assert losses(both) == pytest.approx(losses(alone), rel=1e-5)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_two_processes_that_are_killed_go_on_as_if_they_had_not_been(
    folder: Path, both: Path, tmp_path: Path
) -> None:
    assert_goes_on(write_recipe(folder, tmp_path / "broken"), tmp_path / "broken", both)


def assert_goes_on(recipe: Path, output: Path, undisturbed: Path) -> None:
    """Killed after a checkpoint and a step, a run of two processes ends as the undisturbed."""
    launcher = start(recipe, until="step 5/", processes=2)
    for rank in children(launcher.pid):
        os.kill(rank, signal.SIGKILL)
    _, told = launcher.communicate(timeout=600)
    assert launcher.returncode != 0, told
    assert not (output / "model").exists()

    resumed = run(recipe, "--resume", processes=2)
    assert resumed.returncode == 0, resumed.stderr
    assert_same(weights(output), weights(undisturbed))
    assert losses(output) == losses(undisturbed)


def of_objective(name: str, folder: Path) -> dict[str, Any]:
    """The sections that differ from a causal language model's, with workers."""
    encoder = {"model": {"config": BERT}, "tokenizer": {"load": str(folder / "wordpiece")}}
    records = {"train": str(folder / "texts.jsonl"), "max_tokens": 24, "validation": 0.2}
    sections: dict[str, dict[str, Any]] = {
        "masked_lm": encoder,
        "sequence_classification": encoder | {"data": records},
        "info_nce": encoder | {"data": records},
        "sft": {"data": records | {"format": "text", "packing": True}},
    }
    loop = training(steps=60, evaluate_every=None, workers=1)
    return {"objective": {"name": name}, "training": loop, **sections[name]}


@pytest.mark.long
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize("objective", ["masked_lm", "sequence_classification", "info_nce", "sft"])
def test_two_processes_of_every_objective_go_on_as_if_they_had_not_been_killed(
    objective: str, folder: Path, tmp_path: Path
) -> None:
    sections = of_objective(objective, folder)
    undisturbed = run(write_recipe(folder, tmp_path / "whole", **sections), processes=2)
    assert undisturbed.returncode == 0, undisturbed.stderr
    broken = write_recipe(folder, tmp_path / "broken", **sections)
    assert_goes_on(broken, tmp_path / "broken", tmp_path / "whole")


@pytest.mark.parametrize("axis", ["shard", "pipeline"])
def test_where_no_process_has_all_weights_a_run_trains_as_one_and_leaves_a_model(
    axis: str, folder: Path, alone: Path, tmp_path: Path
) -> None:
    done = run(write_recipe(folder, tmp_path / "run", parallel={axis: 2}), processes=2)
    assert done.returncode == 0, done.stderr
    for name in ("train_loss", "val_loss"):
        assert losses(tmp_path / "run", name) == pytest.approx(losses(alone, name), rel=1e-4)
    ours = weights(tmp_path / "run")
    for name, parameter in weights(alone).items():
        assert ours[name].allclose(parameter, atol=1e-3), name  # Adam takes whole steps of noise


@pytest.mark.long
def test_a_sharded_run_goes_on_bitwise_and_on_another_mesh(folder: Path, tmp_path: Path) -> None:
    recipe, output = write_recipe(folder, tmp_path / "run", parallel={"shard": 2}), tmp_path / "run"
    done = run(recipe, processes=2)
    assert done.returncode == 0, done.stderr
    whole, before = weights(output), losses(output)
    on_another_mesh = ("parallel.shard=1", "parallel.tensor=2")
    for changes in ((), on_another_mesh):
        shutil.rmtree(output / "checkpoints" / "step-00000040")
        shutil.rmtree(output / "model")
        resumed = run(recipe, *changes, "--resume", processes=2)
        assert resumed.returncode == 0, resumed.stderr
        if changes:
            assert losses(output) == pytest.approx(before, rel=1e-4)
        else:
            assert losses(output) == before
            assert_same(weights(output), whole)


def test_ctrl_c_leaves_a_checkpoint_to_go_on_from(folder: Path, tmp_path: Path) -> None:
    recipe = write_recipe(folder, tmp_path / "run", steps=1_000_000)
    process = start(recipe, until="step 5/")
    process.send_signal(signal.SIGINT)
    assert stopped_at(process, tmp_path / "run") >= 5


def test_a_run_whose_workers_are_told_to_end_with_it_leaves_a_checkpoint_to_go_on_from(
    folder: Path, tmp_path: Path
) -> None:
    """As `timeout`, Slurm and containers do: SIGTERM to every process."""
    loop = training(steps=1_000_000, workers=1)
    recipe, output = write_recipe(folder, tmp_path / "run", training=loop), tmp_path / "run"
    process = start(recipe, until="step 5/")
    os.killpg(process.pid, signal.SIGTERM)
    stopped = stopped_at(process, output)
    again = start(recipe, "--resume", until=f"step {stopped + 3:,}/")
    os.killpg(again.pid, signal.SIGTERM)
    assert stopped_at(again, output) >= stopped + 3


def test_an_adapter_trains_on_two_processes_as_on_one(folder: Path, tmp_path: Path) -> None:
    base = tmp_path / "base"
    base.mkdir()
    Tokenizer.load(folder / "tokenizer").save(base)
    save_model(new_model({**GPT2, "vocab_size": 300}, "causal_lm", seed=1), base)
    sections = {
        "model": {"load": str(base)},
        "tokenizer": {},
        "adapter": {"method": "lora", "r": 2},
    }
    done = run(write_recipe(folder, tmp_path / "both", **sections), processes=2)
    assert done.returncode == 0, done.stderr
    train_here(write_recipe(folder, tmp_path / "alone", **sections))
    assert losses(tmp_path / "both") == pytest.approx(losses(tmp_path / "alone"), rel=1e-5)
    both, alone = (
        load_file(tmp_path / name / "adapter" / "adapter_model.safetensors")
        for name in ("both", "alone")
    )
    assert both.keys() == alone.keys()
    for name, parameter in both.items():
        assert parameter.allclose(alone[name], atol=1e-5), name
