import json
from pathlib import Path
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
    random_model,
    transformers,
)
from safetensors.torch import save_file

from pharos.core import ModelError
from pharos.models.load import build_model, load_model, new_model

GPT2: dict[str, Any] = SIZES | {"max_position_embeddings": 64}
CONFIGS = {
    "gpt2": transformers.GPT2Config(**GPT2),
    "narrow, not tied, relu": transformers.GPT2Config(
        **GPT2, n_inner=48, tie_word_embeddings=False, activation_function="relu"
    ),
    "scores scaled by the layer": transformers.GPT2Config(
        **GPT2, scale_attn_by_inverse_layer_idx=True, reorder_and_upcast_attn=True
    ),
    "scores not scaled": transformers.GPT2Config(**GPT2, scale_attn_weights=False),
}


@pytest.fixture(params=CONFIGS)
def config(request: pytest.FixtureRequest) -> Any:
    return CONFIGS[request.param]


def test_logits_equal_the_references(config: Any) -> None:
    pair, ids = pair_of(config), random_ids(2, 64)
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
    pair, ids = pair_of(config), random_ids(2, 64)
    assert_same_gradients(pair, pair.ours(ids), pair.theirs_of(ids))


def test_what_is_saved_is_the_same_model_to_the_reference() -> None:
    for config in (CONFIGS["gpt2"], CONFIGS["narrow, not tied, relu"]):
        assert_saved_for_theirs(pair_of(config))


@pytest.mark.parametrize("head", ["", "ForSequenceClassification", "ForTokenClassification"])
def test_heads_equal_the_references(head: str) -> None:
    pair = pair_of(transformers.GPT2Config(**GPT2, num_labels=3), head)
    batch = Padded.random([9, 30], "right")
    last = {"last_B": batch.valid_BT.sum(1) - 1} if "Sequence" in head else {}
    ours = pair.ours(batch.ids_BT, **batch.for_decoder(), **last)
    theirs = pair.theirs_of(batch.ids_BT, **batch.for_theirs())
    if "Sequence" not in head:
        ours, theirs = ours[batch.valid_BT], theirs[batch.valid_BT]
    assert_close(ours, theirs)
    assert_same_gradients(pair, ours, theirs)
    assert_saved_for_theirs(pair)


def test_a_decoder_that_looks_at_an_encoder_is_refused() -> None:
    with pytest.raises(ModelError, match="add_cross_attention is True; only False is built"):
        build_model(CONFIGS["gpt2"].to_dict() | {"add_cross_attention": True}, "causal_lm")


def test_a_file_without_prefix_with_old_buffers_and_the_output_once_more_loads(
    tmp_path: Path,
) -> None:
    """As GPT-2 lies on the hub, and as tools write it that save tied weights twice."""
    config = CONFIGS["gpt2"]
    theirs = random_model(config, "ForCausalLM")
    weights = {
        name: tensor.contiguous() for name, tensor in theirs.transformer.state_dict().items()
    }
    weights["h.0.attn.bias"] = torch.ones(1, 1, 64, 64)
    weights["lm_head.weight"] = theirs.lm_head.weight.detach().clone()
    save_file(weights, tmp_path / "model.safetensors")
    raw = config.to_diff_dict() | {"architectures": ["GPT2LMHeadModel"]}
    (tmp_path / "config.json").write_text(json.dumps(raw))
    ids = random_ids(2, 20)
    assert_close(load_model(tmp_path)(ids), theirs(ids)[0])


def test_what_is_added_to_the_residual_stream_begins_smaller() -> None:
    raw = {"model_type": "gpt2", "vocab_size": 99, "n_embd": 64, "n_layer": 8, "n_head": 4}
    model = new_model(raw, "causal_lm", seed=0)
    deviations = {name: float(p.std()) for name, p in model.named_parameters() if p.ndim == 2}
    for name, deviation in deviations.items():
        is_added = name.endswith(("attention.out.weight", "mlp.down.weight"))
        assert deviation == pytest.approx(0.02 / 4 if is_added else 0.02, rel=0.1), name
