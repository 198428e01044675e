"""Recipes that align a model: pairs, a reward model, and rollouts that it scores."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from pharos.core import TrainingError
from pharos.data.train_tokenizer import TokenizerConfig, train_tokenizer
from pharos.models.load import load_model, new_model, save_model
from pharos.train.meter import Meter
from pharos.train.metrics_log import METRICS_FILE, read_metrics
from pharos.train.objective import IGNORED
from pharos.train.preview import preview
from pharos.train.recipe import read_recipe
from pharos.train.run import open_run

SIZES = {
    "model_type": "llama",
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 128,
}
LORA = {"method": "lora", "r": 4, "lora_alpha": 8}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pairs, prompts with their answers, and a fresh model with a tokenizer."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("alignment")
    asked = [f"What is {a} and {b}?" for a in range(5) for b in range(5)]
    pairs = [{"prompt": q, "chosen": "It is known.", "rejected": "No idea at all."} for q in asked]
    prompts = [{"question": q, "answer": f"#### {a + 1}"} for a, q in enumerate(asked)]
    for name, rows in (("pairs", pairs), ("prompts", prompts)):
        lines = (json.dumps(row) + "\n" for row in rows)
        (folder / f"{name}.jsonl").write_text("".join(lines))
    texts = [*asked, "It is known.", "No idea at all."]
    tokenizer = train_tokenizer(texts, TokenizerConfig(vocab_size=300))
    tokenizer.save(folder / "model")
    raw = {**SIZES, "vocab_size": tokenizer.vocab_size}
    save_model(new_model(raw, "causal_lm", seed=0), folder / "model")
    return folder


def recipe(folder: Path, output: Path, objective: dict[str, Any], **more: Any) -> dict[str, Any]:
    is_rl = objective["name"] in ("ppo", "grpo")
    prompts = {"train": str(folder / "prompts.jsonl"), "text": "question", "label": "answer"}
    pairs = {"train": str(folder / "pairs.jsonl")}
    usual = {
        "output": str(output),
        "model": {"load": str(folder / "model")},
        "objective": objective,
        "data": {**(prompts if is_rl else pairs), "max_tokens": 64, "validation": 0.2},
        "training": training(),
        "optimizer": {"lr": 3e-3},
        "device": "cpu",
    }
    return {**usual, **more}


def training(**changes: Any) -> dict[str, Any]:
    usual = {"steps": 4, "batch_size": 4, "log_every": 1, "evaluate_every": 2}
    return {**usual, "evaluation_rows": 4, "checkpoint_every": 1, **changes}


def run(raw: dict[str, Any], *, resume: bool = False) -> list[dict[str, Any]]:
    """The lines of the run's log."""
    with open_run(read_recipe(raw), resume=resume, say=lambda _: None) as opened:
        assert opened.train()
    return list(read_metrics(Path(raw["output"]) / METRICS_FILE))


def trained(output: Path) -> dict[str, torch.Tensor]:
    folder = output / "model"
    if folder.is_dir():
        return dict(load_model(folder).state_dict())
    return load_file(output / "adapter" / "adapter_model.safetensors")


def objectives(folder: Path) -> dict[str, tuple[dict[str, Any], dict[str, Any]]]:
    """By name, the objective and what else the recipe says."""
    base, reward = str(folder / "model"), {"verifier": "final_number"}
    few = {"max_new_tokens": 5, "rollout_size": 8, "epochs": 2, "reward": reward}
    target = {"coefficient": 0.1, "target": 0.05, "horizon": 50}
    return {
        "dpo with a reference": ({"name": "dpo", "reference": base}, {}),
        "dpo, precomputed": ({"name": "dpo", "reference": base, "precompute": True}, {}),
        "dpo of an adapter": ({"name": "dpo", "sft_weight": 0.1}, {"adapter": LORA}),
        "reward model": ({"name": "reward", "centre_weight": 0.01}, {}),
        "ppo": ({"name": "ppo", **few, "reference": base, "kl": target}, {}),
        "ppo of an adapter": ({"name": "ppo", **few, "kl": target}, {"adapter": LORA}),
        "grpo": ({"name": "grpo", **few, "group_size": 4}, {}),
        "grpo of an adapter": (
            {"name": "grpo", **few, "group_size": 4, "beta": 0.1},
            {"adapter": LORA},
        ),
    }


