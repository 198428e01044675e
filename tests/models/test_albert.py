from typing import Any

import pytest
import torch
from encoder_configs import BERT, CONFIGS
from oracle import assert_close, pair_of, random_ids, transformers

from pharos.core import ModelError
from pharos.models.load import build_model


def num_parameters(model: Any) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def test_shared_layers_are_counted_once() -> None:
    shallow, deep = (
        pair_of(
            transformers.AlbertConfig(**BERT | {"num_hidden_layers": depth}, embedding_size=16),
            "ForMaskedLM",
        )
        for depth in (1, 12)
    )
    assert num_parameters(shallow.ours) == num_parameters(deep.ours) == num_parameters(deep.theirs)


def test_the_embedding_is_factorised() -> None:
    body = pair_of(CONFIGS["albert"], "").ours
    assert body.embedding.weight.shape == (99, 16)
    assert body(random_ids(1, 5)).shape == (1, 5, 32)


@torch.no_grad()
@pytest.mark.parametrize(("layers", "groups"), [(5, 2), (7, 3), (6, 6)])
def test_layers_fall_into_groups_as_in_the_reference(layers: int, groups: int) -> None:
    sizes = BERT | {"num_hidden_layers": layers}
    config = transformers.AlbertConfig(**sizes, embedding_size=16, num_hidden_groups=groups)
    pair, ids_BT = pair_of(config, ""), random_ids(2, 7)
    assert_close(pair.ours(ids_BT), pair.theirs_of(ids_BT))


@pytest.mark.parametrize("setting", ["num_hidden_groups", "inner_group_num", "embedding_size"])
@pytest.mark.parametrize("value", [0, -1, 10**9])
def test_absurd_groups_are_refused(setting: str, value: int) -> None:
    raw = CONFIGS["albert"].to_dict() | {setting: value, "id2label": None}
    with pytest.raises(ModelError, match=f"{setting} is {value}; (it must be 1 to|no model has)"):
        build_model(raw, "body")
