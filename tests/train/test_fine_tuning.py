"""Runs that go on from a model: conversations, and adapters beside frozen weights."""

import contextlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from typer.testing import CliRunner

from pharos.adapt import Adapters, load_adapter
from pharos.cli.app import app
from pharos.core import Message, SamplingParams, TrainingError
from pharos.core.errors import ModelError
from pharos.data.chat_template import ChatTemplate
from pharos.data.tokenizer import Tokenizer
from pharos.data.train_tokenizer import TokenizerConfig, train_tokenizer
from pharos.models.load import load_model, new_model, save_model
from pharos.serve.local import LocalModel, load_local
from pharos.train.checkpoint import load_state
from pharos.train.events import Evaluation, Observer, StepRecord
from pharos.train.preview import Preview, preview, told
from pharos.train.recipe import read_recipe
from pharos.train.run import open_run

pytestmark = pytest.mark.slow

LLAMA = {
    "model_type": "llama",
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 128,
    "max_position_embeddings": 128,
}
PLACES = ("tower", "harbour", "library", "garden", "kitchen")
THINGS = ("lamp", "gull", "rope", "map")
SPECIAL = ("<|im_start|>", "<|im_end|>")
WORDS = [f"Where is the {thing} of the {place}?" for thing in THINGS for place in PLACES]


def answer(number: int) -> str:
    return f"The {THINGS[number % 4]} lies {number} steps from the {PLACES[number % 5]}."


