"""Runs of recipes, small enough to be repeated: what holds of every objective."""

import contextlib
import json
import math
import random
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from torch import Tensor

from pharos.cli.train import read_recipe_file
from pharos.cli.train import train as train_command
from pharos.core import TrainingError
from pharos.data.tokenizer import Tokenizer
from pharos.data.train_tokenizer import TokenizerConfig, train_tokenizer
from pharos.models.load import load_model, new_model, save_model
from pharos.train.checkpoint import load_state
from pharos.train.events import Observer, RunFacts, StepRecord
from pharos.train.metrics_log import METRICS_FILE, MetricsLog, read_metrics
from pharos.train.model_section import ModelSection
from pharos.train.recipe import data_fingerprint, read_recipe
from pharos.train.rl.rewards import RewardSection, final_number
from pharos.train.run import open_run
from pharos.train.start import first_model

pytestmark = pytest.mark.slow

STORY = "the lighthouse of pharos stood beside a library and its keeper read every night"
WORDS = STORY.split()
GPT2 = {
    "model_type": "gpt2",
    "n_layer": 2,
    "n_head": 2,
    "n_embd": 16,
    "n_positions": 32,
    "embd_pdrop": 0.1,
}
BERT = {
    "model_type": "bert",
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 32,
}
T5 = {
    "model_type": "t5",
    "d_model": 16,
    "d_kv": 8,
    "d_ff": 32,
    "num_layers": 2,
    "num_heads": 2,
    "decoder_start_token_id": 0,
}


def texts(count: int) -> list[str]:
    """Three sentences each, of the same words."""
    return [
        " ".join(sentence([WORDS[(i * k + j) % len(WORDS)] for j in range(5)]) for k in (1, 3, 7))
        for i in range(count)
    ]


def sentence(words: list[str]) -> str:
    return " ".join(words).capitalize() + "."


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Records with a text, and what supervised objectives want besides; a tokenizer for each kind
    of model; a teacher."""
    folder = tmp_path_factory.mktemp("data")
    rows = [record(number, text) for number, text in enumerate(texts(60))]
    (folder / "texts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for kind, special in (("bpe", ()), ("wordpiece", ()), ("unigram", T5_SENTINELS)):
        config = TokenizerConfig(kind=kind, vocab_size=420, special_tokens=special)
        train_tokenizer(texts(60), config).save(folder / kind)
    teacher = folder / "teacher"
    shutil.copytree(folder / "wordpiece", teacher)
    save_model(new_model({**BERT, "vocab_size": 420}, "masked_lm", seed=7), teacher)
    return folder


def record(number: int, text: str) -> dict[str, Any]:
    words, answer = text.split()[:5], text.split()[-1]
    return {
        "text": text,
        "text_b": " ".join(reversed(words)),
        "label": "even" if number % 2 else "odd",
        "tokens": words,
        "tags": ["long" if len(word) > 4 else "short" for word in words],
        "question": words[0],
        "context": text,
        "answer": answer,
        "answer_start": len(text) - len(answer),
    }


T5_SENTINELS = tuple(f"<extra_id_{i}>" for i in range(8))


def recipe(folder: Path, output: Path, **sections: Any) -> dict[str, Any]:
    """A causal language model on the texts; `sections` replace parts of that."""
    raw: dict[str, Any] = {
        "output": str(output),
        "model": {"config": GPT2},
        "tokenizer": {"load": str(folder / "bpe")},
        "objective": {"name": "causal_lm"},
        "data": text_data(folder),
        "optimizer": {"lr": 3e-3},
        "training": training(),
        "device": "cpu",
    }
    return {**raw, **sections}


def training(**changes: Any) -> dict[str, Any]:
    usual: dict[str, Any] = {
        "steps": 6,
        "batch_size": 4,
        "log_every": 1,
        "evaluate_every": 3,
        "evaluation_rows": 8,
        "checkpoint_every": 2,
        "keep": {"keep_last": 9},
    }
    return {**usual, **changes}


def text_data(folder: Path, **changes: Any) -> dict[str, Any]:
    usual: dict[str, Any] = {
        "sources": {"stories": {"path": str(folder / "texts.jsonl")}},
        "sequence_length": 24,
        "validation": 0.2,
        "clean": False,
        "deduplicate": False,
    }
    return {**usual, **changes}


def of_objective(name: str, folder: Path) -> dict[str, Any]:
    """The sections that differ from a causal language model's."""
    wordpiece, unigram = {"load": str(folder / "wordpiece")}, {"load": str(folder / "unigram")}
    records = {"train": str(folder / "texts.jsonl"), "max_tokens": 24, "validation": 0.2}
    supervised = {"model": {"config": BERT}, "tokenizer": wordpiece, "data": records}
    teacher = str(folder / "teacher")
    sections: dict[str, dict[str, Any]] = {
        "causal_lm": {},
        "packed": {"data": text_data(folder, packing="concat")},
        "masked_lm": {"model": {"config": BERT}, "tokenizer": wordpiece},
        "next_sentence": {
            "model": {"config": BERT},
            "tokenizer": wordpiece,
            "objective": {"name": "masked_lm", "next_sentence": True},
        },
        "span_corruption": {"model": {"config": T5}, "tokenizer": unigram},
        "sequence_classification": supervised,
        "token_classification": supervised,
        "question_answering": {
            "model": {"config": {**BERT, "max_position_embeddings": 80}},
            "tokenizer": wordpiece,
            "data": {**records, "max_tokens": 80, "stride": 4},
        },
        "info_nce": supervised,
        "sigmoid_pairs": supervised,
        "distillation": {
            "model": {"student_of": teacher, "layers": 1},
            "tokenizer": {},
            "objective": {"name": name, "teacher": teacher, "hard": {"name": "masked_lm"}},
        },
    }
    objective = {"name": name} if name not in ("packed", "next_sentence") else {"name": "causal_lm"}
    return {"objective": objective, **sections[name]}


