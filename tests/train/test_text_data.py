from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from pharos.core import CorpusError, TrainingError
from pharos.data.mixing import Mixture
from pharos.data.rows import Rows
from pharos.data.shards import Shards
from pharos.data.tokenize_corpus import tokenize_texts
from pharos.data.tokenizer import Tokenizer
from pharos.data.train_tokenizer import TokenizerConfig, train_tokenizer
from pharos.train.data_section import TextData
from pharos.train.settings import read_settings
from pharos.train.text_data import Data, Preparation, text_data

LETTERS = TokenizerConfig(kind="characters")
ROW_LENGTH = 8
ROWS_PER_STEP = 4


def stories(letter: str, count: int = 24) -> list[str]:
    """Texts that fill a row each, with their line's end, and tell by their letter where they are
    from."""
    return [letter * (ROW_LENGTH - 1) + "\n"] * count


@pytest.fixture
def tokenizer() -> Tokenizer:
    return train_tokenizer(["abcv\n"], LETTERS)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A file of lines for each letter."""
    for letter in "abcv":
        (tmp_path / f"{letter}.txt").write_text("".join(stories(letter)), encoding="utf-8")
    return tmp_path


def settings(folder: Path, names: str = "ab", **changes: Any) -> TextData:
    raw: dict[str, Any] = {
        "sources": {n: {"path": str(folder / f"{n}.txt"), "division": "line"} for n in names},
        "sequence_length": ROW_LENGTH,
        "validation": 0,
        "clean": False,
        "deduplicate": False,
    }
    return read_settings(TextData, raw | changes, "data")


def preparation(data: TextData, folder: Path) -> Preparation:
    said: list[str] = []
    return Preparation(data, folder / "run", seed=0, say=said.append, workers=1)


def prepared(data: TextData, folder: Path, tokenizer: Tokenizer, packing: str = "best_fit") -> Data:
    return text_data(
        data,
        tokenizer,
        preparation(data, folder),
        row_length=ROW_LENGTH,
        packing=packing,
        rows_per_step=ROWS_PER_STEP,
    )


def letters_of(rows: Rows, tokenizer: Tokenizer) -> set[str]:
    texts = (tokenizer.decode(rows.row(i, 0)["ids"].tolist()) for i in range(len(rows)))
    return set("".join(texts)) - {"\n"}


def given(data: Data, step: int) -> Mapping[str, int]:
    """How many rows of an optimizer step each source gives."""
    assert isinstance(data.stream, Mixture)
    first = step * ROWS_PER_STEP
    return Counter(data.stream.source(n)[0] for n in range(first, first + ROWS_PER_STEP))


def test_milestones_count_optimizer_steps(folder: Path, tokenizer: Tokenizer) -> None:
    milestones = [{"step": 2, "weights": {"b": 1}}, {"step": 3, "weights": {"a": 3, "b": 1}}]
    sources = {
        "a": {"path": str(folder / "a.txt"), "division": "line"},
        "b": {"path": str(folder / "b.txt"), "division": "line", "weight": 0},
    }
    data = prepared(settings(folder, sources=sources, milestones=milestones), folder, tokenizer)
    assert [given(data, step) for step in range(5)] == [
        {"a": 4},
        {"a": 4},
        {"b": 4},
        {"a": 3, "b": 1},
        {"a": 3, "b": 1},
    ]


def test_a_milestone_at_the_first_step_replaces_the_weights_of_the_sources(
    folder: Path, tokenizer: Tokenizer
) -> None:
    milestones = [{"step": 0, "weights": {"b": 1}}, {"step": 1, "weights": {"a": 1, "b": 1}}]
    data = prepared(settings(folder, milestones=milestones), folder, tokenizer)
    assert [given(data, 0), given(data, 1)] == [{"b": 4}, {"a": 2, "b": 2}]


def test_weights_may_change_evenly(folder: Path, tokenizer: Tokenizer) -> None:
    milestones = [{"step": 0, "weights": {"a": 1}}, {"step": 8, "weights": {"b": 1}}]
    data = prepared(settings(folder, milestones=milestones, change="linear"), folder, tokenizer)
    shares = [given(data, step).get("b", 0) for step in range(9)]
    assert shares[0] == 0
    assert shares[-1] == ROWS_PER_STEP
    assert sum(shares[:8]) == 8 * ROWS_PER_STEP / 2


@pytest.mark.parametrize("steps", [[3, 2], [2, 2], [-1]])
def test_milestones_stand_in_the_order_of_their_steps(folder: Path, steps: list[int]) -> None:
    milestones = [{"step": step, "weights": {"a": 1}} for step in steps]
    with pytest.raises(TrainingError, match="data: milestones begin at the steps"):
        settings(folder, milestones=milestones)


@pytest.mark.parametrize("packing", ["best_fit", "concat"])
def test_validation_may_be_a_path_of_its_own(
    folder: Path, tokenizer: Tokenizer, packing: str
) -> None:
    """It is read line by line, as the source is: two lines were a single document otherwise."""
    data = prepared(
        settings(folder, "a", validation=str(folder / "v.txt")), folder, tokenizer, packing
    )
    assert data.validation is not None
    assert letters_of(data.validation, tokenizer) == {"v"}
    assert Shards.open(folder / "run" / "validation").num_documents == len(stories("v"))
    assert data.summary.startswith("a: ")
    assert "validation" not in data.summary


def test_a_share_is_held_out_of_each_source(folder: Path, tokenizer: Tokenizer) -> None:
    data = prepared(settings(folder, validation=0.25), folder, tokenizer)
    assert data.validation is not None
    assert len(data.validation) == 2 * 24 * 0.25
    assert letters_of(data.validation, tokenizer) == {"a", "b"}


@pytest.fixture
def shards(folder: Path, tokenizer: Tokenizer) -> Shards:
    return tokenize_texts(stories("c"), tokenizer, folder / "shards")


@pytest.mark.parametrize("packing", ["best_fit", "concat"])
def test_token_shards_are_a_source_as_they_are(
    folder: Path, tokenizer: Tokenizer, shards: Shards, packing: str
) -> None:
    sources = {"c": {"path": str(shards.folder)}}
    data = prepared(settings(folder, sources=sources), folder, tokenizer, packing)
    assert set(tokenizer.decode(data.stream[0]["ids"].tolist())) == {"c", "\n"}
    assert not (folder / "run" / "c").exists()
    assert not (folder / "run" / "c.texts.jsonl").exists()


def test_token_shards_may_be_what_is_held_out(
    folder: Path, tokenizer: Tokenizer, shards: Shards
) -> None:
    data = prepared(settings(folder, validation=str(shards.folder)), folder, tokenizer)
    assert data.validation is not None
    assert letters_of(data.validation, tokenizer) == {"c"}


def test_shards_of_another_tokenizer_are_refused(folder: Path, shards: Shards) -> None:
    sources = {"c": {"path": str(shards.folder)}}
    other = train_tokenizer(["xyz"], LETTERS)
    with pytest.raises(CorpusError, match="written with another vocabulary"):
        prepared(settings(folder, sources=sources), folder, other)


def test_a_tokenizer_is_not_learned_from_tokens(folder: Path, shards: Shards) -> None:
    sources = {
        "a": {"path": str(folder / "a.txt")},
        "c": {"path": str(shards.folder)},
    }
    making = preparation(settings(folder, sources=sources), folder)
    says = r"data\.sources\.c\.path is .* holds tokens, and"
    with pytest.raises(TrainingError, match=says) as told:
        making.tokenizer(LETTERS)
    assert str(shards.folder / "tokenizer") in str(told.value)
    assert not (folder / "run").exists()


def test_sentence_pairs_are_not_made_of_tokens(
    folder: Path, tokenizer: Tokenizer, shards: Shards
) -> None:
    data = settings(folder, sources={"c": {"path": str(shards.folder)}})
    with pytest.raises(TrainingError, match=r"holds tokens, and .* best_fit or concat"):
        prepared(data, folder, tokenizer, "sentence_pairs")


def test_a_source_that_is_not_there_is_named(
    folder: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PHAROS_DATA", str(folder / "nowhere"))
    data = settings(folder / "nowhere")
    says = r"data\.sources\.a\.path is .*a\.txt, and there is no such file .* \$PHAROS_DATA is set"
    with pytest.raises(TrainingError, match=says):
        prepared(data, folder, tokenizer)
