import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from pharos.core import ModelError
from pharos.models.bert import Bert
from pharos.models.checkpoint import (
    INDEX_FILE,
    load_weights,
    read_config,
    read_weights,
    sha256_of,
    verify_sha256,
    weight_files,
)
from pharos.models.doubles import TINY, tiny_bert, tiny_checkpoint
from pharos.models.placeholders import Uninitialized
from pharos.ops import pack

QUERY = "encoder.layer.1.attention.self.query.weight"


def load(weights: dict[str, Tensor]) -> Bert:
    with Uninitialized():
        bert = Bert(TINY)
    load_weights(bert, weights, bert.weight_map(""))
    return bert.eval()


def test_a_loaded_model_computes_what_the_saved_one_did() -> None:
    batch = pack([[3, 4, 5], [6, 7]])
    expected = tiny_bert(seed=1).encode(batch)
    torch.testing.assert_close(load(tiny_checkpoint(seed=1)).encode(batch), expected)


def test_missing_and_unexpected_weights_are_both_named() -> None:
    weights = tiny_checkpoint()
    weights["encoder.layer.9.extra"] = weights.pop(QUERY)
    with pytest.raises(ModelError) as error:
        load(weights)
    assert f"{QUERY} is missing" in str(error.value)
    assert "encoder.layer.9.extra is unexpected" in str(error.value)


def test_a_weight_of_another_shape_is_named_with_both_shapes() -> None:
    weights = tiny_checkpoint() | {"embeddings.LayerNorm.bias": torch.zeros(7)}
    with pytest.raises(ModelError, match=r"LayerNorm.bias is \(7,\); the model has \(32,\)"):
        load(weights)


def test_a_part_of_a_joined_weight_of_another_shape_is_named() -> None:
    weights = tiny_checkpoint() | {QUERY: torch.zeros(32, 5)}
    with pytest.raises(ModelError, match=rf"{QUERY} is \(32, 5\); the model has \(32, 32\)"):
        load(weights)


def test_shards_are_read_through_their_index(tmp_path: Path) -> None:
    save_file({"a": torch.ones(2)}, tmp_path / "one.safetensors")
    save_file({"b": torch.zeros(3)}, tmp_path / "two.safetensors")
    index = {"weight_map": {"a": "one.safetensors", "b": "two.safetensors"}}
    (tmp_path / INDEX_FILE).write_text(json.dumps(index))
    assert {name: len(tensor) for name, tensor in read_weights(tmp_path).items()} == {
        "a": 2,
        "b": 3,
    }


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"weight_map": 3}', '{"weight_map": {}}'])
def test_a_malformed_index_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / INDEX_FILE).write_text(content)
    with pytest.raises(ModelError, match=r"model\.safetensors\.index\.json .*"):
        weight_files(tmp_path)


@pytest.mark.parametrize(
    "shard", ["../x.safetensors", "/x.safetensors", "a/../../x.safetensors", "..", ".", "", 7]
)
def test_a_shard_outside_the_folder_is_refused(tmp_path: Path, shard: object) -> None:
    (tmp_path / INDEX_FILE).write_text(json.dumps({"weight_map": {"a": shard}}))
    with pytest.raises(ModelError, match="must be a file beside the index"):
        weight_files(tmp_path)


def test_a_folder_without_safetensors_says_so(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").touch()
    with pytest.raises(ModelError, match=r"no model\.safetensors"):
        read_weights(tmp_path)


def test_a_truncated_file_is_named(tmp_path: Path) -> None:
    save_file({"a": torch.ones(100)}, tmp_path / "model.safetensors")
    content = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(content[:-50])
    with pytest.raises(ModelError, match=r"model\.safetensors cannot be read"):
        read_weights(tmp_path)


@pytest.mark.parametrize("content", ["{", "[]"])
def test_a_broken_config_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(ModelError, match=r"config\.json"):
        read_config(tmp_path)


def test_one_changed_byte_fails_the_checksum(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"weights")
    digest = sha256_of(path)
    verify_sha256(path, digest)
    path.write_bytes(b"weighty")
    with pytest.raises(ModelError, match=f"expected {digest}"):
        verify_sha256(path, digest)
