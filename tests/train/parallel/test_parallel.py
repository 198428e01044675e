"""A run that is spread over processes is the run of one. `driver.py` does what is asserted here,
all of it in one interpreter that forks."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from pharos.models.load import load_model

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not hasattr(os, "fork"), reason="ranks are forked"),
]

DRIVER = Path(__file__).with_name("driver.py")
SECONDS = 1800
KINDS = ("gpt2", "llama", "qwen3", "mixtral")

TWO_RANKS = {
    "ddp": "gpt2",
    "fsdp": "llama",
    "tp_gpt2": "gpt2",
    "tp_llama": "llama",
    "pp_gpt2": "gpt2",
    "pp_llama_interleaved": "llama",
    "ep": "mixtral",
}
FOUR_RANKS = {"fsdp_tp": "gpt2", "ddp_pp": "gpt2", "tp_pp": "llama", "fsdp_ep": "mixtral"}
ONLY_SLOW: Mapping[int, Mapping[str, str]] = {
    2: {
        "fsdp_full_checkpointing": "llama",
        "tp_qwen3": "qwen3",
        "tp_mixtral": "mixtral",
        "pp_gpt2_interleaved": "gpt2",
    },
    4: {
        "hsdp": "llama",
        "ddp_tp": "qwen3",
        "fsdp_pp": "qwen3",
        "pp_4": "gpt2",
        "ep_tp": "mixtral",
    },
    8: {"3d": "gpt2"},
}

FAST = [
    f"1:{','.join(f'one_{kind}' for kind in KINDS)},every_family_on_one",
    f"2:{','.join(TWO_RANKS)},every_family_ddp,every_family_fsdp",
    "2:rank_one_fails",
    "2:one_rank_cannot_write,evaluates_without_gradients,muon_goes_on,eight_bits_are_refused",
    f"4:{','.join(FOUR_RANKS)},saves_and_goes_on",
    "4:gathers_to_a_model_folder,names_are_those_of_the_model",
    "1:goes_on_with_one",
    "2:goes_on_with_two,goes_on_in_stages",
]
SLOW = [
    f"1:{','.join(f'one_{kind}@50' for kind in KINDS)}",
    *(f"2:{name}@50" for name in TWO_RANKS),
    *(f"4:{name}@50" for name in FOUR_RANKS),
    *(f"{world}:{name}@50" for world, checks in ONLY_SLOW.items() for name in checks),
]
Result = Callable[[str], Any]


def drive(folder: Path, plan: Sequence[str]) -> str:
    """What the driver wrote to stderr."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, str(DRIVER), str(folder), *plan]
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=SECONDS, check=False
    )
    (folder / "stderr").write_text(done.stderr)
    return done.stderr


def reader(folder: Path, plan: Sequence[str]) -> Result:
    told = drive(folder, plan)

    def result(name: str) -> Any:
        path = folder / f"{name}.json"
        assert path.is_file(), f"{name} did not come to its end:\n{told[-6000:]}"
        return json.loads(path.read_text())

    return result


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("parallel")


@pytest.fixture(scope="module")
def result(folder: Path) -> Result:
    return reader(folder, FAST)


def assert_follows(spread: Any, one: Any) -> None:
    num = len(spread["losses"])
    assert num > 1
    assert spread["losses"] == pytest.approx(one["losses"][:num], rel=1e-5)
    assert spread["norms"] == pytest.approx(one["norms"][:num], rel=1e-3)


@pytest.mark.parametrize("name", TWO_RANKS | FOUR_RANKS)
def test_losses_are_those_of_one_process(name: str, result: Result) -> None:
    assert_follows(result(name), result(f"one_{(TWO_RANKS | FOUR_RANKS)[name]}"))


@pytest.mark.parametrize("way", ["ddp", "fsdp"])
def test_every_family_takes_the_step_that_it_takes_alone(way: str, result: Result) -> None:
    one = result("every_family_on_one")
    spread = result(f"every_family_{way}")
    assert spread.keys() == one.keys()
    for name, numbers in spread.items():
        assert numbers == pytest.approx(one[name], rel=1e-5), name


