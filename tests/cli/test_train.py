import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

Pharos = Callable[..., Any]

RECIPE: dict[str, Any] = {
    "tokenizer": {"train": {"kind": "characters"}},
    "model": {
        "config": {"model_type": "gpt2", "n_layer": 1, "n_head": 1, "n_embd": 8, "n_positions": 8}
    },
    "objective": {"name": "causal_lm"},
    "training": {"steps": 2, "batch_size": 2, "log_every": 1, "evaluate_every": 2},
    "device": "cpu",
}


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """Of a model of one layer, on forty lines, letter by letter."""
    lines = "".join(f"the keeper lights lamp {i}\n" for i in range(40))
    (tmp_path / "lines.txt").write_text(lines, encoding="utf-8")
    data = {
        "sources": {"lines": {"path": str(tmp_path / "lines.txt")}},
        "sequence_length": 8,
        "packing": "concat",
        "validation": 0.1,
    }
    raw = {"output": str(tmp_path / "run"), "data": data, **RECIPE}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(raw), encoding="utf-8")
    return tmp_path / "recipe.yaml"


@pytest.mark.slow
def test_a_run_tells_what_it_came_to_as_json(recipe: Path, pharos: Pharos, tmp_path: Path) -> None:
    run = pharos("train", recipe, "--json", "training.log_every=2")
    assert run.code == 0, run.err
    told = json.loads(run.out)
    assert (told["complete"], told["step"], told["tokens"]) == (True, 2, 2 * 2 * 8)
    assert told["val_loss"] == told["best_val_loss"] > 0
    assert Path(told["model"]) == tmp_path / "run" / "model"
    assert (tmp_path / "run" / "report.html").is_file()
    written = yaml.safe_load((tmp_path / "run" / "recipe.yaml").read_text())
    assert written["training"]["log_every"] == 2
    again = pharos("train", recipe)
    assert again.code == 1
    assert "holds a run already; go on with --resume" in again.err


def test_a_preview_tells_what_the_model_would_see_as_json(
    recipe: Path, pharos: Pharos, tmp_path: Path
) -> None:
    run = pharos("train", recipe, "--preview", "--json")
    assert run.code == 0, run.err
    told = json.loads(run.out)
    (first, *_) = told["samples"]
    assert all(set(stretch) == {"text", "is_target"} for part in first.values() for stretch in part)
    assert not (tmp_path / "run" / "checkpoints").exists()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("training.batch_sise=4", "training.batch_sise: there is no such key; did you mean batch_"),
        ("model.config.n_layr=4", "model.config.n_layr changes nothing in a model of type gpt2; "),
        ("optimizer.name=adamv", "optimizer.name is 'adamv'; choose from adamw, adamw8bit, muon"),
    ],
)
def test_what_no_recipe_can_say_ends_with_1_and_a_line(
    change: str, says: str, recipe: Path, pharos: Pharos, tmp_path: Path
) -> None:
    run = pharos("train", recipe, change)
    assert (run.code, run.out) == (1, "")
    assert run.err.startswith(f"pharos: {says}")
    assert not (tmp_path / "run").exists()


def test_a_change_that_is_none_is_a_mistake_of_usage(recipe: Path, pharos: Pharos) -> None:
    run = pharos("train", recipe, "training.steps")
    assert run.code == 2
    assert "'training.steps' is not KEY=VALUE" in " ".join(run.err.split())


def test_data_that_are_not_there_are_named_with_the_variable(
    recipe: Path, pharos: Pharos, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PHAROS_DATA", raising=False)
    run = pharos("train", recipe, "data.sources.lines.path=$PHAROS_DATA/nowhere/input.txt")
    assert run.code == 1
    assert "data.sources.lines.path is ./data/nowhere/input.txt" in run.err
    assert "$PHAROS_DATA is not set, so ./data was taken" in run.err


GREEN, ENDED = "\x1b[32m", "\x1b[0m"
ASKED = "<|im_start|>user\nWho?<|im_end|>\n<|im_start|>assistant\n"


@pytest.fixture
def chat(llama_folder: Path, tmp_path: Path) -> Path:
    """A recipe for one conversation."""
    messages = [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "The keeper"}]
    (tmp_path / "chat.jsonl").write_text(json.dumps({"messages": messages}) + "\n")
    raw = {
        "output": str(tmp_path / "run"),
        "model": {"load": str(llama_folder)},
        "objective": {"name": "sft"},
        "data": {"train": str(tmp_path / "chat.jsonl"), "template": "chatml", "max_tokens": 64},
        "training": {"steps": 1, "batch_size": 1},
    }
    (tmp_path / "chat.yaml").write_text(yaml.safe_dump(raw), encoding="utf-8")
    return tmp_path / "chat.yaml"


def test_a_preview_shows_what_is_learned_in_green(
    chat: Path, pharos: Pharos, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    run = pharos("train", chat, "--preview", "data.validation=0")
    assert run.code == 0, run.err
    assert f"{ASKED}{GREEN}The keeper<|im_end|>{ENDED}" in run.out
    assert run.out.count(GREEN) == 1


@pytest.mark.parametrize("is_wanted", [False, True])
def test_without_colours_what_is_learned_is_in_brackets(
    is_wanted: bool, chat: Path, pharos: Pharos, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a pipe, and where somebody wants none."""
    if is_wanted:
        monkeypatch.setenv("FORCE_COLOR", "1")
        monkeypatch.setenv("NO_COLOR", "1")
    run = pharos("train", chat, "--preview", "data.validation=0")
    assert f"{ASKED}[The keeper<|im_end|>]" in run.out
    assert GREEN not in run.out
