"""A contrastive run leaves behind all that it learned."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pharos.data.train_tokenizer import TokenizerConfig, train_tokenizer
from pharos.models.load import load_model
from pharos.models.tower_files import load_towers
from pharos.models.two_towers import TwoTowers
from pharos.train.recipe import read_recipe
from pharos.train.run import open_run

pytestmark = pytest.mark.slow

BERT = {
    "model_type": "bert",
    "hidden_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "max_position_embeddings": 16,
}
PAIRS = [(f"keeper {i}", f"light {i}") for i in range(12)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    lines = [json.dumps({"text": a, "text_b": b}) + "\n" for a, b in PAIRS]
    (tmp_path / "pairs.jsonl").write_text("".join(lines))
    config = TokenizerConfig(kind="wordpiece", vocab_size=60)
    train_tokenizer([text for pair in PAIRS for text in pair], config).save(tmp_path / "tokenizer")
    return tmp_path


def trained(folder: Path, objective: dict[str, Any], **loop: Any) -> tuple[TwoTowers, Path]:
    """The towers as they are in memory after two steps, and the folder that holds them."""
    raw = {
        "output": str(folder / "run"),
        "model": {"config": BERT},
        "tokenizer": {"load": str(folder / "tokenizer")},
        "objective": objective,
        "data": {"train": str(folder / "pairs.jsonl"), "max_tokens": 8, "validation": 0},
        "optimizer": {"lr": 0.01},
        "training": {"steps": 2, "batch_size": 4, **loop},
        "device": "cpu",
    }
    with open_run(read_recipe(raw), resume=False, say=lambda text: None) as run:
        assert run.train()
        assert isinstance(run.model, TwoTowers)
        return run.model.eval(), run.result


@pytest.mark.parametrize(
    "objective",
    [
        {"name": "info_nce", "width": 5},
        {"name": "sigmoid_pairs", "width": 5, "pooling": "first"},
        {"name": "info_nce"},
    ],
)
def test_the_projection_the_scale_and_the_bias_are_beside_the_model(
    objective: dict[str, Any], folder: Path
) -> None:
    towers, written = trained(folder, objective)
    loaded = load_towers(written)
    assert_equal(loaded.state_dict(), towers.state_dict())
    texts = {"ids": torch.tensor([[3, 4, 5]]), "valid": torch.ones(1, 3, dtype=torch.bool)}
    assert torch.equal(loaded.first(**texts), towers.first(**texts))
    assert load_model(written).config.hidden_size == 8


def test_averaged_weights_are_those_of_the_projection_too(folder: Path) -> None:
    towers, written = trained(folder, {"name": "info_nce", "width": 5}, ema=0.9)
    last, averaged = towers.state_dict(), load_towers(written).state_dict()
    assert not torch.equal(last["first.projection.weight"], averaged["first.projection.weight"])


def assert_equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> None:
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name
