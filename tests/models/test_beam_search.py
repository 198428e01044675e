"""The targets are those that `transformers` finds."""

from functools import cache
from typing import Any

import pytest
import torch
from oracle import Padded, Pair, random_ids
from seq2seq_configs import seq2seq_pair

from pharos.models.beam_search import beam_search, greedy_search
from pharos.models.decoding import DecodingParams
from pharos.models.seq2seq import Seq2SeqLM

MODELS = ["marian", "t5 1.1"]
SEEDS = [0, 1]
PAD = 98
MANY_ENDS = list(range(2, 14))
"""So many tokens end a target that searches of random models do not all run to the end."""
SEARCHES: dict[str, dict[str, Any]] = {
    "two beams": {"num_beams": 2},
    "six beams, first targets found": {"num_beams": 6, "early_stopping": True},
    "long targets favoured": {"num_beams": 4, "length_penalty": 2.0},
    "long targets favoured, to the end": {
        "num_beams": 4,
        "length_penalty": 1.5,
        "early_stopping": "never",
    },
    "short targets favoured": {"num_beams": 3, "length_penalty": -1.0},
    "length ignored": {"num_beams": 3, "length_penalty": 0.0, "early_stopping": "never"},
    "first token forced": {"num_beams": 4, "forced_bos_token_id": 50},
    "last token forced": {"num_beams": 4, "forced_eos_token_id": 2},
    "tokens banned": {"num_beams": 3, "bad_words_ids": [[PAD], [0], [40], [41]]},
    "one end": {"num_beams": 4, "eos_token_id": 2},
    "no end": {"num_beams": 4, "eos_token_id": None},
    "greedy": {"num_beams": 1},
    "greedy, tokens forced and banned": {
        "num_beams": 1,
        "forced_bos_token_id": 50,
        "forced_eos_token_id": 2,
        "bad_words_ids": [[PAD], [0], [40]],
    },
}
USUAL: dict[str, Any] = {
    "max_new_tokens": 14,
    "eos_token_id": MANY_ENDS,
    "decoder_start_token_id": 0,
    "pad_token_id": PAD,
    "bad_words_ids": [[PAD]],
    "do_sample": False,
}


@cache
def network(name: str, seed: int) -> Pair:
    return seq2seq_pair(name, seed=seed)


def found_by_ours(model: Any, source: Padded, settings: Any) -> list[list[int]]:
    params = DecodingParams.from_hugging_face(settings)
    if params.num_beams == 1:
        best = greedy_search(model, source.ids_BT, params, valid_BS=source.valid_BT)
    else:
        every = beam_search(model, source.ids_BT, params, valid_BS=source.valid_BT)
        best = [hypotheses[0] for hypotheses in every]
    return [list(hypothesis.ids) for hypothesis in best]


def found_by_theirs(model: Any, source: Padded, settings: Any) -> list[list[int]]:
    """Without the start token and the padding."""
    ids = model.generate(source.ids_BT, attention_mask=source.valid_BT.long(), **settings)
    return [[token for token in row if token != PAD] for row in ids[:, 1:].tolist()]


@pytest.mark.parametrize("search", SEARCHES)
@pytest.mark.parametrize("name", MODELS)
def test_the_targets_are_the_references(name: str, search: str) -> None:
    settings = USUAL | SEARCHES[search]
    for seed in SEEDS:
        pair = network(name, seed)
        source = Padded.random([12, 3, 7], "right")
        expected = found_by_theirs(pair.theirs, source, settings)
        assert found_by_ours(pair.ours, source, settings) == expected


@pytest.mark.parametrize("num_beams", [1, 3])
@pytest.mark.parametrize("name", MODELS)
def test_200_tokens_are_the_references(name: str, num_beams: int) -> None:
    pair, source = network(name, 1), Padded.random([9, 5], "right")
    settings = USUAL | {"max_new_tokens": 200, "num_beams": num_beams, "eos_token_id": None}
    expected = found_by_theirs(pair.theirs, source, settings)
    assert [len(row) for row in expected] == [200, 200]
    assert found_by_ours(pair.ours, source, settings) == expected


@pytest.fixture(scope="module")
def model() -> Seq2SeqLM:
    ours = network("marian", 0).ours
    assert isinstance(ours, Seq2SeqLM)
    return ours


def test_a_source_finds_the_same_targets_alone_and_in_a_batch(model: Seq2SeqLM) -> None:
    params = DecodingParams.from_hugging_face(USUAL | {"num_beams": 4})
    source = Padded.random([12, 3, 7], "right")
    together = beam_search(model, source.ids_BT, params, valid_BS=source.valid_BT)
    for row, expected in enumerate(together):
        alone_1S = source.ids_BT[row][source.valid_BT[row]][None]
        (found,) = beam_search(model, alone_1S, params)
        assert [target.ids for target in found] == [target.ids for target in expected]


def test_a_score_is_the_log_probability_over_the_penalised_length(model: Seq2SeqLM) -> None:
    params = DecodingParams(start_id=0, eos_ids=(5, 6, 7, 8), max_new_tokens=9, length_penalty=0.7)
    ids_BS = random_ids(1, 6)
    targets = beam_search(model, ids_BS, params)[0] + greedy_search(model, ids_BS, params)
    assert len(targets) == params.num_beams + 1
    for ids, score in targets:
        read_1T = torch.tensor([[0, *ids[:-1]]])
        log_probs_TV = model(ids_BS, read_1T)[0].log_softmax(-1)
        total = log_probs_TV[torch.arange(len(ids)), list(ids)].sum().item()
        assert score == pytest.approx(total / len(ids) ** 0.7, rel=1e-4)


def test_targets_come_best_first_and_differ(model: Seq2SeqLM) -> None:
    params = DecodingParams(start_id=0, eos_ids=tuple(MANY_ENDS), max_new_tokens=9, num_beams=5)
    for targets in beam_search(model, random_ids(3, 6), params):
        scores = [target.score for target in targets]
        assert scores == sorted(scores, reverse=True)
        assert len({target.ids for target in targets}) == len(targets)
