"""Who computes the gradients of a recipe's run, where there is one process."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pharos.adapt import Adapters, LoraConfig
from pharos.models.load import new_model
from pharos.train.adaptation import AdapterRunner
from pharos.train.make_runner import make_runner
from pharos.train.objectives import Vocabulary, new_objective
from pharos.train.parallel import ParallelConfig
from pharos.train.ranks import Ranks
from pharos.train.recipe import Recipe, read_recipe
from pharos.train.run import open_run
from pharos.train.runner import StepRunner

STORY = "the lighthouse of pharos stood beside a library and its keeper read every night. "
GPT2 = {"model_type": "gpt2", "n_layer": 3, "n_head": 2, "n_embd": 16, "n_positions": 16}


def recipe(folder: Path, output: str, **training: Any) -> Recipe:
    (folder / "story.txt").write_text(STORY * 12)
    usual = {"steps": 4, "batch_size": 4, "log_every": 1}
    return read_recipe(
        {
            "output": str(folder / output),
            "tokenizer": {"train": {"kind": "characters"}},
            "model": {"config": GPT2},
            "objective": {"name": "causal_lm"},
            "data": {
                "sources": {"story": {"path": str(folder / "story.txt")}},
                "sequence_length": 16,
                "packing": "concat",
                "clean": False,
            },
            "training": usual | training,
            "device": "cpu",
        }
    )


def weights_after(of: Recipe) -> Mapping[str, Tensor]:
    with open_run(of, resume=False, say=lambda text: None) as run:
        run.train()
        return run.model.state_dict()


@pytest.mark.slow
@pytest.mark.parametrize("how", ["selective", "full"])
def test_however_activations_are_kept_a_run_ends_with_the_same_weights(
    how: str, tmp_path: Path
) -> None:
    kept = weights_after(recipe(tmp_path, "kept"))
    computed = weights_after(recipe(tmp_path, how, activation_checkpointing=how))
    assert kept.keys() == computed.keys()
    for name, parameter in kept.items():
        assert torch.equal(computed[name], parameter), name


def test_one_process_has_all_rows_and_saves_what_it_trains(tmp_path: Path) -> None:
    of = recipe(tmp_path, "run")
    objective = new_objective("causal_lm", {}, Vocabulary(size=40))
    model = new_model({**GPT2, "vocab_size": 40}, "causal_lm")
    plain, rows = make_runner(of, model, objective, ParallelConfig(), Ranks(), None)
    assert type(plain) is StepRunner
    assert (rows.rank, rows.world) == (0, 1)
    adapters = Adapters(model)
    adapters.add(LoraConfig(r=2))
    adapted, _ = make_runner(of, model, objective, ParallelConfig(), Ranks(), adapters)
    assert type(adapted) is AdapterRunner
