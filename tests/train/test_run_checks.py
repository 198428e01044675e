"""What is found wrong with a recipe before anything of it is loaded or written."""

from pathlib import Path
from typing import Any

import pytest

from pharos.core.errors import TrainingError
from pharos.models.load import new_model, save_model
from pharos.train.parallel import ParallelConfig
from pharos.train.recipe import Recipe, read_recipe
from pharos.train.run_checks import check_run, num_micro_batches

GPT2 = {"model_type": "gpt2", "n_layer": 2, "n_head": 2, "n_embd": 16, "n_positions": 32}
MIXTRAL = {
    "model_type": "mixtral",
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "num_local_experts": 2,
}


def recipe(output: Path, **sections: Any) -> Recipe:
    raw: dict[str, Any] = {
        "output": str(output),
        "model": {"config": GPT2},
        "tokenizer": {"load": "not looked for"},
        "objective": {"name": "causal_lm"},
        "data": {"sources": {"texts": {"path": "not read"}}, "sequence_length": 16},
        "training": training(),
    }
    return read_recipe({**raw, **sections})


def training(**changes: Any) -> dict[str, Any]:
    return {"steps": 4, "batch_size": 8, "micro_batch_size": 2, **changes}


def check(of: Recipe, *, resume: bool = False, **axes: Any) -> None:
    parallel = ParallelConfig(**axes)
    check_run(of, parallel, world=parallel.world, resume=resume)


def test_rows_are_dealt_to_those_that_have_rows_of_their_own(tmp_path: Path) -> None:
    of = recipe(tmp_path)
    assert num_micro_batches(of, ParallelConfig()) == 4
    assert num_micro_batches(of, ParallelConfig(data=2)) == 2
    assert num_micro_batches(of, ParallelConfig(shard=2, tensor=2, pipeline=2)) == 2


@pytest.mark.parametrize("axes", [{}, {"data": 2}, {"shard": 2}, {"tensor": 2}, {"pipeline": 2}])
def test_what_can_be_passes_and_nothing_is_written(axes: dict[str, int], tmp_path: Path) -> None:
    check(recipe(tmp_path / "run"), **axes)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("sections", "axes", "says"),
    [
        ({"training": training(ema=0.9)}, {"shard": 2}, "training.ema is for models that each"),
        ({"training": training(compile=True)}, {"tensor": 2}, "training.compile is for models"),
        (
            {"model": {"load": "$folder", "freeze": ["wte"]}},
            {"shard": 2},
            "model.freeze is for models that each process has whole; leave it out, or set",
        ),
        (
            {"model": {"load": "$folder"}, "adapter": {"method": "lora"}},
            {"shard": 2},
            "adapter is for models that each process has whole",
        ),
        (
            {
                "objective": {"name": "causal_lm", "load_balancing": 0.01},
                "model": {"config": MIXTRAL},
            },
            {"pipeline": 2},
            "objective.load_balancing needs the routers of all layers",
        ),
        (
            {"training": training(precision="fp16")},
            {"pipeline": 2},
            "training.precision fp16 has no pipeline; choose bf16",
        ),
        (
            {"training": training(micro_batch_size=8)},
            {"pipeline": 2},
            "parallel.pipeline is 2: a rank has 1 micro-batches",
        ),
        ({"schedule": {"warmup_steps": 9}}, {}, "warmup_steps 9 do not fit into 4 steps"),
    ],
)
def test_what_cannot_be_names_its_key_and_the_way_out(
    sections: dict[str, Any], axes: dict[str, int], says: str, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    save_model(new_model({**GPT2, "vocab_size": 40}, "causal_lm"), folder)
    if sections.get("model", {}).get("load"):
        sections = {**sections, "model": {**sections["model"], "load": str(folder)}}
    of = recipe(tmp_path / "run", **sections)
    with pytest.raises((TrainingError, ValueError), match=says):
        check(of, **axes)
    assert not (tmp_path / "run").exists()


def test_with_each_process_whole_all_of_them_are_welcome(tmp_path: Path) -> None:
    loop = training(ema=0.9, compile=True)
    check(recipe(tmp_path / "run", training=loop), data=2)


def test_a_mesh_of_another_size_than_the_world_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="tensor 2 makes 2 processes, but 4 run"):
        check_run(recipe(tmp_path), ParallelConfig(tensor=2), world=4, resume=False)


def test_a_run_that_is_there_is_only_gone_on_with(tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoints" / "step-00000002"
    checkpoint.mkdir(parents=True)
    (checkpoint / "state.pt").touch()
    of = recipe(tmp_path)
    check(of, resume=True)
    with pytest.raises(TrainingError, match="holds a run already; go on with --resume"):
        check(of)


def test_an_adapter_that_is_begun_from_must_be_there(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    save_model(new_model({**GPT2, "vocab_size": 40}, "causal_lm"), folder)
    begun = {"method": "lora", "begin_from": str(tmp_path / "nowhere")}
    of = recipe(tmp_path / "run", model={"load": str(folder)}, adapter=begun)
    with pytest.raises(TrainingError, match=r"adapter\.begin_from: there is no adapter in"):
        check(of)