@pytest.mark.parametrize("name", ["goes_on_with_one", "goes_on_with_two", "goes_on_in_stages"])
def test_a_checkpoint_of_four_ranks_goes_on_identically_on_fewer(name: str, result: Result) -> None:
    before = result("saves_and_goes_on")["losses"]
    assert result(name)["losses"] == pytest.approx(before, rel=1e-5)


def test_a_complete_checkpoint_leaves_nothing_beside(folder: Path, result: Result) -> None:
    assert result("saves_and_goes_on")["files"] == ["step"]
    notes = {path.name for path in (folder / "resharding" / "step").glob("note-*")}
    assert notes == {f"note-{rank}" for rank in range(4)}


def test_a_rank_that_cannot_write_fails_all_and_loses_nothing(result: Result) -> None:
    message = result("one_rank_cannot_write")
    assert "could not be written on rank 1 ([Errno 28] No space left on device)" in message
    assert "resume from the checkpoint before it" in message


def test_a_gathered_model_is_one_that_hugging_face_reads(folder: Path, result: Result) -> None:
    losses = result("gathers_to_a_model_folder")["losses"]
    assert losses == pytest.approx(result("one_mixtral")["losses"][3:], rel=1e-5)
    weights = load_file(folder / "exported" / "model.safetensors")
    assert "model.layers.1.block_sparse_moe.experts.3.w1.weight" in weights
    model = load_model(folder / "exported")
    assert all(torch.isfinite(p).all() for p in model.parameters())


def test_parts_keep_the_names_of_the_whole(result: Result) -> None:
    names = result("names_are_those_of_the_model")
    assert "model.body.embedding.weight" in names
    assert "model.lm_head.weight" in names
    experts = {name for name in names if ".experts." in name and name.endswith("gate.weight")}
    assert experts == {
        f"model.body.blocks.{block}.mlp.experts.{expert}.gate.weight"
        for block in range(2)
        for expert in range(4)
    }


def test_a_pipeline_evaluates_to_the_sums_of_its_steps(result: Result) -> None:
    found = result("evaluates_without_gradients")
    assert found["evaluated"] == pytest.approx(found["stepped"], rel=1e-6)
    assert set(found["evaluated"]) == {"causal_lm", "correct"}
    assert not found["has_gradient"]


def test_a_rank_that_fails_ends_its_world_and_no_other(folder: Path, result: Result) -> None:
    assert not (folder / "rank_one_fails.json").exists()
    assert "this rank was told to fail" in (folder / "stderr").read_text()
    assert result("goes_on_with_two")["losses"]


def test_the_state_of_muon_is_kept_with_its_shards(result: Result) -> None:
    undisturbed, resumed = result("muon_goes_on")
    assert resumed == undisturbed


def test_a_state_that_cannot_be_placed_names_optimizers_that_can(result: Result) -> None:
    message = result("eight_bits_are_refused")
    assert "in a form of its own" in message
    assert "choose the optimizer adamw or muon" in message


@pytest.mark.long
def test_fifty_losses_are_those_of_one_process(tmp_path: Path) -> None:
    found = reader(tmp_path, SLOW)
    for checks in (TWO_RANKS, FOUR_RANKS, *ONLY_SLOW.values()):
        for name, kind in checks.items():
            assert_follows(found(f"{name}@50"), found(f"one_{kind}@50"))


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs: NCCL between them")
def test_two_gpus_follow_one_process(tmp_path: Path) -> None:
    one = reader(tmp_path, ["1:" + ",".join(f"one_{kind}" for kind in KINDS)])
    checks = TWO_RANKS
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    command = [*torchrun, str(DRIVER), str(tmp_path), *checks]
    subprocess.run(command, timeout=SECONDS, check=True)
    for name, kind in checks.items():
        found = json.loads((tmp_path / f"{name}.json").read_text())
        assert found["losses"] == pytest.approx(one(f"one_{kind}")["losses"], rel=1e-3)
