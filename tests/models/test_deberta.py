from pathlib import Path
from typing import Any

import pytest
import torch
from encoder_configs import CONFIGS, DEBERTA, V3
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import assert_close, pair_of, random_ids, random_model, transformers
from safetensors.torch import load_file, save_file

from pharos.core import ModelError
from pharos.models.checkpoint import WEIGHTS_FILE
from pharos.models.deberta import log_buckets
from pharos.models.load import build_model, load_model

reference = pytest.importorskip("transformers.models.deberta_v2.modeling_deberta_v2")


@settings(deadline=None, max_examples=50)
@given(st.integers(2, 300), st.integers(2, 300), st.integers(1, 400))
def test_buckets_are_those_of_the_reference(buckets: int, distance: int, length: int) -> None:
    distance = max(distance, buckets // 2 + 2)
    away_R = torch.arange(1 - length, length)
    expected = reference.make_log_bucket_position(away_R, buckets, distance).long()
    assert torch.equal(log_buckets(away_R, buckets, distance), expected)


@pytest.mark.parametrize("changes", [{}, {"max_relative_positions": 20}, {"position_buckets": -1}])
@torch.no_grad()
def test_texts_beyond_the_relative_positions_equal_the_reference(changes: dict[str, int]) -> None:
    config = transformers.DebertaV2Config(**V3 | {"max_position_embeddings": 32} | changes)
    pair, ids_BT = pair_of(config, ""), random_ids(2, 150)
    assert_close(pair.ours(ids_BT), pair.theirs_of(ids_BT))


@torch.no_grad()
def test_without_absolute_positions_only_the_distance_counts() -> None:
    body = pair_of(transformers.DebertaV2Config(**V3), "").ours
    ids_BT, shift = random_ids(1, 9), 6
    shifted_BT = torch.cat([torch.zeros(1, shift, dtype=torch.long), ids_BT], dim=1)
    valid_BT = torch.arange(9 + shift)[None] >= shift
    assert_close(body(shifted_BT, valid_BT=valid_BT)[:, shift:], body(ids_BT))


@torch.no_grad()
def test_what_pre_training_left_in_a_file_is_passed_over(tmp_path: Path) -> None:
    theirs = random_model(CONFIGS["deberta v3"], "ForMaskedLM")
    theirs.save_pretrained(tmp_path)
    weights = load_file(tmp_path / WEIGHTS_FILE)
    weights["mask_predictions.dense.weight"] = torch.zeros(3)
    weights["lm_predictions.lm_head.bias"] = torch.zeros(3)
    weights["deberta.embeddings.position_embeddings.weight"] = torch.zeros(3)
    save_file(weights, tmp_path / WEIGHTS_FILE)
    ids_BT = random_ids(2, 7)
    assert_close(load_model(tmp_path)(ids_BT), theirs(ids_BT).logits)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pos_att_type": "c2p|p2p"}, "pos_att_type is 'p2p'; choose from c2p, p2c"),
        ({"pos_att_type": 7}, "pos_att_type is 7"),
        ({"attention_head_size": 4}, "attention_head_size is 4; only 8 is built here"),
        ({"pooler_hidden_size": 16}, "pooler_hidden_size is 16; only 32 is built here"),
        ({"conv_kernel_size": 2}, "conv_kernel_size is 2; it must be odd"),
        ({"conv_groups": 3}, "hidden_size 32 is not a multiple of conv_groups 3"),
        ({"conv_act": "sine"}, "conv_act is 'sine'; choose from"),
        ({"position_buckets": 10**9}, "position_buckets is 1000000000; no model has"),
        ({"position_buckets": 1}, "position_buckets is 1; it must be"),
        ({"position_buckets": 8, "max_relative_positions": 4}, "position_buckets"),
    ],
)
def test_a_config_that_cannot_be_built_is_refused_by_name(
    change: dict[str, Any], message: str
) -> None:
    raw = transformers.DebertaV2Config(**DEBERTA).to_dict() | change | {"id2label": None}
    with pytest.raises(ModelError, match=message):
        build_model(raw, "body")
