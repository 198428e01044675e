import json
from pathlib import Path
from typing import Any

import pytest

from pharos.core import ModelError
from pharos.models.decoding import DecodingParams, read_decoding

OPUS: dict[str, Any] = {
    "bad_words_ids": [[58100]],
    "bos_token_id": 0,
    "decoder_start_token_id": 58100,
    "eos_token_id": 0,
    "forced_eos_token_id": 0,
    "max_length": 512,
    "num_beams": 4,
    "pad_token_id": 58100,
}


def test_a_translation_models_recommendation_is_read() -> None:
    assert DecodingParams.from_hugging_face(OPUS) == DecodingParams(
        start_id=58100,
        eos_ids=(0,),
        forced_eos_ids=(0,),
        banned_ids=(58100,),
        max_new_tokens=511,
        num_beams=4,
    )


def test_without_a_recommendation_the_search_is_greedy() -> None:
    params = DecodingParams.from_hugging_face({"decoder_start_token_id": 0, "eos_token_id": [1, 7]})
    assert (params.num_beams, params.eos_ids) == (1, (1, 7))


def test_the_generation_config_overrules_the_config(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(OPUS))
    assert read_decoding(tmp_path).num_beams == 4
    newer = {"num_beams": 6, "early_stopping": True, "max_new_tokens": 9}
    (tmp_path / "generation_config.json").write_text(json.dumps(newer))
    params = read_decoding(tmp_path)
    assert (params.num_beams, params.early_stopping, params.max_new_tokens) == (6, True, 9)
    assert params.start_id == 58100


def test_what_is_asked_for_and_not_done_is_warned_of() -> None:
    with pytest.warns(UserWarning, match=r"no_repeat_ngram_size, bad_words_ids of several"):
        DecodingParams.from_hugging_face(
            OPUS | {"no_repeat_ngram_size": 3, "bad_words_ids": [[5, 6], [7]]}
        )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"decoder_start_token_id": None, "bos_token_id": None}, "decoder_start_token_id is None"),
        ({"num_beams": -1}, "num_beams is -1; it must be at least 1"),
        ({"max_length": 1}, "max_new_tokens is 0; it must be at least 1"),
        ({"early_stopping": "often"}, "early_stopping is 'often'; choose True, False or 'never'"),
        ({"length_penalty": "long"}, "length_penalty is 'long'; it must be a number"),
        ({"eos_token_id": ["</s>"]}, "invalid literal"),
    ],
)
def test_a_malformed_recommendation_is_refused(changes: Any, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        DecodingParams.from_hugging_face(OPUS | changes)
