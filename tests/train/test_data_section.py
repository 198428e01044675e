"""What a recipe may say of its data."""

import math
from typing import Any

import pytest

from pharos.core.errors import TrainingError
from pharos.train.data_section import RecordData, TextData
from pharos.train.settings import read_settings

SOURCES = {"prose": {"path": "texts", "weight": 2}, "code": {"path": "code.jsonl"}}


def texts(**keys: Any) -> TextData:
    return read_settings(TextData, {"sources": SOURCES, "sequence_length": 8} | keys, "data")


def records(**keys: Any) -> RecordData:
    return read_settings(RecordData, keys, "data")


def test_what_is_left_out_is_usual() -> None:
    found = texts()
    assert (found.validation, found.clean, found.filter) == (0.05, True, False)
    assert {name: source.weight for name, source in found.sources.items()} == {
        "prose": 2,
        "code": 1,
    }
    assert records(train="x").max_tokens == 256


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"sources": {}}, "sources is empty; name at least one"),
        ({"sequence_length": 1}, "sequence_length is 1; it must be at least 2"),
        ({"sources": {"a/b": {"path": "x"}}}, r"the name 'a/b'; it may have letters"),
        ({"sources": {"validation": {"path": "x"}}}, "sources.validation has a name that the run"),
        ({"sources": {"x": {"path": "x", "weight": math.inf}}}, "the weight of x is inf"),
        ({"validation": 1.0}, r"validation is 1\.0; it is a share, 0 \(none\) to below 1, or a"),
        ({"packing": "first_fit"}, "data.packing is 'first_fit'; choose from concat, best_fit"),
        (
            {"milestones": [{"step": 3, "weights": {"code": -1}}]},
            r"the weight of code is -1\.0; it must be 0 or more",
        ),
        (
            {"milestones": [{"step": 3, "weights": {"cod": 1}}]},
            "milestones names 'cod', which is no source; there are prose, code",
        ),
    ],
)
def test_texts_that_cannot_be_are_refused_with_the_way_out(keys: dict[str, Any], says: str) -> None:
    with pytest.raises(TrainingError, match=says):
        texts(**keys)


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({}, r"give either train \(records\) or documents"),
        ({"train": "x", "documents": "y"}, r"give either train \(records\) or documents"),
        ({"train": "x", "max_tokens": 0}, "max_tokens is 0; it must be at least 1"),
        ({"train": "x", "stride": -1}, "stride is -1; it must be 0 or more"),
        ({"train": "x", "validation": -0.1}, r"validation is -0\.1; it is a share"),
        ({"train": "x", "too_long": "cut"}, "data.too_long is 'cut'; choose from error, leave_out"),
        ({"train": "x", "format": "chatml"}, "data.format is 'chatml'; choose from alpaca"),
    ],
)
def test_records_that_cannot_be_are_refused_with_the_way_out(
    keys: dict[str, Any], says: str
) -> None:
    with pytest.raises(TrainingError, match=says):
        records(**keys)
