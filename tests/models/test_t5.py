import json
from pathlib import Path
from typing import Any

import pytest
import torch
from oracle import (
    Padded,
    assert_close,
    assert_same_gradients,
    assert_saved_for_theirs,
    random_ids,
    transformers,
)
from safetensors.torch import load_file, save_file
from seq2seq_configs import CONFIGS, T5, V11, random_targets, seq2seq_pair

from pharos.core import ModelError
from pharos.models.load import build_model, load_model, new_model, save_model

RAW: dict[str, Any] = {"model_type": "t5", "architectures": ["T5ForConditionalGeneration"]}


@pytest.mark.parametrize("name", ["t5 1.0", "t5 1.1"])
def test_the_encoder_alone_is_the_references(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    theirs = transformers.T5EncoderModel(CONFIGS[name]).eval()
    theirs.save_pretrained(tmp_path)
    ours, source = load_model(tmp_path).requires_grad_(), Padded.random([30, 7], "left")
    pair = type(seq2seq_pair("t5 1.0"))(theirs, ours)
    found = ours(source.ids_BT, source.valid_BT)[source.valid_BT]
    expected = pair.theirs_of(source.ids_BT, attention_mask=source.valid_BT.long())
    assert_close(found, expected[source.valid_BT])
    assert_same_gradients(pair, found, expected[source.valid_BT])
    assert_saved_for_theirs(pair)


@pytest.mark.parametrize("name", ["t5 1.0", "t5 1.1"])
def test_encoder_and_body_of_a_whole_checkpoint_can_be_loaded(name: str, tmp_path: Path) -> None:
    whole, ids_BS, target_RT = seq2seq_pair(name).ours, random_ids(2, 9), random_targets(2, 5)
    save_model(whole, tmp_path)
    states_BSD = whole.encode(ids_BS)
    assert_close(load_model(tmp_path, task="encoder")(ids_BS), states_BSD)
    hidden_RTD = whole.body.decode(target_RT, states_BSD)
    assert_close(load_model(tmp_path, task="body")(ids_BS, target_RT), hidden_RTD)


def test_any_length_is_read_and_far_tokens_are_in_one_bucket() -> None:
    pair, source = seq2seq_pair("t5 1.0"), Padded.random([150, 120], "right")
    target_RT = random_targets(2, 130)
    theirs = pair.theirs(
        input_ids=source.ids_BT,
        attention_mask=source.valid_BT.long(),
        decoder_input_ids=target_RT,
    )
    assert_close(pair.ours(source.ids_BT, target_RT, source.valid_BT), theirs[0])


def write_raw(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_head_of_its_own_is_one_whatever_the_config_says(tmp_path: Path) -> None:
    """Newer `transformers` write `tie_word_embeddings: true` for T5 1.1 too."""
    ours, ids_BS, target_RT = seq2seq_pair("t5 1.1").ours, random_ids(2, 9), random_targets(2, 5)
    save_model(ours, tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["tie_word_embeddings"] is False
    write_raw(tmp_path, tie_word_embeddings=True)
    loaded = load_model(tmp_path)
    assert_close(loaded(ids_BS, target_RT), ours(ids_BS, target_RT))
    assert loaded.config == ours.config


def test_a_head_that_equals_the_embedding_is_the_embedding(tmp_path: Path) -> None:
    ours, ids_BS, target_RT = seq2seq_pair("t5 1.0").ours, random_ids(2, 9), random_targets(2, 5)
    save_model(ours, tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    for copy in ("lm_head.weight", "encoder.embed_tokens.weight", "decoder.embed_tokens.weight"):
        weights[copy] = weights["shared.weight"].clone()
    save_file(weights, tmp_path / "model.safetensors")
    loaded = load_model(tmp_path)
    assert loaded.config.tie_word_embeddings
    assert_close(loaded(ids_BS, target_RT), ours(ids_BS, target_RT))


def test_the_first_checkpoints_unused_bias_is_left_out(tmp_path: Path) -> None:
    save_model(seq2seq_pair("t5 1.0").ours, tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    name = "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"
    save_file(weights | {name: torch.zeros(8, 4)}, tmp_path / "model.safetensors")
    load_model(tmp_path)


@pytest.mark.parametrize("raw", [T5, V11])
def test_a_new_model_begins_with_scores_and_logits_of_the_size_of_one(raw: Any) -> None:
    sizes = {"d_model": 128, "d_kv": 64, "d_ff": 512}
    model = new_model(RAW | raw | sizes, "seq2seq_lm", seed=0)
    block = model.body.encoder.blocks[0]
    x_BTD = block.attention_norm(model.body.embedding(random_ids(2, 50)))
    q, (k, _) = block.attention.queries(x_BTD), block.attention.keys_and_values(x_BTD)
    assert (q @ k.mT).std().item() == pytest.approx(1.0, abs=0.2)
    logits = model(random_ids(2, 20), random_targets(2, 20))
    scale = 1.0 if model.config.scale_decoder_outputs else 128**0.5
    assert logits.std().item() / scale == pytest.approx(1.0, abs=0.3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"feed_forward_proj": "gated-sine"}, "unknown activation 'sine'"),
        ({"relative_attention_num_buckets": 2}, "relative_attention_num_buckets is 2"),
        ({"relative_attention_max_distance": 4}, "half of the 8 buckets hold one distance each"),
        ({"num_decoder_layers": 0}, "num_decoder_layers is 0"),
        ({"d_kv": 0}, "d_kv is 0"),
    ],
)
def test_a_config_that_is_not_built_is_refused_by_name(changes: Any, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        build_model(RAW | T5 | changes, "seq2seq_lm")


@torch.no_grad()
def test_dropout_is_for_training_only() -> None:
    ids_BS, target_RT = random_ids(2, 9), random_targets(2, 5)
    model = new_model(RAW | T5 | {"dropout_rate": 0.3}, "seq2seq_lm", seed=0).eval()
    expected = model(ids_BS, target_RT)
    assert torch.equal(model(ids_BS, target_RT), expected)
    model.train()
    assert not torch.allclose(model(ids_BS, target_RT), expected)
