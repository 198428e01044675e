"""What holds for every encoder's body: it computes what the reference does, and padding and packing
change nothing."""

import json
from typing import Any, Literal

import pytest
import torch
from encoder_configs import CONFIGS, Batch
from oracle import Padded, assert_close, assert_same_gradients, pair_of, random_ids

from pharos.models.encoder import PackedEncoder
from pharos.models.load import family_of
from pharos.ops import pack

Side = Literal["left", "right"]
LENGTHS = [3, 40, 17]


@pytest.fixture(params=CONFIGS)
def config(request: pytest.FixtureRequest) -> Any:
    return CONFIGS[request.param]


@pytest.mark.parametrize("side", ["left", "right"])
def test_hidden_states_and_gradients_equal_the_references(config: Any, side: Side) -> None:
    pair = pair_of(config, "")
    ours, theirs = Batch(config, Padded.random(LENGTHS, side)).outputs(pair)
    assert_close(ours, theirs)
    assert_same_gradients(pair, ours, theirs)


@torch.no_grad()
def test_bfloat16_is_near_the_reference_in_float32(config: Any) -> None:
    pair = pair_of(config, "", dtype=torch.bfloat16)
    pair.theirs.float()
    ours, theirs = Batch(config, Padded.random(LENGTHS, "right")).outputs(pair)
    assert ours.dtype == torch.bfloat16
    assert_close(ours, theirs, within=1e-2)


@torch.no_grad()
def test_padding_changes_nothing(config: Any) -> None:
    body = pair_of(config, "").ours
    ids_BT, wide_BT = random_ids(2, 9), torch.full((2, 20), config.pad_token_id)
    wide_BT[:, :9] = ids_BT
    valid_BT = (torch.arange(20) < 9).expand(2, 20)
    noise_BT = torch.where(valid_BT, wide_BT, random_ids(2, 20, seed=1))
    expected = body(ids_BT)
    assert_close(body(wide_BT, valid_BT=valid_BT)[:, :9], expected)
    assert_close(body(noise_BT, valid_BT=valid_BT)[:, :9], expected)


@pytest.mark.parametrize("name", [name for name in CONFIGS if "deberta" not in name])
@torch.no_grad()
def test_a_packed_batch_equals_one_text_at_a_time(name: str) -> None:
    body = pair_of(CONFIGS[name], "").ours
    assert isinstance(body, PackedEncoder)
    texts = [random_ids(1, length, seed=length).clamp(min=2) for length in (20, 18, 5)]
    batch = pack([text[0].tolist() for text in texts])
    hidden = body.encode(batch)
    runs = [hidden[run.rows].view(run.texts, run.length, -1) for run in batch.runs]
    rows = [row for run in runs for row in run]
    for text, row in zip(texts, rows, strict=True):
        assert_close(row[: text.shape[1]], body(text)[0])


def built(config: Any, **changes: Any) -> Any:
    """Ours from the config alone, its weights new."""
    family = family_of(config.model_type)
    raw = json.loads(config.to_json_string(use_diff=False)) | changes
    return family.body(family.config.from_hugging_face(raw)).requires_grad_(False)


@pytest.mark.parametrize("kind", ["hidden_dropout", "attention_dropout"])
def test_dropout_is_for_training_only(config: Any, kind: str) -> None:
    renamed = type(built(config).config).RENAMED
    rates = {renamed.get(name, name): 0.0 for name in ("hidden_dropout", "attention_dropout")}
    body = pair_of(config, "").ours
    dropping = built(config, **rates | {renamed.get(kind, kind): 0.5})
    dropping.load_state_dict(body.state_dict())
    ids_BT = random_ids(2, 9).clamp(min=2)
    torch.testing.assert_close(dropping.eval()(ids_BT), body(ids_BT))
    dropping.train()
    assert not torch.allclose(dropping(ids_BT), dropping(ids_BT))


def test_a_text_longer_than_the_positions_is_refused_with_both_lengths(config: Any) -> None:
    body = built(config)
    if body.max_positions is None:
        assert body(random_ids(1, 200)).shape == (1, 200, 32)
        return
    assert body(random_ids(1, body.max_positions)).shape[1] == body.max_positions
    with pytest.raises(
        ValueError, match=f"{body.max_positions + 1} tokens: .* {body.max_positions}"
    ):
        body(random_ids(1, body.max_positions + 1))


def test_token_types_are_refused_by_a_model_that_has_none() -> None:
    ids_BT = random_ids(1, 5)
    for name in ("distilbert", "deberta v3"):
        with pytest.raises(ValueError, match="no token types"):
            built(CONFIGS[name])(ids_BT, token_types_BT=torch.zeros_like(ids_BT))
