"""Shapes: N tokens, D width."""

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.functional import linear

from pharos.models.family import Task
from pharos.models.load import new_model

SIZES: dict[str, dict[str, Any]] = {
    "llama": {
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "intermediate_size": 16,
    },
    "bert": {
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 16,
    },
    "t5": {"d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2},
}
TASKS: dict[str, Task] = {"llama": "causal_lm", "bert": "masked_lm", "t5": "seq2seq_lm"}
HEADS = [("llama", True), ("llama", False), ("bert", True), ("t5", True), ("t5", False)]


def model_of(kind: str, tied: bool) -> Any:
    raw = {"model_type": kind, "vocab_size": 31, "tie_word_embeddings": tied, **SIZES[kind]}
    return new_model(raw, TASKS[kind]).requires_grad_(False)


@pytest.mark.parametrize(("kind", "tied"), HEADS)
def test_the_product_is_the_logits(kind: str, tied: bool) -> None:
    model, x_ND = model_of(kind, tied), torch.randn(5, 16)
    readout = model.readout(x_ND)
    torch.testing.assert_close(
        linear(readout.x_D, readout.weight_VD, readout.bias_V), model.logits(x_ND)
    )


@pytest.mark.parametrize(("kind", "tied"), HEADS)
def test_a_module_in_place_of_the_head_is_not_passed_over(kind: str, tied: bool) -> None:
    class Adapted(nn.Linear):
        pass

    model = model_of(kind, tied)
    head = model.body.embedding if tied else model.lm_head
    head.__class__ = Adapted
    assert model.readout(torch.randn(5, 16)) is None
