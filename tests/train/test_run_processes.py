"""Whole runs in processes of their own: several by torchrun, and one that gets a signal."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from pharos.data.train_tokenizer import TokenizerConfig, train_tokenizer
from pharos.models.load import load_model
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
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    words = STORY.split()
    texts = [" ".join(words[i % 7 :] + words[: i % 11]) for i in range(60)]
    (folder / "texts.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in texts))
    train_tokenizer(texts, TokenizerConfig(vocab_size=300)).save(folder / "tokenizer")
    return folder


def write_recipe(folder: Path, output: Path, steps: int = 6, **sections: Any) -> Path:
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
        "training": {
            "steps": steps,
            "batch_size": 8,
            "micro_batch_size": 2,
            "log_every": 1,
            "evaluate_every": 3,
            "evaluation_rows": 8,
            "checkpoint_every": 2,
        },
        "device": "cpu",
        **sections,
    }
    path = output.with_suffix(".yaml")
    path.write_text(json.dumps(raw))
    return path


def run(recipe: Path, *arguments: str, processes: int) -> subprocess.CompletedProcess[str]:
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node", str(processes)]
    return subprocess.run(
        [sys.executable, *launcher, "-m", "pharos", "train", str(recipe), *arguments],
        check=False,
        capture_output=True,
        text=True,
        env=ENVIRONMENT,
        timeout=240,
    )


def weights(output: Path) -> dict[str, Tensor]:
    return dict(load_model(output / "model").named_parameters())


def losses(output: Path) -> list[float]:
    return [line["train_loss"] for line in read_metrics(output / "metrics.jsonl")]


def alone(recipe: Path, output: Path) -> None:
    """The same recipe in this process."""
    raw = {**json.loads(recipe.read_text()), "output": str(output)}
    with open_run(read_recipe(raw), resume=False, say=lambda text: None) as run:
        run.train()


def test_two_processes_train_as_one_and_resume_bitwise(folder: Path, tmp_path: Path) -> None:
    recipe = write_recipe(folder, tmp_path / "both")
    done = run(recipe, processes=2)
    assert done.returncode == 0, done.stderr
    alone(recipe, tmp_path / "alone")
    assert losses(tmp_path / "both") == pytest.approx(losses(tmp_path / "alone"), rel=1e-5)

    whole = weights(tmp_path / "both")
    for made_last in ("model", "checkpoints/step-00000006"):
        shutil.rmtree(tmp_path / "both" / made_last)
    resumed = run(recipe, "--resume", processes=2)
    assert resumed.returncode == 0, resumed.stderr
    for name, parameter in weights(tmp_path / "both").items():
        assert parameter.equal(whole[name]), name


def test_a_sharded_run_trains_as_one_process_and_leaves_a_model(
    folder: Path, tmp_path: Path
) -> None:
    recipe = write_recipe(folder, tmp_path / "sharded", parallel={"shard": 2})
    done = run(recipe, processes=2)
    assert done.returncode == 0, done.stderr
    raw = {**json.loads(recipe.read_text()), "parallel": None}
    (tmp_path / "plain.yaml").write_text(json.dumps(raw))
    alone(tmp_path / "plain.yaml", tmp_path / "alone")
    assert losses(tmp_path / "sharded") == pytest.approx(losses(tmp_path / "alone"), rel=1e-4)
    ours = weights(tmp_path / "sharded")
    for name, parameter in weights(tmp_path / "alone").items():
        assert ours[name].allclose(parameter, atol=1e-4), name


def test_ctrl_c_leaves_a_checkpoint_to_go_on_from(folder: Path, tmp_path: Path) -> None:
    recipe = write_recipe(folder, tmp_path / "run", steps=1_000_000)
    process = subprocess.Popen(
        [sys.executable, "-m", "pharos", "train", str(recipe)],
        stderr=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
    )
    assert process.stderr is not None
    assert any(line.startswith("step 5/") for line in process.stderr)
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=120)
    assert process.returncode == 130, told
    stopped = re.search(r"Stopped at step (\d+); go on with --resume", told)
    assert stopped is not None, told
    folder = tmp_path / "run" / "checkpoints" / f"step-{int(stopped[1]):08d}"
    assert load_state(folder)["step"] == int(stopped[1])
