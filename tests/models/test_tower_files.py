from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from pharos.core.errors import ModelError
from pharos.models.family import Body
from pharos.models.load import load_model, new_model, save_model
from pharos.models.tower_files import TOWERS_FILE, load_towers, save_towers
from pharos.models.two_towers import TextTower, TwoTowers

BERT = {
    "model_type": "bert",
    "vocab_size": 20,
    "hidden_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "max_position_embeddings": 8,
}
TEXTS: Mapping[str, Tensor] = {
    "ids": torch.tensor([[3, 4, 5], [6, 7, 0]]),
    "valid": torch.tensor([[True, True, True], [True, True, False]]),
}


def towers(bias: float | None = None, **tower: Any) -> TwoTowers:
    body = cast(Body, new_model(BERT, "body", seed=1))
    return TwoTowers(TextTower(body, seed=2, **tower), scale=7.0, bias=bias).eval()


@pytest.mark.parametrize(
    ("bias", "tower"),
    [(None, {}), (-3.0, {"width": 5, "pooling": "first"}), (None, {"width": 12})],
)
def test_what_was_saved_makes_the_same_vectors(
    bias: float | None, tower: dict[str, Any], tmp_path: Path
) -> None:
    made = towers(bias, **tower)
    save_towers(made, tmp_path)
    loaded = load_towers(tmp_path)
    assert torch.equal(loaded.first(**TEXTS), made.first(**TEXTS))
    assert torch.equal(loaded.scale(), made.scale())
    assert (loaded.bias is None) == (bias is None)
    if loaded.bias is not None:
        assert loaded.bias.item() == bias
    assert not loaded.training


def test_the_encoder_is_a_model_as_every_other(tmp_path: Path) -> None:
    made = towers(width=5)
    save_towers(made, tmp_path)
    body = cast(TextTower, made.first).body
    loaded = load_model(tmp_path, task="body").state_dict()
    for name, weight in body.state_dict().items():
        assert torch.equal(loaded[name], weight), name


def test_a_model_without_towers_says_so(tmp_path: Path) -> None:
    save_model(new_model(BERT, "body"), tmp_path)
    with pytest.raises(ModelError, match=r"it is a model, but no towers"):
        load_towers(tmp_path)


@pytest.mark.parametrize(
    ("tensors", "pooling", "says"),
    [
        (
            {"log_scale": torch.ones(2)},
            "mean",
            r"does not fit the model(.|\n)*log_scale",
        ),
        ({"log_scale": torch.ones(1)}, "maximum", "pooling 'maximum'; it must be one of mean"),
        ({"scale": torch.ones(1)}, "mean", "holds scale; it must have log_scale"),
        (
            {"log_scale": torch.ones(1), "projection.weight": torch.ones(5, 9)},
            "mean",
            r"does not fit the model(.|\n)*projection\.weight",
        ),
    ],
)
def test_a_file_that_does_not_fit_is_refused(
    tensors: dict[str, Tensor], pooling: str, says: str, tmp_path: Path
) -> None:
    save_towers(towers(), tmp_path)
    save_file(tensors, tmp_path / TOWERS_FILE, metadata={"pooling": pooling})
    with pytest.raises(ModelError, match=says):
        load_towers(tmp_path)


def test_a_file_that_is_no_safetensors_is_refused(tmp_path: Path) -> None:
    save_towers(towers(), tmp_path)
    (tmp_path / TOWERS_FILE).write_bytes(b"nonsense")
    with pytest.raises(ModelError, match="cannot be read as safetensors"):
        load_towers(tmp_path)
