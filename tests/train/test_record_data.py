"""What a recipe's records are read as, and the tokenizer that is learned from them."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from pharos.core.errors import TrainingError
from pharos.data.tokenizer import Tokenizer
from pharos.train.data_section import RecordData
from pharos.train.events import Evaluation, Observer
from pharos.train.recipe import read_recipe
from pharos.train.record_data import check_keys, record_texts
from pharos.train.run import open_run

GPT2 = {"model_type": "gpt2", "n_layer": 1, "n_head": 2, "n_embd": 16, "n_positions": 64}
PLACES = ("tower", "harbour", "library", "garden", "kitchen", "gate")
PAIRS = [
    {
        "chosen": f"\n\nHuman: Where is the {place}?\n\nAssistant: By the {place}, keeper {i}.",
        "rejected": f"\n\nHuman: Where is the {place}?\n\nAssistant: No idea, {place} or not {i}.",
    }
    for place in PLACES
    for i in range(8)
]


def written(path: Path, records: list[Any]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def recipe(folder: Path, **sections: Any) -> dict[str, Any]:
    pairs = written(folder / "pairs.jsonl", PAIRS)
    raw: dict[str, Any] = {
        "output": str(folder / "run"),
        "model": {"config": GPT2},
        "tokenizer": {"train": {"kind": "bpe", "vocab_size": 320}},
        "objective": {"name": "reward"},
        "data": {"train": str(pairs), "max_tokens": 64, "validation": 0.25},
        "optimizer": {"lr": 1e-2},
        "training": {"steps": 20, "batch_size": 12, "evaluate_every": 20, "checkpoint_every": 10},
        "device": "cpu",
    }
    return {**raw, **sections}


def test_every_text_of_a_record_is_read_however_deep(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "Ann."}]
    path = written(tmp_path / "chat.jsonl", [{"messages": turns, "weight": 2, "tags": ["a", None]}])
    found = list(record_texts(RecordData(train=str(path)), "sft"))
    assert found == ["user", "Who?", "assistant", "Ann.", "a"]


def test_of_questions_only_what_is_read_is(tmp_path: Path) -> None:
    asked = {"question": "Who?", "context": "Ann lit it.", "answer": "Ann", "answer_start": 0}
    path = written(tmp_path / "questions.jsonl", [asked | {"id": "57a1b2"}])
    found = list(record_texts(RecordData(train=str(path)), "question_answering"))
    assert found == ["Who?", "Ann lit it."]


class Evaluations(Observer):
    def __init__(self) -> None:
        self.losses: list[dict[str, float]] = []

    def on_evaluation(self, evaluation: Evaluation) -> None:
        self.losses.append(dict(evaluation.losses))


@pytest.mark.slow
def test_one_recipe_goes_from_pairs_alone_to_a_reward_model(tmp_path: Path) -> None:
    told, seen = list[str](), Evaluations()
    with open_run(read_recipe(recipe(tmp_path)), resume=False, say=told.append) as run:
        assert run.train([seen])
    assert any(line.startswith("Learning a tokenizer (bpe) from") for line in told)
    assert seen.losses[-1]["accuracy"] == 1
    assert seen.losses[-1]["bradley_terry"] < math.log(2) / 2
    learned, saved = (tmp_path / "run" / name for name in ("data/tokenizer", "model"))
    assert Tokenizer.load(learned).vocabulary() == Tokenizer.load(saved).vocabulary()


@pytest.mark.slow
def test_a_tokenizer_that_was_learned_is_used_again_by_its_own_recipe_only(tmp_path: Path) -> None:
    def told_by(raw: dict[str, Any]) -> list[str]:
        told: list[str] = []
        with open_run(read_recipe(raw), resume=True, say=told.append):
            return told

    assert any("Learning a tokenizer" in line for line in told_by(recipe(tmp_path)))
    assert not any("Learning a tokenizer" in line for line in told_by(recipe(tmp_path)))
    (tmp_path / "run/data/tokenizer/tokenizer.json").unlink()  # as if it had been killed there
    assert any("Learning a tokenizer" in line for line in told_by(recipe(tmp_path)))
    other = recipe(tmp_path, tokenizer={"train": {"kind": "bpe", "vocab_size": 300}})
    with pytest.raises(TrainingError, match="made by other settings"):
        told_by(other)


def test_a_key_that_an_objective_does_not_heed_is_refused() -> None:
    with pytest.raises(TrainingError, match=r"data\.packing is not heeded by reward; leave it out"):
        check_keys(RecordData(train="x", packing=True), "reward")
    with pytest.raises(TrainingError, match=r"learns from texts: give data\.sources instead"):
        check_keys(RecordData(train="x"), "causal_lm")