OBJECTIVES = (
    "causal_lm",
    "packed",
    "masked_lm",
    "next_sentence",
    "span_corruption",
    "sequence_classification",
    "token_classification",
    "question_answering",
    "info_nce",
    "sigmoid_pairs",
    "distillation",
)
WITH_A_WORKER = {"packed", "masked_lm", "question_answering", "sigmoid_pairs"}


class Losses(Observer):
    def __init__(self, stop_at: int | None = None) -> None:
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
        weights = {name: x.detach().clone() for name, x in run.model.state_dict().items()}
    return weights, losses.losses


def assert_equal(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> None:
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_run_that_was_killed_goes_on_as_if_it_had_not_been(
    objective: str, folder: Path, tmp_path: Path
) -> None:
    loop = training(checkpoint_every=1, workers=1 if objective in WITH_A_WORKER else 0)
    sections = {**of_objective(objective, folder), "training": loop}
    whole, losses = train(recipe(folder, tmp_path / "whole", **sections))
    broken = recipe(folder, tmp_path / "broken", **sections)
    killed_in = random.Random(objective).randint(2, 5)
    train(broken, stop_at=killed_in)  # the last checkpoint is of the step before
    resumed, losses_after = train(broken, resume=True)
    assert_equal(whole, resumed)
    assert losses_after == {step: losses[step] for step in range(killed_in, 7)}


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_in_sixteen_bits_a_run_learns_and_resumes_exactly(
    precision: str, folder: Path, tmp_path: Path
) -> None:
    sections = {"training": training(precision=precision)}
    whole, losses = train(recipe(folder, tmp_path / "whole", **sections))
    assert losses[6] < losses[1]
    broken = recipe(folder, tmp_path / "broken", **sections)
    train(broken, stop_at=5)
    resumed, losses_after = train(broken, resume=True)
    assert_equal(whole, resumed)
    assert losses_after == {5: losses[5], 6: losses[6]}


def test_resuming_is_exact_with_workers_averages_and_accumulation(
    folder: Path, tmp_path: Path
) -> None:
    special = training(workers=2, ema=0.9, micro_batch_size=1, steps=5)
    for optimizer in ("adamw8bit", "muon"):
        sections = {"training": special, "optimizer": {"name": optimizer, "lr": 1e-2}}
        whole, _ = train(recipe(folder, tmp_path / optimizer / "whole", **sections))
        broken = recipe(folder, tmp_path / optimizer / "broken", **sections)
        train(broken, stop_at=3)
        resumed, _ = train(broken, resume=True)
        assert_equal(whole, resumed)


def test_eight_batches_of_one_row_train_as_one_of_eight(folder: Path, tmp_path: Path) -> None:
    still = {"config": {**GPT2, "embd_pdrop": 0.0, "attn_pdrop": 0.0, "resid_pdrop": 0.0}}
    losses = []
    for micro in (8, 4, 1):
        loop = training(batch_size=8, micro_batch_size=micro)
        raw = recipe(folder, tmp_path / str(micro), model=still, training=loop)
        losses.append(train(raw)[1])
    for step, loss in losses[0].items():
        assert losses[1][step] == pytest.approx(loss, rel=1e-5)
        assert losses[2][step] == pytest.approx(loss, rel=1e-5)


def test_workers_change_nothing(folder: Path, tmp_path: Path) -> None:
    alone, _ = train(recipe(folder, tmp_path / "alone"))
    helped, _ = train(recipe(folder, tmp_path / "helped", training=training(workers=3)))
    assert_equal(alone, helped)


def test_evaluating_more_often_changes_nothing(folder: Path, tmp_path: Path) -> None:
    seldom = recipe(folder, tmp_path / "seldom", training=training(evaluate_every=None))
    often = recipe(folder, tmp_path / "often", training=training(evaluate_every=1))
    assert_equal(train(seldom)[0], train(often)[0])


def test_everything_of_a_run_is_in_its_output(folder: Path, tmp_path: Path) -> None:
    raw = recipe(folder, tmp_path, sample={"prompts": ["the"], "max_tokens": 5})
    weights, losses = train(raw)
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == [
        "step-00000002",
        "step-00000003",  # evaluated, and the best until then
        "step-00000004",
        "step-00000006",
    ]
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    assert [line["train_loss"] for line in lines] == list(losses.values())
    evaluated = {line["step"]: line["samples"] for line in lines if "val_loss" in line}
    assert sorted(evaluated) == [3, 6]
    assert all(samples[0].startswith("the") for samples in evaluated.values())
    model = load_model(tmp_path / "model")
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, weights[name])
    assert (tmp_path / "model" / "tokenizer.json").is_file()