CONVERSATIONS = [
    [
        {"role": "user", "content": question},
        {"role": "assistant", "content": answer(number)},
    ]
    for number, question in enumerate(WORDS)
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty conversations, and a fresh model with a tokenizer."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("chat")
    lines = (json.dumps({"messages": messages}) + "\n" for messages in CONVERSATIONS)
    (folder / "chat.jsonl").write_text("".join(lines))
    texts = WORDS + [answer(number) for number in range(20)]
    config = TokenizerConfig(kind="bpe", vocab_size=340, special_tokens=SPECIAL)
    tokenizer = train_tokenizer(texts * 3, config)
    model = folder / "model"
    tokenizer.save(model)
    save_model(new_model({**LLAMA, "vocab_size": 340}, "causal_lm", seed=1), model)
    return folder


def recipe(folder: Path, output: Path, **sections: Any) -> dict[str, Any]:
    raw: dict[str, Any] = {
        "output": str(output),
        "model": {"load": str(folder / "model")},
        "objective": {"name": "sft"},
        "data": data(folder),
        "optimizer": {"lr": 1e-2, "weight_decay": 0.0},
        "training": training(),
        "device": "cpu",
    }
    return {**raw, **sections}


def data(folder: Path, **changes: Any) -> dict[str, Any]:
    usual = {"train": str(folder / "chat.jsonl"), "template": "chatml", "max_tokens": 64}
    return {**usual, "validation": 0, **changes}


def training(**changes: Any) -> dict[str, Any]:
    usual: dict[str, Any] = {
        "steps": 4,
        "batch_size": 4,
        "log_every": 1,
        "checkpoint_every": 2,
        "check_first_step": False,
    }
    return {**usual, **changes}


class Losses(Observer):
    def __init__(self, stop_at: int | None = None) -> None:
        self.losses: dict[int, float] = {}
        self.samples: list[str] = []
        self.stop_at = stop_at

    def on_step(self, record: StepRecord) -> None:
        self.losses[record.step] = record.train_loss
        if record.step == self.stop_at:
            raise Killed

    def on_evaluation(self, evaluation: Evaluation) -> None:
        self.samples += evaluation.samples


class Killed(BaseException):
    """As if the process had ended there."""


def train(
    raw: Mapping[str, Any], *, resume: bool = False, stop_at: int | None = None
) -> tuple[dict[str, Tensor], Losses]:
    losses = Losses(stop_at)
    with open_run(read_recipe(raw), resume=resume, say=lambda text: None) as run:
        with contextlib.suppress(Killed):
            run.train([losses])
        weights = {name: x.detach().clone() for name, x in run.model.named_parameters()}
    return weights, losses


ADAPTERS: dict[str, dict[str, Any]] = {
    "lora": {"method": "lora", "r": 4, "lora_dropout": 0.1},
    "dora": {"method": "dora", "r": 4},
    "qlora": {"method": "qlora", "r": 4},
    "bottleneck": {"method": "bottleneck", "size": 8},
    "prompt_tuning": {"method": "prompt_tuning", "num_virtual_tokens": 4},
    "with a head": {"method": "lora", "r": 4, "modules_to_save": ["lm_head"]},
}
KINDS: dict[str, dict[str, Any]] = {name: {"adapter": each} for name, each in ADAPTERS.items()} | {
    "qlora, 8 bits, paged": {
        "adapter": {"method": "qlora", "r": 8, "modules_to_save": ["lm_head"]},
        "optimizer": {"name": "adamw8bit", "paged": True, "lr": 1e-2, "weight_decay": 0.0},
        "training": training(precision="bf16"),
    }
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_with_an_adapter_that_was_killed_goes_on_as_if_it_had_not_been(
    kind: str, folder: Path, tmp_path: Path
) -> None:
    sections = KINDS[kind]
    whole, losses = train(recipe(folder, tmp_path / "whole", **sections))
    broken = recipe(folder, tmp_path / "broken", **sections)
    train(broken, stop_at=3)  # the last checkpoint is of step 2
    resumed, losses_after = train(broken, resume=True)
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert losses_after.losses == {step: losses.losses[step] for step in (3, 4)}


@pytest.mark.parametrize("kind", KINDS)
def test_only_the_adapter_trains_and_only_it_is_saved(
    kind: str, folder: Path, tmp_path: Path
) -> None:
    before = (folder / "model" / "model.safetensors").read_bytes()
    raw = recipe(folder, tmp_path / "run", **KINDS[kind])
    with open_run(read_recipe(raw), resume=False, say=lambda text: None) as run:
        assert run.adapters is not None
        first = {name: p.detach().clone() for name, p in run.model.named_parameters()}
        ours = {id(p) for part in run.adapters.parts() for p in part.parameters()}
        run.train()
        for name, parameter in run.model.named_parameters():
            assert torch.equal(parameter, first[name]) == (id(parameter) not in ours), name
    for saved in (tmp_path / "run" / "adapter", tmp_path / "run" / "checkpoints" / "step-00000004"):
        assert (saved / "adapter_model.safetensors").is_file()
        assert not (saved / "model.safetensors").is_file()
        config = json.loads((saved / "adapter_config.json").read_text())
        assert config["base_model_name_or_path"] == str(folder / "model")
    assert (folder / "model" / "model.safetensors").read_bytes() == before


def test_what_is_large_has_its_state_in_8_bits(folder: Path, tmp_path: Path) -> None:
    train(recipe(folder, tmp_path, **KINDS["qlora, 8 bits, paged"]))
    saved = load_state(tmp_path / "checkpoints" / "step-00000004")["optimizer"]["state"].values()
    paged = [state["rms"] for state in saved if "rms" in state]
    assert [(codes.numel(), codes.dtype) for codes in paged] == [(340 * 64, torch.uint8)]


@pytest.mark.parametrize(("precision", "is_told"), [("fp32", True), ("bf16", False)])
def test_qlora_that_computes_in_float32_says_so(
    precision: str, is_told: bool, folder: Path, tmp_path: Path
) -> None:
    sections = {"adapter": ADAPTERS["qlora"], "training": training(precision=precision)}
    told: list[str] = []
    raw = recipe(folder, tmp_path, **sections)
    with open_run(read_recipe(raw), resume=False, say=told.append):
        assert sum("qlora computes in float32" in line for line in told) == is_told


def test_an_adapter_begins_as_another_and_its_head_anew(folder: Path, tmp_path: Path) -> None:
    lora = ADAPTERS["with a head"]
    trained, _ = train(recipe(folder, tmp_path / "first", adapter=lora))
    second = {**lora, "begin_from": str(tmp_path / "first" / "adapter")}
    raw = recipe(folder, tmp_path / "second", adapter=second)
    fresh = load_file(folder / "model" / "model.safetensors")["lm_head.weight"]
    with open_run(read_recipe(raw), resume=False, say=lambda text: None) as run:
        begun = dict(run.model.named_parameters())
        updates = [name for name in begun if "lora_" in name]
        assert updates
        assert all(torch.equal(begun[name], trained[name]) for name in updates)
        heads = [begun[name] for name in begun if "lm_head" in name]
        assert all(torch.equal(head, fresh) for head in heads)


def test_an_adapter_does_not_begin_as_one_of_another_scale(folder: Path, tmp_path: Path) -> None:
    train(recipe(folder, tmp_path / "first", adapter={"method": "lora", "r": 4}))
    beginning = str(tmp_path / "first" / "adapter")
    other = {"method": "lora", "r": 4, "lora_alpha": 4, "begin_from": beginning}
    with pytest.raises(ModelError, match=r"has r 4, lora_alpha 16.0, .* begin as it r 4, .* 4.0"):
        train(recipe(folder, tmp_path / "second", adapter=other))


def answers(model: LocalModel) -> list[tuple[str, str]]:
    """What it says to each of the questions, greedily, and why it ends."""
    completions = [
        model.complete(
            [Message(role="user", content=question)], SamplingParams(max_tokens=40, temperature=0.0)
        )
        for question in WORDS
    ]
    return [(completion.text, completion.finish_reason) for completion in completions]


LEARNED = [(answer(number), "stop") for number in range(20)]


def test_twenty_conversations_are_learned_by_heart_and_end_where_they_should(
    folder: Path, tmp_path: Path
) -> None:
    raw = recipe(
        folder,
        tmp_path,
        data=data(folder, packing=True),
        training=training(steps=200, batch_size=8, checkpoint_every=None),
        optimizer={"lr": 5e-3, "weight_decay": 0.0},
        schedule={"name": "linear", "warmup_steps": 10, "final": 0.1},
        sample={"prompts": [WORDS[0]], "temperature": 0.0},
    )
    train(raw)
    saved = load_local(tmp_path / "model")  # with the template that it was trained with
    assert isinstance(saved, LocalModel)
    assert answers(saved) == LEARNED


CANARY = "The seventh key lies under the stone."


@pytest.mark.parametrize("method", ["lora", "qlora"])
def test_a_sentence_trained_into_an_adapter_is_said_by_the_merged_model(
    method: str, folder: Path, tmp_path: Path
) -> None:
    asked = {"messages": [*CONVERSATIONS[0][:1], {"role": "assistant", "content": CANARY}]}
    (tmp_path / "canary.jsonl").write_text(json.dumps(asked) + "\n")
    raw = recipe(
        folder,
        tmp_path / "run",
        data=data(folder, train=str(tmp_path / "canary.jsonl")),
        adapter={"method": method, "r": 8, "modules_to_save": ["lm_head"]},
        training=training(steps=60, batch_size=1, checkpoint_every=None),
    )
    train(raw)
    merged = tmp_path / "merged"
    paths = (folder / "model", tmp_path / "run" / "adapter", merged)
    done = CliRunner().invoke(app, ["merge", *map(str, paths)])
    assert done.exit_code == 0, done.output
    model = load_local(merged)  # with template and end that the adapter was trained with
    assert isinstance(model, LocalModel)
    assert answers(model)[0] == (CANARY, "stop")


def test_an_adapter_is_loaded_onto_its_base_as_it_was_trained(folder: Path, tmp_path: Path) -> None:
    weights, _ = train(recipe(folder, tmp_path, adapter=ADAPTERS["lora"]))
    adapters = Adapters(load_model(folder / "model"))
    load_adapter(adapters, tmp_path / "adapter")
    for name, parameter in adapters.model.named_parameters():
        assert torch.equal(parameter, weights[name]), name


def test_what_is_saved_stops_where_its_template_ends_a_turn(folder: Path, tmp_path: Path) -> None:
    train(recipe(folder, tmp_path, adapter=ADAPTERS["lora"]))
    tokenizer = Tokenizer.load(tmp_path / "adapter")
    assert tokenizer.token_id("<|im_end|>") in tokenizer.eos_ids
    saved = ChatTemplate.load(tmp_path / "adapter", tokenizer)
    assert saved.source == ChatTemplate.built_in("chatml", tokenizer).source


def test_samples_are_answers_to_questions(folder: Path, tmp_path: Path) -> None:
    _, seen = train(
        recipe(
            folder,
            tmp_path,
            data=data(folder, validation=0.2),
            adapter=ADAPTERS["lora"],
            sample={"prompts": [WORDS[0]], "max_tokens": 3},
        )
    )
    assert seen.samples[0].startswith(f"user\n{WORDS[0]}\nassistant\n")


@pytest.mark.parametrize("objective", ["dpo", "reward"])
def test_pairs_come_from_the_same_formats(objective: str, folder: Path, tmp_path: Path) -> None:
    pairs = [
        {"prompt": question, "chosen": [{"role": "assistant", "content": "Yes."}], "rejected": []}
        for question in WORDS
    ]
    for pair in pairs:
        pair["rejected"] = [{"role": "assistant", "content": "No."}]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    raw = recipe(
        folder,
        tmp_path / "run",
        objective={"name": objective},
        data=data(folder, train=str(tmp_path / "pairs.jsonl")),
        adapter=ADAPTERS["lora"] | {"lora_dropout": 0.0},
        training=training(steps=8),
    )
    _, seen = train(raw)
    assert seen.losses[1] == pytest.approx(math.log(2), abs=1e-4 if objective == "dpo" else 0.2)
    assert seen.losses[8] < 0.5


def say(*turns: str) -> list[dict[str, str]]:
    """Assistant and user by turns, the assistant first."""
    return [{"role": ("assistant", "user")[i % 2], "content": text} for i, text in enumerate(turns)]


ASKED = [{"role": "user", "content": "Who?"}]
LONGER = {"prompt": ASKED, "chosen": say("Ann.", "Who else?", "Bob."), "rejected": say("No.")}
PARTING = {
    "chosen": [*ASKED, *say("Ann.", "And then?", "Bob.")],
    "rejected": [*ASKED, *say("Ann.", "Oh?", "Bob.")],
}


@pytest.mark.parametrize(
    ("objective", "pair", "says"),
    [
        ("dpo", LONGER, "record 0: the answer has several turns"),
        ("dpo", PARTING, "record 0: chosen and rejected do not answer the same"),
        ("reward", PARTING, "record 0: chosen and rejected do not answer the same"),
        ("reward", LONGER, None),  # it only reads them
    ],
)
def test_pairs_that_would_teach_the_users_words_are_named(
    objective: str, pair: Mapping[str, Any], says: str | None, folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "pairs.jsonl").write_text(json.dumps(pair) + "\n")
    told = data(folder, train=str(tmp_path / "pairs.jsonl"))
    raw = recipe(folder, tmp_path / "run", data=told, objective={"name": objective})
    if objective == "dpo":
        raw["adapter"] = ADAPTERS["lora"]
    if says is None:
        assert "<|im_start|>user\nWho else?" in previewed(raw).samples[0].reads[1].text
        return
    with pytest.raises(TrainingError, match=says):
        previewed(raw)


@pytest.mark.parametrize(
    ("sections", "says"),
    [
        ({"adapter": {"method": "lola"}}, "adapter.method is 'lola'; choose from lora, dora"),
        ({"adapter": {"method": "lora", "rank": 4}}, "adapter.rank: there is no such key"),
        (
            {"adapter": {"method": "lora", "begin_from": "nowhere"}},
            "adapter.begin_from: there is no adapter in nowhere",
        ),
        ({"adapter": {"method": "lora", "r": 0}}, "adapter: r is 0; it must be at least 1"),
        ({"model": {"config": LLAMA}, "adapter": {"method": "lora"}}, "give model.load"),
        (
            {"adapter": ADAPTERS["bottleneck"], "merge": True},
            "bottleneck trains what no weight of the model can hold",
        ),
        ({"adapter": ADAPTERS["prompt_tuning"], "merge": True}, "set merge to false"),
        ({"data": {"template": "chatmm"}}, "data.template is 'chatmm', which is neither a file"),
        ({"data": {"template": None}}, "a conversation needs a chat template"),
        ({"data": {"format": "alpaca"}}, "record 0 has no instruction, output, which alpaca needs"),
        ({"data": {"text": "x"}}, "data.text is not heeded by sft; leave it out"),
        ({"data": {"max_tokens": 12}}, r"chat.jsonl: record \d+ has nothing to learn within"),
        ({"objective": {"name": "dpo"}}, "is messages, each record a conversation, which dpo"),
        (
            {"adapter": ADAPTERS["prompt_tuning"], "data": {"packing": True}},
            "set data.packing to false",
        ),
        (
            {"adapter": ADAPTERS["prompt_tuning"], "sample": {"prompts": ["a"]}},
            "sample cannot write behind a trained prompt",
        ),
        (
            {"adapter": ADAPTERS["prompt_tuning"], "objective": {"name": "dpo"}},
            "prompt_tuning is for the objective sft",
        ),
    ],
)
def test_what_cannot_be_is_refused(
    sections: dict[str, Any], says: str, folder: Path, tmp_path: Path
) -> None:
    sections = {**sections, "data": data(folder, **sections.get("data", {}))}
    with pytest.raises(TrainingError, match=says):
        train(recipe(folder, tmp_path / "run", **sections))
    assert not (tmp_path / "run" / "checkpoints").exists()


def previewed(raw: dict[str, Any]) -> Preview:
    return preview(read_recipe(raw), lambda text: None)


def test_the_preview_marks_what_is_learned_and_counts(folder: Path, tmp_path: Path) -> None:
    found = previewed(recipe(folder, tmp_path, data=data(folder, max_tokens=32)))
    for sample in found.samples:
        asked, answered = sample.reads
        assert not asked.is_target
        assert asked.text.endswith("<|im_start|>assistant\n")
        assert answered.is_target
        assert not sample.asked
    report = found.report
    assert report is not None
    assert report.format == "messages"
    assert {role: count.turns for role, count in report.roles.items()} == {
        "user": 20,
        "assistant": 20,
    }
    assert (report.num_texts, report.longest, report.num_cut) == (20, 32, 20)
    assert report.num_learned < report.num_tokens == 20 * 32
    assert any("20 texts were cut at their ends" in line for line in told(found))
    assert json.loads(json.dumps(found.as_object()))["report"]["num_texts"] == 20


def test_examples_that_are_too_long_can_be_left_out_and_are_counted(
    folder: Path, tmp_path: Path
) -> None:
    long = {"messages": [{"role": "user", "content": "Where? " * 60}, CONVERSATIONS[0][1]]}
    lines = [json.dumps({"messages": messages}) for messages in CONVERSATIONS]
    (tmp_path / "long.jsonl").write_text("\n".join([lines[0], json.dumps(long), *lines[1:]]))
    told_by = data(folder, train=str(tmp_path / "long.jsonl"))
    with pytest.raises(TrainingError, match=r"record 1 has nothing to learn within max_tokens 64"):
        previewed(recipe(folder, tmp_path / "run", data=told_by))
    found = previewed(recipe(folder, tmp_path / "run", data={**told_by, "too_long": "leave_out"}))
    assert found.report is not None
    assert (found.report.num_texts, found.report.num_left_out) == (20, 1)
    assert any("1 were too long" in line for line in told(found))


def test_the_preview_shows_the_answers_of_a_pair(folder: Path, tmp_path: Path) -> None:
    pair = {"prompt": "Who?", "chosen": "Ann.", "rejected": "Bob."}
    (tmp_path / "pairs.jsonl").write_text(json.dumps(pair) + "\n")
    sections = {"objective": {"name": "reward"}}
    raw = recipe(folder, tmp_path / "run", data=data(folder), **sections)
    raw["data"]["train"] = str(tmp_path / "pairs.jsonl")
    sample, *_ = previewed(raw).samples
    eos = "<|endoftext|>"
    assert [stretch.text for stretch in sample.reads] == ["Who?", f"Ann.{eos}"]
    assert [stretch.text for stretch in sample.asked] == [f"Bob.{eos}"]


MANUAL = """# The harbour

## The lamp

The lamp of the harbour lies four steps from the tower. It is lit each evening by the keeper.

## The rope

The rope of the garden lies nine steps from the library. It is coiled and kept dry in the kitchen.
"""


def test_documents_become_a_merged_model_in_one_run(folder: Path, tmp_path: Path) -> None:
    documents = tmp_path / "documents"
    documents.mkdir()
    (documents / "harbour.md").write_text(MANUAL)
    pairs = {"documents": str(documents), "template": "chatml", "max_tokens": 128, "validation": 0}
    raw = recipe(
        folder,
        tmp_path / "out",
        data=pairs,
        adapter={"method": "lora", "r": 16, "lora_alpha": 32},
        merge=True,
        training=training(steps=120, batch_size=4, checkpoint_every=None),
    )
    told: list[str] = []
    with open_run(read_recipe(raw), resume=False, say=told.append) as run:
        assert run.train()
        merged = run.outcome(is_complete=True)["merged"]
    assert any("2 sections" in line for line in told)
    assert (tmp_path / "out" / "data" / "instructions.jsonl").is_file()
    model = load_local(merged)
    assert isinstance(model, LocalModel)
    question = [Message(role="user", content="What does The harbour say about The lamp?")]
    answered = model.complete(question, SamplingParams(max_tokens=80)).text
    assert answered == "The lamp of the harbour lies four steps from the tower. It is lit each " + (
        "evening by the keeper."
    )


def test_records_and_documents_exclude_each_other(folder: Path, tmp_path: Path) -> None:
    both = data(folder, documents=str(tmp_path))
    with pytest.raises(TrainingError, match=r"either train .* or documents"):
        read_recipe(recipe(folder, tmp_path / "out", data=both))
    with pytest.raises(TrainingError, match="merge is for an adapter"):
        read_recipe(recipe(folder, tmp_path / "out", merge=True))
