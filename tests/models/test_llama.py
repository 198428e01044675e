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

from pharos.core import ModelError
from pharos.models.load import build_model

LLAMA: dict[str, Any] = SIZES | {
    "intermediate_size": 64,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
SCALED: dict[str, Any] = {"rope_theta": 1e4, "factor": 4.0}
TRAINED = {"original_max_position_embeddings": 32}
CONFIGS = {
    "llama": transformers.LlamaConfig(**LLAMA),
    "llama, tied, with biases": transformers.LlamaConfig(
        **LLAMA, tie_word_embeddings=True, attention_bias=True, mlp_bias=True
    ),
    "llama, multi-query, wide heads": transformers.LlamaConfig(
        **LLAMA | {"num_key_value_heads": 1, "head_dim": 16}
    ),
    "mistral, window of 7": transformers.MistralConfig(**LLAMA, sliding_window=7),
    "mistral, no window": transformers.MistralConfig(**LLAMA, sliding_window=None),
    "qwen2": transformers.Qwen2Config(**LLAMA),
    "qwen2, window in the last layer": transformers.Qwen2Config(
        **LLAMA, use_sliding_window=True, max_window_layers=1, sliding_window=5
    ),
    "qwen3": transformers.Qwen3Config(**LLAMA, head_dim=16),
}
SCALINGS: dict[str, dict[str, Any]] = {
    "linear": {},
    "dynamic": {},
    "yarn": TRAINED,
    "yarn, other bounds": TRAINED | {"beta_fast": 16.0, "beta_slow": 2.0, "truncate": False},
    "yarn, mscale": TRAINED | {"mscale": 1.0, "mscale_all_dim": 0.8},
    "llama3": TRAINED | {"low_freq_factor": 1.0, "high_freq_factor": 4.0},
}


@pytest.fixture(params=CONFIGS)
def config(request: pytest.FixtureRequest) -> Any:
    return CONFIGS[request.param]


def test_logits_equal_the_references(config: Any) -> None:
    pair, ids = pair_of(config), random_ids(2, 40)
    assert_close(pair.ours(ids), pair.theirs_of(ids))


def test_bf16_stays_close_to_the_reference_in_float32(config: Any) -> None:
    pair, ids = pair_of(config, dtype=torch.bfloat16), random_ids(2, 40)
    assert_close(pair.ours(ids), pair.theirs.float()(ids)[0], within=1e-2)


@pytest.mark.parametrize("side", ["left", "right"])
def test_logits_equal_the_references_whatever_is_padded(config: Any, side: Any) -> None:
    pair, batch = pair_of(config), Padded.random([1, 17, 24], side)
    ours = pair.ours(batch.ids_BT, **batch.for_decoder())
    theirs = pair.theirs_of(batch.ids_BT, **batch.for_theirs())
    assert_close(ours[batch.valid_BT], theirs[batch.valid_BT])


def test_gradients_equal_the_references(config: Any) -> None:
    pair, ids = pair_of(config), random_ids(2, 20)
    assert_same_gradients(pair, pair.ours(ids), pair.theirs_of(ids))


def test_what_is_saved_is_the_same_model_to_the_reference(config: Any) -> None:
    assert_saved_for_theirs(pair_of(config))


@pytest.mark.parametrize("length", [20, 100])
@pytest.mark.parametrize("scaling", SCALINGS)
def test_positions_are_stretched_as_in_the_reference(scaling: str, length: int) -> None:
    kind = scaling.partition(",")[0]
    rope = SCALED | {"rope_type": kind} | SCALINGS[scaling]
    pair = pair_of(transformers.LlamaConfig(**LLAMA, rope_parameters=rope))
    ids = random_ids(1, length)
    assert_close(pair.ours(ids), pair.theirs_of(ids))
    assert_saved_for_theirs(pair)


@pytest.mark.parametrize("head", ["", "ForSequenceClassification", "ForTokenClassification"])
def test_heads_equal_the_references(head: str) -> None:
    config = transformers.Qwen2Config(**LLAMA, num_labels=3)
    pair, batch = pair_of(config, head), Padded.random([9, 30], "right")
    last = {"last_B": batch.valid_BT.sum(1) - 1} if "Sequence" in head else {}
    ours = pair.ours(batch.ids_BT, **batch.for_decoder(), **last)
    theirs = pair.theirs_of(batch.ids_BT, **batch.for_theirs())
    if "Sequence" not in head:
        ours, theirs = ours[batch.valid_BT], theirs[batch.valid_BT]
    assert_close(ours, theirs)
    assert_same_gradients(pair, ours, theirs)
    assert_saved_for_theirs(pair)


def test_a_reward_is_a_classifier_with_one_class() -> None:
    config = transformers.LlamaConfig(**LLAMA, num_labels=1)
    pair, ids = pair_of(config, "ForSequenceClassification", task="reward"), random_ids(3, 12)
    assert_close(pair.ours(ids), pair.theirs_of(ids))
    assert_saved_for_theirs(pair)


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ({"num_key_value_heads": 3}, "not a multiple of num_key_value_heads 3"),
        ({"hidden_act": "tanh"}, "unknown activation 'tanh'"),
        ({"rope_scaling": {"rope_type": "longrope"}}, "rope_type is 'longrope'"),
        ({"vocab_size": None}, "vocab_size"),
    ],
)
def test_a_network_that_is_not_built_is_refused(setting: dict[str, Any], said: str) -> None:
    with pytest.raises(ModelError, match=said):
        build_model(LLAMA | {"model_type": "llama"} | setting, "causal_lm")
