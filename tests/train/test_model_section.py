"""What a recipe may say of the model that it begins with."""

from typing import Any

import pytest

from pharos.core.errors import TrainingError
from pharos.train.model_section import ModelSection
from pharos.train.settings import read_settings

CONFIG = {"model_type": "gpt2"}


def section(**keys: Any) -> ModelSection:
    return read_settings(ModelSection, keys, "model")


@pytest.mark.parametrize(
    "keys", [{"load": "x"}, {"config": CONFIG}, {"student_of": "x", "layers": 2}]
)
def test_one_beginning_is_enough(keys: dict[str, Any]) -> None:
    found = section(**keys)
    assert [found.load, found.config, found.student_of].count(None) == 2
    assert (found.freeze, found.new_tokens, found.untie_embeddings) == ((), (), False)


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({}, "model: nothing given; name one of load"),
        ({"load": "x", "config": CONFIG}, "model: load and config given; name one of load"),
        ({"load": "x", "layers": 2}, "student_of and layers belong together"),
        ({"student_of": "x"}, "student_of and layers belong together"),
        ({"load": "x", "dropout": 1}, r"dropout is 1.0; it must be 0 \(none\) to below 1"),
        ({"load": "x", "new_tokens": ["a", "a"]}, r"new_tokens are \['a', 'a'\]; each must be"),
        ({"load": "x", "new_tokens": [""]}, r"new_tokens are \[''\]; each must be another text"),
        ({"config": CONFIG, "new_tokens": ["a"]}, "name them as tokenizer.train.special_tokens"),
        ({"config": CONFIG, "untie_embeddings": True}, "set model.config.tie_word_embeddings to"),
        ({"load": "x", "freze": ["a"]}, "model.freze: there is no such key; did you mean freeze"),
    ],
)
def test_what_cannot_be_is_refused_with_the_way_out(keys: dict[str, Any], says: str) -> None:
    with pytest.raises(TrainingError, match=says):
        section(**keys)
