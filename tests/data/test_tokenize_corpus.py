"""The shards are the texts in order, by however many workers and after however many kills."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from pharos.core import CorpusError, PharosError
from pharos.data import tokenize_corpus
from pharos.data.shards import Shards
from pharos.data.tokenize_corpus import Boundaries, batches, tokenize_texts
from pharos.data.tokenizer import Tokenizer
from pharos.data.train_tokenizer import TokenizerConfig, train_tokenizer

TEXTS = [f"The keeper lights lamp {number} at dusk; é 🗼" * (number % 4) for number in range(90)]
TOKENIZER = train_tokenizer(TEXTS, TokenizerConfig(vocab_size=300))
UNIGRAM = train_tokenizer(TEXTS, TokenizerConfig(kind="unigram", vocab_size=300))


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenize_corpus, "BATCH_CHARACTERS", 200)


def decoded(shards: Shards, tokenizer: Tokenizer = TOKENIZER) -> list[str]:
    return [tokenizer.decode(shards.document(i).tolist()) for i in range(len(shards))]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_every_text_is_a_document_that_ends_in_one_eos(tmp_path: Path) -> None:
    shards = tokenize_texts(TEXTS, TOKENIZER, tmp_path / "x")
    assert decoded(shards) == TEXTS
    for number in range(len(shards)):
        assert shards.document(number).tolist().count(TOKENIZER.eos_id) == 1
        assert shards.document(number)[-1] == TOKENIZER.eos_id


def test_the_template_of_a_tokenizer_is_not_applied_besides(tmp_path: Path) -> None:
    assert UNIGRAM.encode("a")[0] == UNIGRAM.bos_id
    boundaries = Boundaries.of(UNIGRAM, bos=True)
    shards = tokenize_texts(["lamp"], UNIGRAM, tmp_path / "x", boundaries=boundaries)
    ids = shards.document(0).tolist()
    assert (ids[0], ids[-1]) == (UNIGRAM.bos_id, UNIGRAM.eos_id)
    assert ids.count(UNIGRAM.bos_id) == ids.count(UNIGRAM.eos_id) == 1


def test_a_tokenizer_without_eos_marks_nothing_unless_asked_to(tmp_path: Path) -> None:
    bare = Tokenizer(TOKENIZER.backend)
    shards = tokenize_texts(["lamp", ""], bare, tmp_path / "x")
    assert shards.lengths[1] == 0
    assert decoded(shards) == ["lamp", ""]
    with pytest.raises(CorpusError, match="no eos token"):
        Boundaries.of(bare, eos=True)
    with pytest.raises(CorpusError, match="no bos token"):
        Boundaries.of(bare, bos=True)
    assert Boundaries.of(TOKENIZER, eos=False) == Boundaries()


def test_shards_do_not_depend_on_the_number_of_workers(tmp_path: Path) -> None:
    for workers in (1, 2, 3):
        tokenize_texts(
            TEXTS, TOKENIZER, tmp_path / str(workers), workers=workers, tokens_per_shard=300
        )
    one = contents(tmp_path / "1")
    assert "00002.bin" in one
    assert contents(tmp_path / "2") == contents(tmp_path / "3") == one


@pytest.mark.parametrize("killed_after", [0, 1, 20, 60, 89])
@pytest.mark.parametrize("workers", [1, 2])
def test_a_killed_job_goes_on_to_the_same_shards(
    tmp_path: Path, killed_after: int, workers: int
) -> None:
    def breaking() -> Iterator[str]:
        yield from TEXTS[:killed_after]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tokenize_texts(breaking(), TOKENIZER, tmp_path / "x", workers=workers, tokens_per_shard=300)
    seen: list[tuple[int, int]] = []
    shards = tokenize_texts(
        TEXTS,
        TOKENIZER,
        tmp_path / "x",
        tokens_per_shard=300,
        on_tokens=lambda *counts: seen.append(counts),
    )
    assert seen[-1] == (len(TEXTS), shards.num_tokens)
    tokenize_texts(TEXTS, TOKENIZER, tmp_path / "whole", tokens_per_shard=300)
    assert contents(tmp_path / "x") == contents(tmp_path / "whole")


def test_other_texts_do_not_go_on(tmp_path: Path) -> None:
    def breaking() -> Iterator[str]:
        yield from TEXTS[:60]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tokenize_texts(breaking(), TOKENIZER, tmp_path, tokens_per_shard=300)
    for others in (["new", *TEXTS], TEXTS[:3]):
        with pytest.raises(CorpusError, match="of an earlier run"):
            tokenize_texts(others, TOKENIZER, tmp_path, tokens_per_shard=300)


def test_a_text_that_the_vocabulary_cannot_write_is_an_error_from_workers_too(
    tmp_path: Path,
) -> None:
    characters = train_tokenizer(["abc"], TokenizerConfig(kind="characters"))
    for workers in (1, 2):
        with pytest.raises(PharosError, match="cannot encode"):
            tokenize_texts(["abd"], characters, tmp_path / str(workers), workers=workers)


def test_batches_hold_all_texts_in_order() -> None:
    texts = ["a" * 150, "b" * 100, "c" * 900, "", "d"]
    assert list(batches(texts)) == [["a" * 150], ["b" * 100], ["c" * 900], ["", "d"]]
