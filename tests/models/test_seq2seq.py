"""What holds for every encoder-decoder: it computes what the reference does, and neither padding,
nor the cache, nor other rows change anything."""

from typing import Any

import pytest
import torch
from oracle import (
    Padded,
    assert_close,
    assert_same_gradients,
    assert_saved_for_theirs,
    random_ids,
)
from seq2seq_configs import CONFIGS, outputs, random_targets, seq2seq_pair
from torch import Tensor

from pharos.models.seq2seq import Seq2SeqLM

LENGTHS = [40, 3, 17]


@pytest.fixture(scope="module", params=CONFIGS)
def name(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture(scope="module")
def model(name: str) -> Seq2SeqLM:
    ours = seq2seq_pair(name).ours
    assert isinstance(ours, Seq2SeqLM)
    return ours.requires_grad_(False)


def test_a_head_computes_learns_and_is_saved_as_in_the_reference(name: str) -> None:
    pair = seq2seq_pair(name)
    ours, theirs = outputs(pair, Padded.random(LENGTHS, "right"), random_targets(3, 30))
    assert_close(ours, theirs)
    assert_same_gradients(pair, ours, theirs)
    assert_saved_for_theirs(pair)


def test_a_body_computes_and_learns_as_in_the_reference(name: str) -> None:
    pair = seq2seq_pair(name, "")
    ours, theirs = outputs(pair, Padded.random(LENGTHS, "right"), random_targets(3, 30))
    assert_close(ours, theirs)
    assert_same_gradients(pair, ours, theirs)
    assert_saved_for_theirs(pair, without=r".*embed_positions\.weight")


@torch.no_grad()
def test_bfloat16_is_as_near_to_float32_as_the_reference_or_1_percent(name: str) -> None:
    """T5 1.1 with these weights is beyond 1% in `transformers` too: nothing scales its scores."""
    pair, source = seq2seq_pair(name, dtype=torch.bfloat16), Padded.random([9, 5], "right")
    ours, theirs = outputs(pair, source, random_targets(2, 7))
    pair.theirs.float()
    _, exact = outputs(pair, source, random_targets(2, 7))
    assert ours.dtype == torch.bfloat16
    theirs_within = (theirs - exact).norm().item() / exact.norm().item()
    assert_close(ours, exact, within=max(theirs_within, 1e-2))


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_of_the_source_changes_nothing(model: Seq2SeqLM, side: Any) -> None:
    padded, target_RT = Padded.random([9, 20], side), random_targets(2, 6)
    noise_BT = padded.ids_BT.where(padded.valid_BT, random_ids(2, 20, seed=1))
    logits = model(padded.ids_BT, target_RT, padded.valid_BT)
    assert_close(model(noise_BT, target_RT, padded.valid_BT), logits)
    for row in range(2):
        alone_1T = padded.ids_BT[row][padded.valid_BT[row]][None]
        assert_close(model(alone_1T, target_RT[row : row + 1])[0], logits[row])


def test_later_tokens_of_the_target_do_not_change_earlier_ones(model: Seq2SeqLM) -> None:
    ids_BS, target_RT = random_ids(2, 9), random_targets(2, 12)
    changed_RT = target_RT.clone()
    changed_RT[:, 7:] = random_targets(2, 5, seed=4)
    before, after = model(ids_BS, target_RT), model(ids_BS, changed_RT)
    assert_close(after[:, :7], before[:, :7])
    assert not torch.allclose(after[:, 7:], before[:, 7:])


@pytest.mark.parametrize("steps", [[1] * 12, [5, 1, 6], [12]])
def test_with_a_cache_the_target_may_come_in_pieces(model: Seq2SeqLM, steps: list[int]) -> None:
    source, target_RT = Padded.random([9, 4], "right"), random_targets(2, 12)
    states_BSD = model.encode(*source)
    cache = model.new_cache()
    pieces = [
        model.decode(piece_RT, states_BSD, source.valid_BT, cache)
        for piece_RT in target_RT.split(steps, dim=1)
    ]
    assert cache.length == 12
    assert_close(torch.cat(pieces, dim=1), model(source.ids_BT, target_RT, source.valid_BT))


def test_rows_of_one_source_share_its_keys(model: Seq2SeqLM) -> None:
    source, target_RT = Padded.random([9, 4], "right"), random_targets(6, 5)
    states_BSD, cache = model.encode(*source), model.new_cache()
    together = model.decode(target_RT, states_BSD, source.valid_BT, cache)
    of_each = [rows.repeat_interleave(3, dim=0) for rows in source]
    assert_close(together, model(of_each[0], target_RT, of_each[1]))
    for layer in range(model.config.num_decoder_layers):
        keys, _ = cache.of_source(layer, not_again)
        assert len(keys) == 2


def not_again() -> tuple[Tensor, Tensor]:
    raise AssertionError("the source's keys are computed once")


def test_a_cache_goes_on_with_chosen_rows_and_sources(model: Seq2SeqLM) -> None:
    source, target_RT = Padded.random([9, 4, 6], "right"), random_targets(6, 5)
    states_BSD, cache = model.encode(*source), model.new_cache()
    model.decode(target_RT, states_BSD, source.valid_BT, cache)
    kept_B, rows_R = torch.tensor([0, 2]), torch.tensor([1, 1, 5, 4])
    cache.select(rows_R)
    cache.select_sources(kept_B)
    next_R1, valid_BS = random_targets(4, 1, seed=5), source.valid_BT[kept_B]
    logits = model.decode(next_R1, states_BSD[kept_B], valid_BS, cache)
    whole_RT = torch.cat((target_RT[rows_R], next_R1), dim=1)
    of_each = [rows[kept_B].repeat_interleave(2, dim=0) for rows in source]
    assert_close(logits, model(of_each[0], whole_RT, of_each[1])[:, -1:])


def test_a_cache_counts_what_it_keeps_of_target_and_source(model: Seq2SeqLM) -> None:
    cache = model.new_cache()
    model.decode(random_targets(2, 1), model.encode(random_ids(2, 7)), None, cache)
    of_source = [cache.of_source(i, not_again) for i in range(model.config.num_decoder_layers)]
    keys, _ = of_source[0]
    assert (
        cache.num_bytes
        == sum(part.nbytes for kept in of_source for part in kept)
        + len(of_source) * 2 * cache.capacity * keys[:, :, :1].nbytes
    )
    assert keys.shape[2] == 7