def test_the_model_that_is_written_has_the_averaged_weights(folder: Path, tmp_path: Path) -> None:
    own, _ = train(recipe(folder, tmp_path, training=training(ema=0.9)))
    state = load_state(tmp_path / "checkpoints" / "step-00000006")
    for name, parameter in load_model(tmp_path / "model").named_parameters():
        assert torch.equal(parameter, state["ema"]["averages"][name]), name
        assert not torch.equal(parameter, own[name]), name


def test_weights_that_cannot_be_fresh_stop_a_run_at_its_first_batch(
    folder: Path, tmp_path: Path
) -> None:
    wild = {"config": {**GPT2, "initializer_range": 0.8}}
    with pytest.raises(TrainingError, match=r"the first causal_lm loss is .* initializer_range"):
        train(recipe(folder, tmp_path, model=wild))
    assert read_metrics(tmp_path / METRICS_FILE) == []
    assert not (tmp_path / "checkpoints").exists()


def test_a_second_run_does_not_write_over_the_first(folder: Path, tmp_path: Path) -> None:
    train(recipe(folder, tmp_path))
    with pytest.raises(TrainingError, match="holds a run already; go on with --resume"):
        train(recipe(folder, tmp_path))


def test_another_recipe_does_not_go_on_with_a_run(folder: Path, tmp_path: Path) -> None:
    train(recipe(folder, tmp_path), stop_at=3)
    with pytest.raises(TrainingError, match=r"made with optimizer.lr .* \(now 0.0001\)"):
        train(recipe(folder, tmp_path, optimizer={"lr": 1e-4}), resume=True)


def test_a_run_goes_on_from_a_models_folder(folder: Path, tmp_path: Path) -> None:
    start = tmp_path / "start"
    start.mkdir()
    model = new_model({**GPT2, "vocab_size": 420}, "causal_lm", seed=3)
    save_model(model, start)
    for path in (folder / "bpe").iterdir():
        (start / path.name).write_bytes(path.read_bytes())
    before = (start / "model.safetensors").read_bytes()
    raw = recipe(
        folder,
        tmp_path / "run",
        model={"load": str(start)},
        tokenizer={},
        training=training(steps=2, check_first_step=False),
    )
    weights, _ = train(raw)
    assert not torch.equal(weights["body.embedding.weight"], model.body.embedding.weight)
    assert (start / "model.safetensors").read_bytes() == before


