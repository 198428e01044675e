"""Parts of a model that stay as they are while the rest is trained."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from pharos.core import TrainingError
from pharos.data.train_tokenizer import TokenizerConfig, train_tokenizer
from pharos.models.family import Model
from pharos.models.load import new_model, save_model
from pharos.train.events import Observer
from pharos.train.freezing import freeze
from pharos.train.recipe import read_recipe
from pharos.train.run import open_run

SIZES = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2}
LLAMA = {"model_type": "llama", "num_attention_heads": 2, "vocab_size": 270, **SIZES}
FROZEN = ["embed_tokens", "layers.0", "norm"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh model with its tokenizer, and twelve texts."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("frozen")
    texts = [f"The lamp burns {number} hours." for number in range(12)]
    records = ({"prompt": text[:8], "completion": text[8:]} for text in texts)
    (folder / "texts.jsonl").write_text("".join(json.dumps(one) + "\n" for one in records))
    train_tokenizer(texts, TokenizerConfig(vocab_size=270)).save(folder / "model")
    save_model(new_model(LLAMA, "causal_lm", seed=1), folder / "model")
    return folder


def recipe(folder: Path, output: Path, **sections: Any) -> dict[str, Any]:
    raw: dict[str, Any] = {
        "output": str(output),
        "model": {"load": str(folder / "model"), "freeze": FROZEN},
        "objective": {"name": "sft"},
        "data": {"train": str(folder / "texts.jsonl"), "max_tokens": 32, "validation": 0},
        "optimizer": {"lr": 1e-2},
        "training": {"steps": 2, "batch_size": 4, "checkpoint_every": 1},
        "device": "cpu",
    }
    return {**raw, **sections}


class Killed(BaseException):
    """As if the process had ended there."""


class KillAt(Observer):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_checkpoint(self, step: int, folder: Path) -> None:
        if step == self.step:
            raise Killed


def train(raw: dict[str, Any], *, resume: bool = False, killed_at: int = -1) -> None:
    with open_run(read_recipe(raw), resume=resume, say=lambda text: None) as run:
        run.train([KillAt(killed_at)])


def weights(output: Path) -> dict[str, Tensor]:
    return load_file(output / "model.safetensors")


def is_frozen(name: str) -> bool:
    return "embed_tokens" in name or ".layers.0." in name or name.endswith(".norm.weight")


def test_what_is_frozen_stays_bit_for_bit_and_all_else_is_trained(
    folder: Path, tmp_path: Path
) -> None:
    train(recipe(folder, tmp_path))
    before, after = weights(folder / "model"), weights(tmp_path / "model")
    assert before.keys() == after.keys()
    assert {name for name in before if torch.equal(before[name], after[name])} == {
        name for name in before if is_frozen(name)
    }


def test_a_run_with_frozen_parts_that_was_killed_goes_on_as_if_it_had_not_been(
    folder: Path, tmp_path: Path
) -> None:
    train(recipe(folder, tmp_path / "whole"))
    with pytest.raises(Killed):
        train(recipe(folder, tmp_path / "broken"), killed_at=1)
    train(recipe(folder, tmp_path / "broken"), resume=True)
    whole, resumed = (weights(tmp_path / name / "model") for name in ("whole", "broken"))
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


@pytest.mark.parametrize(
    ("kind", "names", "frozen"),
    [
        ("bert", ["encoder.layer.0"], ("body.layers.0.",)),
        ("bert", ["embeddings"], ("body.embedding", "body.position", "body.token_type")),
        ("gpt2", ["wte"], ("body.embedding.weight",)),
        ("llama", ["layers.1.mlp"], ("body.blocks.1.mlp.",)),
    ],
)
def test_parts_have_the_names_that_the_checkpoint_gives_them(
    kind: str, names: list[str], frozen: tuple[str, ...], tiny: Callable[..., Model]
) -> None:
    model = tiny(kind, "masked_lm" if kind == "bert" else "causal_lm")
    freeze(model, names)
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad != name.startswith(frozen), name


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (["embed_token"], "has no such part; did you mean 'embed_tokens'?"),
        (["layers.7"], r"did you mean 'layers\.1'"),
        (["zzz"], "its modules end in .*q_proj"),
        (["model", "lm_head"], "leaves nothing to train"),
    ],
)
def test_a_part_that_cannot_be_frozen_is_told(
    names: list[str], says: str, tiny: Callable[..., Model]
) -> None:
    with pytest.raises(TrainingError, match=says):
        freeze(tiny("llama", "causal_lm"), names)


def test_a_part_of_one_weight_is_not_frozen_alone(tiny: Callable[..., Model]) -> None:
    model = tiny("bert", "masked_lm")
    with pytest.raises(TrainingError, match=r"query\.weight, which is one weight here with all of"):
        freeze(model, ["query"])
    freeze(model, ["query", "key", "value"])


def test_a_head_that_is_the_embedding_is_frozen_with_it(tiny: Callable[..., Model]) -> None:
    with pytest.raises(TrainingError, match="'lm_head', which is the embedding again"):
        freeze(tiny("llama", "causal_lm", tie_word_embeddings=True), ["lm_head"])


def test_a_model_with_an_adapter_has_nothing_else_to_freeze(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"model\.freeze is for full fine-tuning"):
        read_recipe(recipe(folder, tmp_path, adapter={"method": "lora"}))