@pytest.mark.parametrize(
    "kind",
    [
        "dpo with a reference",
        "dpo, precomputed",
        "dpo of an adapter",
        "reward model",
        "ppo",
        "ppo of an adapter",
        "grpo",
        "grpo of an adapter",
    ],
)
def test_a_recipe_that_was_ended_goes_on_to_the_same_weights(
    kind: str, folder: Path, tmp_path: Path
) -> None:
    objective, more = objectives(folder)[kind]
    whole, parted = tmp_path / "whole", tmp_path / "parted"
    lines = run(recipe(folder, whole, objective, **more))
    raw = recipe(folder, parted, objective, **more)
    with open_run(read_recipe(raw), resume=False, say=lambda _: None) as opened:
        trainer = opened.trainer
        with trainer.batches(0) as loader:
            _one_step(trainer, loader)
        trainer.save()
    run(raw, resume=True)
    expected, found = trained(whole), trained(parted)
    assert expected.keys() == found.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert any("val_loss" in line for line in lines)


def _one_step(trainer: Any, loader: Any) -> None:
    trainer.train_step(next(iter(loader)), Meter(trainer), loader)


@pytest.mark.parametrize("kind", ["dpo of an adapter", "dpo, precomputed", "ppo", "grpo"])
def test_in_bfloat16_runs_begin_where_they_should(kind: str, folder: Path, tmp_path: Path) -> None:
    objective, more = objectives(folder)[kind]
    few = {"training": training(steps=1, precision="bf16")}
    first = run(recipe(folder, tmp_path, objective, **more, **few))[0]
    if objective["name"] == "dpo":
        assert first["train/dpo"] == pytest.approx(math.log(2), abs=1e-2)
    else:
        assert first["train/ratio"] == pytest.approx(1, abs=1e-2)
        assert first["train/sampler_gap"] < 0.02


@pytest.mark.parametrize("more", [{}, {"adapter": LORA, "merge": True}], ids=["whole", "lora"])
def test_a_reward_model_that_was_trained_scores_the_rollouts(
    more: dict[str, Any], folder: Path, tmp_path: Path
) -> None:
    """As it does itself, text by text, an adapter being beside its weights then."""
    raw = recipe(folder, tmp_path / "reward", {"name": "reward"}, **more)
    with open_run(read_recipe(raw), resume=False, say=lambda _: None) as opened:
        assert opened.train()
        outcome, taught = opened.outcome(is_complete=True), opened.network.eval()
    reward = {"model": outcome["merged"] or outcome["model"]}
    few = {"reward": reward, "group_size": 4, "max_new_tokens": 5}
    raw = recipe(folder, tmp_path / "grpo", {"name": "grpo", **few})
    with open_run(read_recipe(raw), resume=False, say=lambda _: None) as opened:
        (batch,) = next(iter(opened.trainer.batches(0)))
    scores = batch["score"].tolist()
    assert max(scores) - min(scores) > 1e-2
    for ids, labels, score in zip(batch["ids"], batch["labels"], scores, strict=True):
        end = int((labels != IGNORED).nonzero()[-1])
        text = torch.cat([ids[: end + 1], labels[end : end + 1]])
        with torch.inference_mode():
            assert taught(text[None]).item() == pytest.approx(score, abs=1e-4)


@pytest.mark.parametrize(
    ("objective", "said"),
    [
        ({"name": "grpo", "group_size": 4}, "reward is missing"),
        ({"name": "dpo"}, r"objective\.reference"),
        ({"name": "ppo", "reward": {"verifier": "exact"}}, r"objective\.reference"),
        ({"name": "grpo", "group_size": 3, "reward": {"verifier": "exact"}}, "group_size"),
    ],
)
def test_what_is_missing_is_told(
    objective: dict[str, Any], said: str, folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(TrainingError, match=said):
        run(recipe(folder, tmp_path, objective))


def test_a_prompt_that_is_too_long_is_named(folder: Path, tmp_path: Path) -> None:
    raw = recipe(folder, tmp_path, {"name": "grpo", "reward": {"verifier": "exact"}})
    raw["data"]["max_tokens"] = 2
    with pytest.raises(TrainingError, match=r"record 0.*raise data\.max_tokens"):
        run(raw)


def test_an_answer_that_is_not_there_is_named(folder: Path, tmp_path: Path) -> None:
    raw = recipe(folder, tmp_path, {"name": "grpo", "reward": {"verifier": "exact"}})
    raw["data"]["label"] = "solution"
    with pytest.raises(TrainingError, match="solution"):
        run(raw)


def test_a_preview_shows_the_prompts_and_what_is_right(folder: Path, tmp_path: Path) -> None:
    raw = recipe(folder, tmp_path, {"name": "grpo", "reward": {"verifier": "final_number"}})
    shown = preview(read_recipe(raw), lambda _: None)
    reads, asked = shown.samples[0]
    assert reads[0].text.startswith("What is")
    assert asked[0].text.startswith("####")
    assert shown.summary == "20 prompts"
