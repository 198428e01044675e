import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from pharos.core import ModelError
from pharos.models.checkpoint import INDEX_FILE, WEIGHTS_FILE
from pharos.models.family import Model
from pharos.models.load import load_model, new_model, save_model

TINY = {
    "model_type": "llama",
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
IDS = torch.tensor([[5, 17, 3, 90]])


@pytest.fixture
def model() -> Model:
    return new_model(TINY, "causal_lm", seed=0)


def test_what_is_saved_is_loaded(model: Model, tmp_path: Path) -> None:
    save_model(model, tmp_path)
    torch.testing.assert_close(load_model(tmp_path)(IDS), model(IDS), rtol=0, atol=0)


def test_a_save_replaces_the_one_before_and_nothing_else(model: Model, tmp_path: Path) -> None:
    (tmp_path / "model_of_yesterday.safetensors").write_bytes(b"somebody's")
    save_model(model, tmp_path, max_shard_bytes=20_000)
    save_model(model, tmp_path, max_shard_bytes=40_000)
    named = set(json.loads((tmp_path / INDEX_FILE).read_text())["weight_map"].values())
    assert {path.name for path in tmp_path.glob("model-*")} == named
    save_model(model, tmp_path)
    names = {"config.json", WEIGHTS_FILE, "model_of_yesterday.safetensors"}
    assert {path.name for path in tmp_path.iterdir()} == names


def test_shards_hold_the_same_model(model: Model, tmp_path: Path) -> None:
    save_model(model, tmp_path, max_shard_bytes=20_000)
    assert not (tmp_path / WEIGHTS_FILE).exists()
    index = json.loads((tmp_path / INDEX_FILE).read_text())
    files = set(index["weight_map"].values())
    assert len(files) > 2
    sizes = [sum(x.nbytes for x in load_file(tmp_path / name).values()) for name in files]
    assert max(sizes) <= 20_000
    assert sum(sizes) == index["metadata"]["total_size"]
    torch.testing.assert_close(load_model(tmp_path)(IDS), model(IDS), rtol=0, atol=0)


def test_saving_again_leaves_nothing_of_the_first_time(model: Model, tmp_path: Path) -> None:
    save_model(model, tmp_path, max_shard_bytes=20_000)
    save_model(model, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"config.json", WEIGHTS_FILE}


def test_a_model_in_half_precision_stays_so(model: Model, tmp_path: Path) -> None:
    save_model(model.to(torch.bfloat16), tmp_path)
    assert {p.dtype for p in load_model(tmp_path).parameters()} == {torch.bfloat16}
    upcast = load_model(tmp_path, dtype=torch.float32)
    assert {p.dtype for p in upcast.parameters()} == {torch.float32}


def test_the_body_alone_comes_from_a_checkpoint_with_a_head(model: Model, tmp_path: Path) -> None:
    save_model(model, tmp_path)
    body = load_model(tmp_path, task="body")
    assert body(IDS).shape == (1, 4, TINY["hidden_size"])


def test_a_head_that_the_checkpoint_lacks_is_named(model: Model, tmp_path: Path) -> None:
    save_model(model, tmp_path)
    with pytest.raises(ModelError, match=r"score\.weight is missing"):
        load_model(tmp_path, task="sequence_classification")
    with pytest.raises(ModelError, match="no head for 'masked_lm'; choose from body, causal_lm"):
        load_model(tmp_path, task="masked_lm")


@pytest.mark.parametrize("model_type", ["mamba", None, 3, ["llama"]])
def test_an_architecture_that_is_not_built_is_named(model_type: object, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(TINY | {"model_type": model_type}))
    with pytest.raises(ModelError, match=r"unknown model_type .* known are .*llama"):
        load_model(tmp_path)


def test_first_weights_depend_on_the_seed_alone() -> None:
    first, same, other = (new_model(TINY, "causal_lm", seed=seed) for seed in (1, 1, 2))
    assert all(map(torch.equal, first.parameters(), same.parameters()))
    assert not torch.equal(first(IDS), other(IDS))


def test_a_new_language_model_knows_nothing_yet() -> None:
    """Its loss is that of guessing: ln V."""
    ids = torch.randint(0, 96, (4, 64), generator=torch.Generator().manual_seed(0))
    logits = new_model(TINY, "causal_lm", seed=0)(ids)[:, :-1]
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
    assert abs(loss.item() - torch.tensor(96.0).log().item()) < 0.1
