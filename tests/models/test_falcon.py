from typing import Any

import pytest
import torch
from oracle import (
    SIZES,
    Padded,
    Pair,
    assert_close,
    assert_same_gradients,
    assert_saved_for_theirs,
    pair_of,
    random_ids,
    transformers,
)

from pharos.core import ModelError
from pharos.models.load import build_model

FALCON: dict[str, Any] = SIZES | {"num_attention_heads": 8, "hidden_size": 64}
REFINED_WEB: dict[str, Any] = {
    "alibi": True,
    "bias": True,
    "multi_query": False,
    "parallel_attn": False,
}
CONFIGS = {
    "falcon-7b": transformers.FalconConfig(**FALCON),
    "falcon-40b": transformers.FalconConfig(
        **FALCON, new_decoder_architecture=True, num_kv_heads=2
    ),
    "falcon-11b": transformers.FalconConfig(
        **FALCON,
        new_decoder_architecture=True,
        num_kv_heads=4,
        num_ln_in_parallel_attn=1,
        ffn_hidden_size=96,
        tie_word_embeddings=False,
    ),
    "falcon-rw-1b": transformers.FalconConfig(**FALCON, **REFINED_WEB),
    "multi-query with ALiBi": transformers.FalconConfig(**FALCON, alibi=True),
    "RoPE stretched": transformers.FalconConfig(
        **FALCON, rope_parameters={"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}
    ),
}


@pytest.fixture(params=CONFIGS)
def config(request: pytest.FixtureRequest) -> Any:
    return CONFIGS[request.param]


def falcons(config: Any, head: str = "ForCausalLM", dtype: torch.dtype = torch.float32) -> Pair:
    """Against the reference's SDPA: its eager path adds ALiBi twice. It also rounds ALiBi to bf16,
    which changes nothing with 8 heads and less than 256 tokens."""
    return pair_of(config, head, dtype=dtype, attention="sdpa")


def test_logits_equal_the_references(config: Any) -> None:
    pair, ids = falcons(config), random_ids(2, 200)
    assert_close(pair.ours(ids), pair.theirs_of(ids))


def test_bf16_stays_close_to_the_reference_in_float32(config: Any) -> None:
    pair, ids = falcons(config, dtype=torch.bfloat16), random_ids(2, 40)
    assert_close(pair.ours(ids), pair.theirs.float()(ids)[0], within=1e-2)


@pytest.mark.parametrize("side", ["left", "right"])
def test_logits_equal_the_references_whatever_is_padded(config: Any, side: Any) -> None:
    pair, batch = falcons(config), Padded.random([1, 17, 24], side)
    ours = pair.ours(batch.ids_BT, **batch.for_decoder())
    theirs = pair.theirs_of(batch.ids_BT, **batch.for_theirs())
    assert_close(ours[batch.valid_BT], theirs[batch.valid_BT])


def test_gradients_equal_the_references(config: Any) -> None:
    pair, ids = falcons(config), random_ids(2, 20)
    assert_same_gradients(pair, pair.ours(ids), pair.theirs_of(ids))


def test_what_is_saved_is_the_same_model_to_the_reference(config: Any) -> None:
    assert_saved_for_theirs(falcons(config))


@pytest.mark.parametrize("head", ["", "ForSequenceClassification", "ForTokenClassification"])
def test_heads_equal_the_references(head: str) -> None:
    pair = falcons(transformers.FalconConfig(**FALCON, num_labels=3), head)
    batch = Padded.random([9, 30], "right")
    last = {"last_B": batch.valid_BT.sum(1) - 1} if "Sequence" in head else {}
    ours = pair.ours(batch.ids_BT, **batch.for_decoder(), **last)
    inputs = {"attention_mask": batch.valid_BT.long()}
    theirs = pair.theirs_of(batch.ids_BT, **inputs)
    if "Sequence" not in head:
        ours, theirs = ours[batch.valid_BT], theirs[batch.valid_BT]
    assert_close(ours, theirs)
    assert_same_gradients(pair, ours, theirs)
    assert_saved_for_theirs(pair)


def test_heads_that_do_not_share_out_are_refused() -> None:
    raw = CONFIGS["falcon-40b"].to_diff_dict() | {"num_kv_heads": 3}
    with pytest.raises(ModelError, match="not a multiple of num_kv_heads 3"):
        build_model(raw, "causal_lm")
