import torch

from pharos.models.dropout import set_dropout
from pharos.models.load import new_model

BERT = {
    "model_type": "bert",
    "vocab_size": 40,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 16,
}


def test_a_model_without_dropout_trains_as_it_evaluates() -> None:
    model = new_model(BERT, "masked_lm", seed=1)
    ids_BT = torch.arange(12).view(2, 6)
    expected = model.eval()(ids_BT)
    assert not torch.allclose(model.train()(ids_BT), expected)
    set_dropout(model, 0.0)
    assert torch.allclose(model.train()(ids_BT), expected)
