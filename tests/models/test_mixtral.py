from typing import Any

import pytest
import torch
from oracle import (
    SIZES,
    Padded,
    assert_close,
    assert_same_gradients,
    assert_saved_for_theirs,
    pair_of,
    random_ids,
    transformers,
)
from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func

from pharos.core import ModelError
from pharos.models.load import build_model
from pharos.ops.experts import load_balancing_loss

MIXTRAL: dict[str, Any] = SIZES | {
    "intermediate_size": 16,
    "num_key_value_heads": 2,
    "num_local_experts": 4,
    "max_position_embeddings": 64,
}
CONFIGS = {
    "mixtral": transformers.MixtralConfig(**MIXTRAL),
    "window of 7, three of five experts": transformers.MixtralConfig(
        **MIXTRAL | {"num_local_experts": 5}, num_experts_per_tok=3, sliding_window=7
    ),
}


@pytest.fixture(params=CONFIGS)
def config(request: pytest.FixtureRequest) -> Any:
    return CONFIGS[request.param]


def test_logits_equal_the_references(config: Any) -> None:
    pair, ids = pair_of(config), random_ids(2, 40)
    assert_close(pair.ours(ids), pair.theirs_of(ids))


@pytest.mark.parametrize("side", ["left", "right"])
def test_logits_equal_the_references_whatever_is_padded(config: Any, side: Any) -> None:
    pair, batch = pair_of(config), Padded.random([1, 17, 24], side)
    ours = pair.ours(batch.ids_BT, **batch.for_decoder())
    theirs = pair.theirs_of(batch.ids_BT, **batch.for_theirs())
    assert_close(ours[batch.valid_BT], theirs[batch.valid_BT])


def test_bf16_stays_close_to_the_reference_in_float32(config: Any) -> None:
    pair, ids = pair_of(config, dtype=torch.bfloat16), random_ids(2, 40)
    assert_close(pair.ours(ids), pair.theirs.float()(ids)[0], within=1e-2)


def test_gradients_equal_the_references(config: Any) -> None:
    pair, ids = pair_of(config), random_ids(2, 20)
    assert_same_gradients(pair, pair.ours(ids), pair.theirs_of(ids))


def test_what_is_saved_is_the_same_model_to_the_reference(config: Any) -> None:
    assert_saved_for_theirs(pair_of(config))


@pytest.mark.parametrize("is_padded", [False, True])
def test_the_balancing_loss_and_its_gradients_equal_the_references(is_padded: bool) -> None:
    pair = pair_of(CONFIGS["mixtral"])
    batch = Padded.random([24, 9 if is_padded else 24], "right")
    scores: list[torch.Tensor] = []
    pair.ours(batch.ids_BT, **batch.for_decoder(), router_logits=scores)
    theirs = pair.theirs(batch.ids_BT, **batch.for_theirs(), output_router_logits=True)
    ours_loss = load_balancing_loss(scores, top_k=2, valid_BT=batch.valid_BT if is_padded else None)
    mask = batch.valid_BT.long() if is_padded else None
    theirs_loss = load_balancing_loss_func(theirs.router_logits, 4, 2, mask)
    assert_close(ours_loss, theirs_loss)
    assert_same_gradients(pair, ours_loss, theirs_loss)


@pytest.mark.parametrize("head", ["", "ForSequenceClassification", "ForTokenClassification"])
def test_heads_equal_the_references(head: str) -> None:
    pair = pair_of(transformers.MixtralConfig(**MIXTRAL, num_labels=3), head)
    batch = Padded.random([9, 30], "right")
    last = {"last_B": batch.valid_BT.sum(1) - 1} if "Sequence" in head else {}
    ours = pair.ours(batch.ids_BT, **batch.for_decoder(), **last)
    theirs = pair.theirs_of(batch.ids_BT, **batch.for_theirs())
    if "Sequence" not in head:
        ours, theirs = ours[batch.valid_BT], theirs[batch.valid_BT]
    assert_close(ours, theirs)
    assert_saved_for_theirs(pair)


def test_more_experts_per_token_than_there_are_is_refused() -> None:
    raw = CONFIGS["mixtral"].to_diff_dict() | {"num_experts_per_tok": 5}
    with pytest.raises(ModelError, match="num_experts_per_tok is 5; it must be 1 to 4"):
        build_model(raw, "causal_lm")