def test_a_body_gets_a_new_head_for_classes(folder: Path, tmp_path: Path) -> None:
    start = tmp_path / "start"
    start.mkdir()
    save_model(new_model({**BERT, "vocab_size": 420}, "masked_lm", seed=3), start)
    raw = recipe(
        folder,
        tmp_path / "run",
        **{**of_objective("sequence_classification", folder), "model": {"load": str(start)}},
    )
    train(raw)
    trained = load_model(tmp_path / "run" / "model", task="sequence_classification")
    assert trained.config.labels == ("even", "odd")


def source_named(name: str, *, weight: float = 1.0, **changes: Any) -> dict[str, Any]:
    source = {"path": "texts.jsonl", "weight": weight}
    return {"data": {"sources": {name: source}, "sequence_length": 24, **changes}}


@pytest.mark.parametrize(
    ("sections", "says"),
    [
        ({"trainings": {}}, "trainings: there is no such key; did you mean training?"),
        ({"objective": {"name": "causal_ml"}}, "unknown objective 'causal_ml'"),
        ({"objective": {"name": "causal_lm", "smooth": 1}}, "objective.smooth: there is no"),
        ({"objective": {}}, "objective has no name"),
        ({"optimizer": {"name": "adamv"}}, "optimizer.name is 'adamv'; choose from adamw"),
        (
            {"training": {"steps": 2, "batch_size": 6, "micro_batch_size": 4}},
            "batch_size 6 cannot be dealt to 1 data ranks in micro-batches of 4",
        ),
        ({"schedule": {"warmup_steps": 7}}, "warmup_steps 7 do not fit into 6 steps"),
        ({"parallel": {"tensor": 2}}, "tensor 2 makes 2 processes, but 1 run"),
        (
            {"optimizer": {"name": "adamw8bit"}, "parallel": {"shard": 2}},
            "optimizer.name is adamw8bit and parallel.shard is 2: .*; choose adamw or muon",
        ),
        ({"model": {"config": GPT2, "load": "x"}}, "load and config given; name one of"),
        ({"model": {}}, "nothing given; name one of"),
        ({"model": {"config": {**GPT2, "n_positions": 8}}}, "sequence_length is 24, and the model"),
        ({"tokenizer": {}}, "names no tokenizer"),
        ({"training": training(precision="int8")}, "training.precision is 'int8'; choose from"),
        ({"device": "cuda"}, "device is cuda, and there is none"),
        ({"seed": -1}, "seed is -1"),
        ({"data": {"train": "x", "max_token": 3}}, "data.max_token: .* did you mean max_tokens?"),
        (source_named("tokenizer"), "sources.tokenizer has a name that the run needs itself"),
        (source_named("../x"), r"sources has the name '../x'; it may have letters"),
        (source_named(".x"), r"sources has the name '.x'; it may have letters"),
        (source_named("x", weight=-1), "the weight of x is -1.0; it must be 0 or more"),
        (
            source_named("x", milestones=[{"step": 1, "weights": {"y": 1}}]),
            "milestones names 'y', which is no source; there are x",
        ),
        ({"data": {"train": "x", "validation": 1.0}}, "validation is 1.0; it is a share"),
        ({"data": {"train": "x", "max_tokens": 0}}, "max_tokens is 0; it must be at least 1"),
        ({"data": {"train": "x", "stride": -1}}, "stride is -1; it must be 0 or more"),
        ({"model": {"config": GPT2, "task": "reward"}}, "model.task: there is no such key"),
        ({"objective": {"name": "sft"}}, "which learns from records: give data.train instead"),
        ({"data": {"train": "x"}}, "which learns from texts: give data.sources instead"),
        (
            {"objective": {"name": "distillation", "teacher": "x", "hard": {"name": "mlm"}}},
            "unknown objective 'mlm'; choose from",
        ),
        ({"sample": {"prompts": []}}, "prompts is empty; name at least one"),
        ({"sample": {"prompts": ["a"], "max_tokens": 0}}, "max_tokens is 0; it must be at least"),
        ({"sample": {"prompts": ["a"], "temperature": -1}}, "temperature is -1.0; it must be 0"),
        ({"sample": {"prompts": ["a"], "top_k": -1}}, "top_k is -1; it must be 0"),
    ],
)
def test_a_recipe_that_cannot_be_is_refused_before_anything_is_made(
    sections: dict[str, Any], says: str, folder: Path, tmp_path: Path
) -> None:
    if "cuda" in says and torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    with pytest.raises((TrainingError, ValueError), match=says):
        train(recipe(folder, tmp_path / "run", **sections))
    assert not (tmp_path / "run").exists()


