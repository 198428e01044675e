from pathlib import Path

import pytest

from pharos.core import TrainingError
from pharos.data.train_tokenizer import TokenizerConfig, train_tokenizer
from pharos.train.data_folder import check_there, expanded
from pharos.train.parts import Parts
from pharos.train.recipe import read_recipe

BERT = {
    "model_type": "bert",
    "hidden_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 1,
    "intermediate_size": 8,
}


def test_the_variable_is_replaced_where_it_begins_a_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PHAROS_DATA", "/sets")
    raw = {"a": {"path": "$PHAROS_DATA/x"}, "b": ["$PHAROS_DATA", "in $PHAROS_DATA", 3]}
    assert expanded(raw) == {"a": {"path": "/sets/x"}, "b": ["/sets", "in $PHAROS_DATA", 3]}


@pytest.mark.parametrize("value", [None, ""])
def test_without_the_variable_data_lie_in_the_working_folder(
    value: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if value is None:
        monkeypatch.delenv("PHAROS_DATA", raising=False)
    else:
        monkeypatch.setenv("PHAROS_DATA", value)
    path = expanded("$PHAROS_DATA/tinyshakespeare/input.txt")
    assert path == "./data/tinyshakespeare/input.txt"
    says = r"data\.train is ./data/tiny.* \$PHAROS_DATA is not set, so ./data was taken: set it"
    with pytest.raises(TrainingError, match=says):
        check_there(path, "data.train")


def test_a_path_below_a_wrong_folder_blames_the_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PHAROS_DATA", str(tmp_path))
    with pytest.raises(TrainingError, match=r"\$PHAROS_DATA is set to that folder"):
        check_there(expanded("$PHAROS_DATA/x.csv"), "data.train")


def test_another_path_is_to_be_checked_in_the_recipe(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="no such file or folder; check the path in the recipe"):
        check_there(str(tmp_path / "x.csv"), "data.train")


def test_what_is_there_and_patterns_pass(tmp_path: Path) -> None:
    check_there(str(tmp_path), "data.train")
    check_there(str(tmp_path / "**" / "*.md"), "data.train")


def test_records_that_are_not_there_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PHAROS_DATA", raising=False)
    train_tokenizer(["abc"], TokenizerConfig(kind="characters")).save(tmp_path / "tokenizer")
    raw = {
        "output": str(tmp_path / "run"),
        "model": {"config": BERT},
        "tokenizer": {"load": str(tmp_path / "tokenizer")},
        "objective": {"name": "sequence_classification"},
        "data": {"train": "$PHAROS_DATA/nowhere/train.csv"},
        "training": {"steps": 1, "batch_size": 1},
    }
    with pytest.raises(TrainingError, match=r"data\.train is ./data/nowhere/train\.csv, and there"):
        Parts.of(read_recipe(raw), lambda text: None, lambda make: make())
