import math
from pathlib import Path
from typing import Any

import pytest
import torch
from oracle import Padded, assert_close, random_ids
from safetensors.torch import save_file
from seq2seq_configs import MARIAN, random_targets, seq2seq_pair
from torch import Tensor, nn

from pharos.core import ModelError
from pharos.models.load import build_model, load_model, new_model, save_model
from pharos.models.transformer import DecoderBlock, EncoderBlock
from pharos.ops.positions import sinusoidal

PAPER: dict[str, Any] = MARIAN | {
    "model_type": "transformer",
    "activation_function": "relu",
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
}


def paper(**changes: Any) -> Any:
    return new_model(PAPER | changes, "seq2seq_lm", seed=0).eval().requires_grad_(False)


def linear_into(theirs: nn.Linear, ours: Any) -> None:
    theirs.weight.data, theirs.bias.data = ours.weight, ours.bias


def attention_into(theirs: nn.MultiheadAttention, ours: Any) -> None:
    parts = (ours.query, ours.key, ours.value)
    theirs.in_proj_weight.data = torch.cat([part.weight for part in parts])
    theirs.in_proj_bias.data = torch.cat([part.bias for part in parts])
    linear_into(theirs.out_proj, ours.out)


def test_an_encoder_block_is_torchs() -> None:
    torch.manual_seed(0)
    ours = EncoderBlock(paper().config, 0).eval()
    theirs = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True).eval()
    attention_into(theirs.self_attn, ours.attention)
    linear_into(theirs.linear1, ours.mlp.up)
    linear_into(theirs.linear2, ours.mlp.down)
    padded, x_BTD = Padded.random([9, 4], "right"), torch.randn(2, 9, 32)
    expected = theirs(x_BTD, src_key_padding_mask=~padded.valid_BT)
    found = ours(x_BTD, padded.causal.other)
    assert_close(found[padded.valid_BT], expected[padded.valid_BT])


def test_a_decoder_block_is_torchs() -> None:
    torch.manual_seed(0)
    ours = DecoderBlock(paper().config, 0).eval()
    theirs = nn.TransformerDecoderLayer(32, 4, 48, batch_first=True).eval()
    attention_into(theirs.self_attn, ours.attention)
    attention_into(theirs.multihead_attn, ours.source_attention)
    linear_into(theirs.linear1, ours.mlp.up)
    linear_into(theirs.linear2, ours.mlp.down)
    padded = Padded.random([9, 4], "right")
    x_BTD, states_BSD = torch.randn(2, 5, 32), torch.randn(2, 9, 32)
    later_TT = torch.ones(5, 5, dtype=torch.bool).triu(1)
    expected = theirs(
        x_BTD, states_BSD, tgt_mask=later_TT, memory_key_padding_mask=~padded.valid_BT
    )
    assert_close(ours(x_BTD, states_BSD, padded.valid_BT, None), expected)


def test_the_papers_tokens_enter_scaled_and_with_alternating_sines_and_cosines() -> None:
    body = paper().body
    body.encoder = nn.ModuleList()
    ids_BT = random_ids(1, 7)
    expected = body.embedding(ids_BT) * math.sqrt(32) + sinusoidal(7, 32)
    assert_close(body.encode(ids_BT), expected)
    assert torch.equal(sinusoidal(7, 32)[0], torch.tensor([0.0, 1.0]).repeat(16))


def test_marians_positions_have_the_sines_first() -> None:
    body = paper(model_type="marian").body
    body.encoder = nn.ModuleList()
    ids_BT = random_ids(1, 7)
    positions = body.encode(ids_BT) - body.embedding(ids_BT) * math.sqrt(32)
    assert_close(positions[0, 0], torch.tensor([0.0, 1.0]).repeat_interleave(16))


def test_one_matrix_serves_source_target_and_output() -> None:
    model = paper()
    tables = [part for part in model.modules() if isinstance(part, nn.Embedding)]
    assert len(tables) == 1
    assert not any("lm_head" in name for name, _ in model.named_parameters())


def test_the_papers_model_is_saved_and_loaded(tmp_path: Path) -> None:
    model, ids_BS, target_RT = paper(), random_ids(2, 9), random_targets(2, 5)
    save_model(model, tmp_path)
    loaded = load_model(tmp_path)
    assert loaded.config == model.config
    assert torch.equal(loaded(ids_BS, target_RT), model(ids_BS, target_RT))


def test_positions_go_on_beyond_those_of_training() -> None:
    model = paper(max_position_embeddings=16)
    assert torch.isfinite(model(random_ids(1, 40), random_targets(1, 40))).all()


def test_a_tied_weight_that_a_file_holds_more_than_once_must_be_the_same(tmp_path: Path) -> None:
    pair = seq2seq_pair("marian")
    weights = {name: tensor.clone() for name, tensor in pair.theirs.state_dict().items()}
    write(pair, tmp_path, weights)
    ids_BS, target_RT = random_ids(2, 9), random_targets(2, 5)
    assert_close(load_model(tmp_path)(ids_BS, target_RT), pair.ours(ids_BS, target_RT))
    weights["lm_head.weight"][5] += 1
    write(pair, tmp_path, weights)
    with pytest.raises(ModelError, match=r"lm_head\.weight and model\.shared\.weight differ"):
        load_model(tmp_path)


def test_a_tied_weight_may_stand_under_any_of_its_names(tmp_path: Path) -> None:
    pair = seq2seq_pair("marian")
    weights = {name: tensor.clone() for name, tensor in pair.theirs.state_dict().items()}
    for name in ("model.shared.weight", "lm_head.weight", "model.decoder.embed_tokens.weight"):
        del weights[name]
    write(pair, tmp_path, weights)
    ids_BS, target_RT = random_ids(2, 9), random_targets(2, 5)
    assert_close(load_model(tmp_path)(ids_BS, target_RT), pair.ours(ids_BS, target_RT))


def write(pair: Any, folder: Path, weights: dict[str, Tensor]) -> None:
    pair.theirs.config.save_pretrained(folder)
    save_file(weights, folder / "model.safetensors")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"decoder_layers": 0}, "decoder_layers is 0"),
        ({"decoder_attention_heads": 5}, "d_model 32 is not a multiple"),
        ({"decoder_vocab_size": 50}, "vocab_size 99 and decoder_vocab_size 50 differ"),
        ({"encoder_layerdrop": 0.1}, "encoder_layerdrop is 0.1; only 0.0 is built here"),
        ({"activation_function": "sine"}, "unknown activation 'sine'"),
        ({"pad_token_id": 99}, "pad_token_id is 99"),
        ({"tie_word_embeddings": False}, "a head of its own is built only where nothing is shared"),
    ],
)
def test_a_config_that_is_not_built_is_refused_by_name(changes: Any, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        build_model(PAPER | changes, "seq2seq_lm")


def test_dropout_is_for_training_only() -> None:
    model = paper(dropout=0.0, attention_dropout=0.0, activation_dropout=0.0)
    ids_BS, target_RT = random_ids(2, 9), random_targets(2, 5)
    expected = model(ids_BS, target_RT)
    for kind in ("dropout", "attention_dropout", "activation_dropout"):
        changed = paper(**{"dropout": 0.0, kind: 0.5})
        assert torch.equal(changed(ids_BS, target_RT), expected)
        changed.train()
        assert not torch.allclose(changed(ids_BS, target_RT), expected)