def test_a_key_that_is_given_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "twice.yaml"
    path.write_text("output: x\ntraining: {steps: 1}\nseed: 1\ntraining: {steps: 2}\n")
    with pytest.raises(TrainingError, match="line 4: training is given twice; keep one"):
        read_recipe_file(path, [])


@pytest.mark.parametrize("other", ["resume", "tensorboard"])
def test_a_preview_is_refused_with_what_is_for_training(other: str, tmp_path: Path) -> None:
    with pytest.raises(typer.BadParameter, match=f"leave out --{other}"):
        train_command(tmp_path / "any.yaml", preview=True, **{other: True})


def test_a_loss_that_is_not_finite_is_null_in_the_log(tmp_path: Path) -> None:
    path = tmp_path / METRICS_FILE
    path.write_text('{"step": 1, "train_loss": NaN, "mfu": null}\n{"step": 2, "train_loss": 1.0}\n')
    sizes = {"num_parameters": 1, "num_trainable": 1, "rows_per_step": 1, "processes": 1}
    facts = RunFacts(output=tmp_path, steps=2, first_step=2, device="cpu", peak_flops=0.0, **sizes)
    MetricsLog(tmp_path).on_start(facts)
    assert json.loads(path.read_text().splitlines()[0])["train_loss"] is None
    first, second = read_metrics(path)
    assert math.isnan(first["train_loss"]) and first["mfu"] is None
    assert second == {"step": 2, "train_loss": 1.0}
    assert [each.name for each in tmp_path.iterdir()] == [METRICS_FILE]


@pytest.mark.parametrize(("text", "number"), [("10-7", "7"), ("(2)-7", "7"), ("x = -7", "-7")])
def test_a_dash_behind_something_is_no_sign(text: str, number: str) -> None:
    assert final_number(text, number) == 1


def test_a_reward_model_of_another_vocabulary_is_refused(folder: Path, tmp_path: Path) -> None:
    llama = {"model_type": "llama", "hidden_size": 16, "intermediate_size": 16}
    sizes = {"num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 420}
    save_model(new_model({**llama, **sizes}, "reward", seed=0), tmp_path)
    section, cpu = RewardSection(model=str(tmp_path)), torch.device("cpu")
    own, other = (Tokenizer.load(folder / kind) for kind in ("bpe", "wordpiece"))
    own.save(tmp_path)
    section.scorer(own, device=cpu)
    with pytest.raises(TrainingError, match="has another vocabulary than the model"):
        section.scorer(other, device=cpu)


def test_a_frozen_body_under_a_new_head_stays_as_it_is_stored(tmp_path: Path) -> None:
    stored = new_model({**BERT, "vocab_size": 420}, "masked_lm", seed=3)
    save_model(stored.to(torch.bfloat16), tmp_path)
    for is_frozen, dtype in ((True, torch.bfloat16), (False, torch.float32)):
        model = first_model(
            ModelSection(load=str(tmp_path)),
            "sequence_classification",
            vocab_size=420,
            labels=("a", "b"),
            special_ids={},
            seed=0,
            is_frozen=is_frozen,
        )
        assert {parameter.dtype for parameter in model.body.parameters()} == {dtype}


@pytest.mark.parametrize("section", [{"load": "."}, {"student_of": ".", "layers": 1}])
def test_a_sequence_must_fit_a_model_that_is_loaded(
    section: dict[str, Any], folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_model(new_model({**GPT2, "n_positions": 8, "vocab_size": 420}, "causal_lm"), tmp_path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(TrainingError, match="sequence_length is 24, and the model has 8 positions"):
        read_recipe(recipe(folder, tmp_path / "run", model=section))


def test_prepared_data_is_that_of_the_settings_it_depends_on(folder: Path, tmp_path: Path) -> None:
    def of(**sections: Any) -> str:
        return data_fingerprint(read_recipe(recipe(folder, tmp_path, **sections)))

    sources = {"stories": {"path": str(folder / "texts.jsonl"), "weight": 2.0}}
    rows = text_data(folder, sources=sources, sequence_length=8, packing="concat", change="linear")
    assert of(data=rows) == of()
    assert of(data=text_data(folder, clean=True)) != of()
    assert of(model={"load": "one"}) != of(model={"load": "another"})
