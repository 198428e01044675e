import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from pharos.core import ModelError
from pharos.core.logistic import Logistic
from pharos.models.resolve import KNOWN_MODELS
from pharos.specialists.cards import (
    ADAPTERS,
    SPECIALISTS,
    Card,
    read_card,
    specialist_folder,
    survey,
    verified_card,
    write_card,
)

LARGEST_IN_ALL = 25_000_000

CARD = Card(
    name="reader",
    task="question_answering",
    base="all-MiniLM-L6-v2",
    base_sha256="0" * 64,
    sha256="1" * 64,
    calibration={"right": Logistic(weights={"best": 0.9}, bias=-0.1)},
    figures={"em": 70.1},
)


def test_a_card_is_read_as_it_was_written(tmp_path: Path) -> None:
    write_card(tmp_path, CARD)
    assert read_card(tmp_path) == CARD


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"treshold": 0.5}, "unknown key 'treshold'; did you mean 'threshold'?"),
        ({"xyz": 0}, "unknown key 'xyz'; known are name, task"),
        ({"task": "masked_lm"}, "task is 'masked_lm'; choose from sequence_classification"),
        ({"max_tokens": 8}, "max_tokens is 8"),
        ({"stride": 64}, "stride 64; a window has at least 16 tokens"),
        ({"threshold": 2}, "threshold is 2; it is a probability"),
        ({"calibration": {"right": {"wieghts": {}}}}, "is no card of a specialist"),
        ({"calibration": []}, "is no card of a specialist"),
    ],
)
def test_what_a_card_cannot_say_is_refused(
    tmp_path: Path, change: dict[str, Any], complaint: str
) -> None:
    write_card(tmp_path, CARD)
    path = tmp_path / "card.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ModelError) as error:
        read_card(tmp_path)
    assert complaint in str(error.value)


def test_a_label_by_another_name_is_an_error() -> None:
    card = Card(
        name="injection",
        task="sequence_classification",
        base="b",
        base_sha256="",
        sha256="",
        labels=("attack", "benign"),
    )
    assert card.class_of("benign") == 1
    with pytest.raises(ModelError, match="no label 'relevant' among attack, benign"):
        card.class_of("relevant")


def test_a_calibration_weighs_only_signs_that_there_are() -> None:
    usual = Logistic(weights={"best": 1.0, "null": 0.0})
    assert CARD.calibrated("right", usual).bias == -0.1
    assert CARD.calibrated("answerable", usual) is usual
    with pytest.raises(ModelError, match="right weighs 'best'; its signs are logit"):
        CARD.calibrated("right", Logistic(weights={"logit": 1.0}))


def test_a_survey_tells_the_whole_the_missing_and_the_damaged(
    injection_folder: Path, tmp_path: Path
) -> None:
    assert survey(tmp_path).missing == list(SPECIALISTS)
    shutil.copytree(injection_folder, tmp_path / "injection")
    shutil.copytree(injection_folder, tmp_path / "grounding")
    weights = tmp_path / "grounding" / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x00\x00")
    found = survey(tmp_path)
    assert (found.present, found.missing) == (["injection"], ["reranker", "reader"])
    (damaged,) = found.damaged
    assert "is not the published file" in damaged
    folder = specialist_folder("grounding", tmp_path)
    assert folder
    with pytest.raises(ModelError, match="not the published file"):
        verified_card(folder)


def test_what_ships_is_whole_small_and_says_what_it_is() -> None:
    found = survey()
    assert not found.damaged
    files = [path for path in ADAPTERS.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= LARGEST_IN_ALL
    for name in found.present:
        card = read_card(ADAPTERS / name)
        told = (card.about, card.data, card.licence, card.command, card.figures, card.limits)
        assert all(told), f"{name} does not say all of it"
        assert card.calibration, f"{name} is not calibrated"
        assert (card.base, card.base_sha256) == (KNOWN_MODELS[0].name, KNOWN_MODELS[0].sha256)
        adapter = json.loads((ADAPTERS / name / "adapter_config.json").read_text())
        assert adapter["base_model_name_or_path"] == card.base
