from dataclasses import asdict

import pytest
import torch

from pharos.core import ModelError
from pharos.models.bert import Bert, BertConfig
from pharos.models.doubles import TINY, tiny_bert
from pharos.ops import pack

HUGGING_FACE = asdict(TINY) | {
    "model_type": "bert",
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
}


def plain_bert(bert: Bert, ids: list[int]) -> torch.Tensor:
    """One text through the paper's equations, with nothing packed and no fast operator."""
    embeddings, heads = bert.embeddings, bert.config.num_attention_heads
    tokens = embeddings.word.weight[ids] + embeddings.position.weight[: len(ids)]
    x_TD = embeddings.norm(tokens + embeddings.token_type.weight[0])
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
    hidden = bert(batch)
    rows = [hidden[batch.ids > 0].split([len(text) for text in texts])[i] for i in range(3)]
    for text, row in zip(texts, rows, strict=True):
        torch.testing.assert_close(row, plain_bert(bert, text), atol=1e-5, rtol=1e-5)


def test_the_order_of_the_words_matters() -> None:
    bert = tiny_bert()
    assert not torch.allclose(bert(pack([[3, 4]])).mean(0), bert(pack([[4, 3]])).mean(0))


def test_a_hugging_face_config_is_read_and_training_options_are_passed_over() -> None:
    assert BertConfig.from_hugging_face(HUGGING_FACE) == TINY


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("model_type", "roberta"),
        ("hidden_act", "relu"),
        ("position_embedding_type", "relative_key"),
        ("is_decoder", True),
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
