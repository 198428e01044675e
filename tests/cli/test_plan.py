import json
from pathlib import Path

import pytest
import typer

from pharos.cli.plan import GPU_NAMES, SHAPE_NAMES, quantity
from pharos.train.planner import DEVICES, SHAPES
from pharos.train.planner.scaling import REFIT

LLAMA_70B = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 32000,
    "hidden_size": 8192,
    "intermediate_size": 28672,
    "num_hidden_layers": 80,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "max_position_embeddings": 4096,
}


@pytest.mark.parametrize(
    ("text", "number"),
    [("7B", 7e9), ("1.4T", 1.4e12), ("5.76e23", 5.76e23), ("$2M", 2e6), ("300,000", 3e5)],
)
def test_quantities_are_written_as_the_field_writes_them(text: str, number: float) -> None:
    assert quantity(text) == number


@pytest.mark.parametrize("text", ["", "B", "7X", "1e", "-3", "seven"])
def test_what_is_no_quantity_is_refused_with_examples(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="is no quantity; write 7e9, 7B"):
        quantity(text)


def test_help_names_all_shapes_and_devices() -> None:
    assert ", ".join(shape.name for shape in SHAPES) == SHAPE_NAMES
    assert ", ".join(device.name for device in DEVICES) == GPU_NAMES


def test_train_shows_the_run_the_laws_the_memory_and_what_is_assumed(pharos) -> None:
    run = pharos("plan", "train", "--compute", "5.76e23")
    assert run.code == 0
    for said in ("72.2B parameters on 1.33T tokens", "hoffmann", "32.2B", "kaplan", "ZeRO-2"):
        assert said in run.out
    for said in ("Recommended: FSDP", "MFU 40%", "$2.50 an hour", "Korthikanti"):
        assert said in run.out


def test_train_prints_the_same_as_json(pharos) -> None:
    run = pharos("plan", "train", "--model", "llama-2-7b", "--tokens", "2T", "--gpu", "a100-80",
                 "--mfu", "0.45", "--gpus", "512", "--json")  # fmt: skip
    plan = json.loads(run.out)
    assert plan["gpu_hours"] == pytest.approx(184_320, rel=0.01)
    mesh = plan["recommended"]["mesh"]
    assert mesh["data"] * mesh["tensor"] * mesh["pipeline"] == plan["gpus"] == 512
    assert set(plan["optima"]) == {"refit", "hoffmann", "20 tokens/param", "kaplan"}
    assert plan["assumptions"]["mfu"] == 0.45


def test_a_size_given_twice_is_wrong_use_in_one_line(pharos) -> None:
    run = pharos("plan", "train", "--compute", "1e21", "--money", "$50k")
    assert run.code == 2
    assert len(run.err.splitlines()) == 1
    assert "leave out compute, or money" in run.err


def test_a_model_that_does_not_fit_is_told_where_it_would(pharos) -> None:
    run = pharos("plan", "train", "--model", "gpt3-175b", "--tokens", "1B", "--gpus", "8")
    assert run.code == 0
    assert "It does not fit on 8 h100: it does on " in run.out


@pytest.mark.parametrize(
    ("params", "optimizer", "is_told"),
    [("13B", "adamw8bit", True), ("13B", "adamw", False), ("1B", "adamw8bit", False)],
)
def test_a_mesh_without_checkpoints_for_the_optimizer_is_told(
    params: str, optimizer: str, is_told: bool, pharos
) -> None:
    asked = ("plan", "train", "--params", params, "--gpus", "8", "--optimizer", optimizer)
    told = "has no checkpoints where weights lie in pieces"
    run = pharos(*asked)
    assert ("FSDP" in run.out.partition("Recommended:")[2]) == (params == "13B")
    assert (told in run.out) == is_told
    notes = json.loads(pharos(*asked, "--json").out)["notes"]
    assert [told in note for note in notes] == [True] * is_told


def test_serve_shows_cache_speed_and_cost(pharos) -> None:
    out = pharos("plan", "serve", "llama-2-70b").out
    for said in ("320 KiB", "138 GB", "a second", "a million tokens", "--bandwidth"):
        assert said in out


def test_a_folder_is_planned_as_the_shape_of_its_name(pharos, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(LLAMA_70B))
    known = json.loads(pharos("plan", "serve", "llama-2-70b", "--json").out)
    for name in (tmp_path, tmp_path / "config.json"):
        folder = json.loads(pharos("plan", "serve", name, "--json").out)
        assert folder["shape"].pop("name") == tmp_path.name
        assert known["shape"] | folder["shape"] == known["shape"]
        assert folder["by_gpus"] == known["by_gpus"]


def test_numbers_stand_for_a_model(pharos) -> None:
    options = ("--params", "6.738B", "--layers", "32", "--kv-heads", "32", "--json")
    plan = json.loads(pharos("plan", "serve", *options).out)
    assert plan["kv_bytes_per_token"] == 512 * 1024
    assert plan["weight_bytes"]["bf16"] == 2 * 6.738e9


def test_a_model_and_numbers_contradict_each_other(pharos) -> None:
    run = pharos("plan", "serve", "gpt2", "--layers", "3")
    assert run.code == 2
    assert "--layers" in run.err
    run = pharos("plan", "serve", "--params", "7B")
    assert run.code == 2
    assert "--kv-heads" in run.err


def test_a_model_that_is_not_known_is_told_the_known_shapes(pharos) -> None:
    run = pharos("plan", "serve", "llama-9")
    assert run.code == 1
    assert "mixtral-8x7b" in run.err


def test_an_encoder_has_no_tokens_to_serve(pharos, bert_folder: Path) -> None:
    run = pharos("plan", "serve", bert_folder)
    assert run.code == 2
    assert "is no decoder" in run.err


def test_a_law_is_fitted_written_and_planned_with(pharos, tmp_path: Path) -> None:
    table, law = tmp_path / "runs.csv", tmp_path / "law.json"
    rows = [(n, d, REFIT.loss(n, d)) for n in (1e7, 1e8, 1e9) for d in (1e9, 1e10, 1e11)]
    table.write_text("params,tokens,loss\n" + "\n".join(f"{n},{d},{y}" for n, d, y in rows))
    run = pharos("plan", "fit", table, "--resamples", "3", "--out", law, "--compute", "1e21")
    assert run.code == 0
    assert "0.3478" in run.out and "95%" in run.out
    options = ("--compute", "1e21", "--json")
    ours = json.loads(pharos("plan", "train", "--law", law, *options).out)
    theirs = json.loads(pharos("plan", "train", *options).out)
    assert ours["assumptions"]["law"]["name"] == "fitted"
    assert ours["parameters"] == pytest.approx(theirs["parameters"], rel=1e-3)
    fitted = json.loads(pharos("plan", "fit", table, "--resamples", "3", "--json").out)
    assert fitted["law"]["alpha"] == pytest.approx(REFIT.alpha, rel=1e-4)
    assert set(fitted["intervals"]) >= {"alpha", "beta", "exponent"}


def test_runs_that_are_missing_are_named(pharos, tmp_path: Path) -> None:
    run = pharos("plan", "fit", tmp_path / "none.csv")
    assert run.code == 1
    assert "none.csv" in run.err
