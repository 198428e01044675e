from pathlib import Path

import pytest
import torch
from encoder_configs import CONFIGS, Batch
from oracle import (
    Padded,
    assert_close,
    assert_same_gradients,
    assert_saved_for_theirs,
    pair_of,
    random_ids,
    random_model,
    transformers,
)
from safetensors.torch import load_file, save_file

from pharos.core import ModelError
from pharos.models.bert import Bert, BertConfig
from pharos.models.checkpoint import WEIGHTS_FILE
from pharos.models.doubles import TINY, tiny_bert
from pharos.models.load import load_model, save_model
from pharos.ops import pack

HUGGING_FACE = TINY.to_hugging_face() | {"gradient_checkpointing": True, "use_cache": True}


def plain_bert(bert: Bert, ids: list[int]) -> torch.Tensor:
    """One text through the paper's equations, with nothing packed and no fast operator."""
    heads = bert.config.num_attention_heads
    tokens = bert.embedding.weight[ids] + bert.position.weight[: len(ids)]
    assert bert.token_type is not None
    x_TD = bert.embedding_norm(tokens + bert.token_type.weight[0])
    for layer in bert.layers:
        q_HTK, k_HTK, v_HTK = (
            part.view(len(ids), heads, -1).transpose(0, 1)
            for part in layer.attention.qkv(x_TD).chunk(3, dim=-1)
        )
        weights_HTT = (q_HTK @ k_HTK.mT / q_HTK.shape[-1] ** 0.5).softmax(dim=-1)
        mixed_TD = (weights_HTT @ v_HTK).transpose(0, 1).flatten(1)
        x_TD = layer.attention_norm(x_TD + layer.attention.out(mixed_TD))
        up_TD = layer.mlp.up(x_TD)
        gelu_TD = up_TD * (1 + torch.erf(up_TD / 2**0.5)) / 2
        x_TD = layer.mlp_norm(x_TD + layer.mlp.down(gelu_TD))
    return x_TD


def test_a_packed_batch_equals_one_text_at_a_time_through_the_equations() -> None:
    bert = tiny_bert()
    texts = [[3, 4, 5], [6] * 20, [7, 8, 9]]
    batch = pack(texts)
    hidden = bert.encode(batch)
    rows = [hidden[batch.ids > 0].split([len(text) for text in texts])[i] for i in range(3)]
    for text, row in zip(texts, rows, strict=True):
        torch.testing.assert_close(row, plain_bert(bert, text), atol=1e-5, rtol=1e-5)


def test_the_order_of_the_words_matters() -> None:
    bert = tiny_bert()
    one, other = bert.encode(pack([[3, 4]])), bert.encode(pack([[4, 3]]))
    assert not torch.allclose(one.mean(0), other.mean(0))


def test_a_hugging_face_config_is_read_and_training_options_are_passed_over() -> None:
    assert BertConfig.from_hugging_face(HUGGING_FACE) == TINY


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("model_type", "roberta"),
        ("hidden_act", "relu"),
        ("position_embedding_type", "relative_key"),
        ("is_decoder", True),
        ("add_cross_attention", True),
    ],
)
def test_a_config_of_another_network_is_refused_by_name(key: str, value: object) -> None:
    with pytest.raises(ModelError, match=f"{key} is {value!r}"):
        BertConfig.from_hugging_face(HUGGING_FACE | {key: value})


def test_a_config_without_a_size_is_refused_by_name() -> None:
    config = {key: value for key, value in HUGGING_FACE.items() if key != "hidden_size"}
    with pytest.raises(ModelError, match="hidden_size"):
        BertConfig.from_hugging_face(config)


def test_heads_must_divide_the_width() -> None:
    with pytest.raises(ModelError, match="32 is not a multiple of num_attention_heads 5"):
        BertConfig.from_hugging_face(HUGGING_FACE | {"num_attention_heads": 5})


def test_the_next_sentence_head_equals_the_reference() -> None:
    pair = pair_of(CONFIGS["bert"], "ForNextSentencePrediction")
    ours, theirs = Batch(CONFIGS["bert"], Padded.random([5, 12], "right")).outputs(pair)
    assert ours.shape == (2, 2)
    assert_close(ours, theirs)
    assert_same_gradients(pair, ours, theirs)
    assert_saved_for_theirs(pair)


@torch.no_grad()
def test_a_pre_training_checkpoint_gives_each_of_its_heads(tmp_path: Path) -> None:
    theirs = random_model(CONFIGS["bert"], "ForPreTraining")
    theirs.save_pretrained(tmp_path)
    ids_BT = random_ids(2, 7)
    expected = theirs(ids_BT)
    both = load_model(tmp_path)(ids_BT)
    assert_close(both.tokens, expected.prediction_logits)
    assert_close(both.next_sentence, expected.seq_relationship_logits)
    masked_lm = load_model(tmp_path, task="masked_lm")
    assert_close(masked_lm(ids_BT), expected.prediction_logits)
    next_sentence = load_model(tmp_path, task="next_sentence")
    assert_close(next_sentence(ids_BT), expected.seq_relationship_logits)


def test_both_heads_together_equal_the_reference() -> None:
    pair = pair_of(CONFIGS["bert"], "ForPreTraining")
    batch = Batch(CONFIGS["bert"], Padded.random([5, 12], "right"))
    ours, theirs = batch.through_ours(pair), batch.through_theirs(pair)
    prediction, relationship = theirs.prediction_logits, theirs.seq_relationship_logits
    assert_close(ours.next_sentence, relationship)
    valid_BT = batch.valid_BT
    mine = torch.cat([ours.tokens[valid_BT].flatten(), ours.next_sentence.flatten()])
    expected = torch.cat([prediction[valid_BT].flatten(), relationship.flatten()])
    assert_same_gradients(pair, mine, expected)
    assert_saved_for_theirs(pair)


@torch.no_grad()
def test_norms_may_have_the_names_of_the_first_checkpoints(tmp_path: Path) -> None:
    theirs = random_model(CONFIGS["bert"], "ForMaskedLM")
    theirs.save_pretrained(tmp_path)
    weights = load_file(tmp_path / WEIGHTS_FILE)
    old = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
    for new, name in old.items():
        weights = {key.replace(new, name): tensor for key, tensor in weights.items()}
    weights["bert.embeddings.position_ids"] = torch.arange(64)[None]
    save_file(weights, tmp_path / WEIGHTS_FILE)
    ids_BT = random_ids(2, 7)
    assert_close(load_model(tmp_path)(ids_BT), theirs(ids_BT).logits)


@torch.no_grad()
def test_a_body_is_saved_without_the_layer_that_pools(tmp_path: Path) -> None:
    pair, ids_BT = pair_of(CONFIGS["bert"], ""), random_ids(2, 7)
    save_model(pair.ours, tmp_path)
    back = transformers.BertModel.from_pretrained(tmp_path, add_pooling_layer=False)
    assert_close(pair.ours(ids_BT), back(ids_BT)[0])
