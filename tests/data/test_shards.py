"""Shards give back what was written, or say which file is at fault."""

import errno
import json
import os
import pickle
from collections.abc import Callable
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pharos.core import CorpusError
from pharos.data.shard_index import ShardIndex
from pharos.data.shard_writer import ShardWriter
from pharos.data.shards import Shards, split
from pharos.data.tokenizer import Tokenizer
from pharos.data.train_tokenizer import TokenizerConfig, train_tokenizer

TOKENIZER = train_tokenizer(["the lamp"], TokenizerConfig(vocab_size=260))
OTHER = train_tokenizer(["the lamp"], TokenizerConfig(vocab_size=260, special_tokens=("<x>",)))
DOCUMENTS = st.lists(st.lists(st.integers(0, 255), max_size=9), min_size=1, max_size=12)


def write(
    folder: Path,
    documents: list[list[int]],
    *,
    tokens_per_shard: int = 10,
    tokenizer: Tokenizer = TOKENIZER,
) -> Shards:
    with ShardWriter(folder, tokenizer, settings={}, tokens_per_shard=tokens_per_shard) as writer:
        for ids in documents[writer.index.num_documents :]:
            writer.write(ids, str(ids))
        return writer.finish()


def everything(shards: Shards) -> list[list[int]]:
    return [shards.document(i).tolist() for i in range(shards.num_documents)]


@settings(deadline=None)  # it waits for the disk
@given(documents=DOCUMENTS, limit=st.integers(1, 20), data=st.data())
def test_documents_and_stretches_of_tokens_are_those_written(
    documents: list[list[int]],
    limit: int,
    data: st.DataObject,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    shards = write(tmp_path_factory.mktemp("shards") / "x", documents, tokens_per_shard=limit)
    joined = list(chain(*documents))
    assert everything(shards) == documents
    assert shards.lengths.tolist() == [len(ids) for ids in documents]
    assert (len(shards), shards.num_tokens) == (len(documents), len(joined))
    start = data.draw(st.integers(0, len(joined)))
    stop = data.draw(st.integers(start, len(joined)))
    found = shards.tokens(start, stop)
    assert (found.tolist(), found.dtype) == (joined[start:stop], np.int32)


@settings(deadline=None)  # it waits for the disk
@given(documents=DOCUMENTS, data=st.data())
def test_a_selection_is_like_shards_of_its_documents_alone(
    documents: list[list[int]], data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    numbers = data.draw(st.lists(st.integers(0, len(documents) - 1), max_size=9))
    shards = write(tmp_path_factory.mktemp("shards") / "x", documents).select(numbers)
    chosen = [documents[number] for number in numbers]
    joined = list(chain(*chosen))
    assert everything(shards) == chosen
    start = data.draw(st.integers(0, len(joined)))
    assert shards.tokens(start, len(joined)).tolist() == joined[start:]
    assert shards.tokens(0, start).tolist() == joined[:start]


def test_what_is_outside_is_an_error(tmp_path: Path) -> None:
    shards = write(tmp_path / "x", [[1, 2], [3]])
    assert shards.document(-1).tolist() == [3]
    with pytest.raises(IndexError):
        shards.document(2)
    with pytest.raises(IndexError, match="of 3 were asked for"):
        shards.tokens(2, 4)


@given(st.integers(1, 60), st.sampled_from([0.01, 0.1, 0.5]), st.integers(0, 2**64 - 1))
def test_a_split_holds_out_the_share_and_loses_nothing(count: int, share: float, seed: int) -> None:
    lengths = np.full(count, 3)
    index = ShardIndex(dtype="uint16", vocab_size=9, fingerprint="", settings={})
    whole = Shards(Path("nowhere"), index, np.cumsum(lengths) - lengths, lengths)
    train, held_out = split(whole, share, seed=seed)
    assert train.num_tokens + held_out.num_tokens == whole.num_tokens
    by_documents = 3 * round(share * count)
    assert abs(held_out.num_tokens - (by_documents or 3 * share * count)) <= 1


def test_a_split_is_the_same_each_time_and_another_with_another_seed(tmp_path: Path) -> None:
    shards = write(tmp_path / "x", [[number] for number in range(200)])
    train, held_out = split(shards, 0.1)
    assert sorted(everything(train) + everything(held_out)) == everything(shards)
    assert everything(split(Shards.open(tmp_path / "x"), 0.1)[1]) == everything(held_out)
    assert everything(split(shards, 0.1, seed=1)[1]) != everything(held_out)


def test_of_one_long_document_the_tail_is_held_out(tmp_path: Path) -> None:
    shards = write(tmp_path / "x", [list(range(100))])
    train, held_out = split(shards, 0.1)
    assert everything(train) == [list(range(90))]
    assert everything(held_out) == [list(range(90, 100))]
    assert held_out.tokens(3, 5).tolist() == [93, 94]
    for share in (0, 1, -0.1):
        with pytest.raises(ValueError, match="between 0 and 1"):
            split(shards, share)


def test_a_copy_for_another_process_maps_the_files_anew(tmp_path: Path) -> None:
    shards = write(tmp_path / "x", [list(range(200))] * 300, tokens_per_shard=20_000)
    shards.tokens(0, 60_000)
    pickled = pickle.dumps(shards)
    assert len(pickled) < 10_000
    assert pickle.loads(pickled).document(299).tolist() == list(range(200))


def test_ids_take_two_bytes_where_they_fit(tmp_path: Path) -> None:
    shards = write(tmp_path / "x", [[1, 2, 3]])
    assert shards.index.dtype == "uint16"
    assert np.fromfile(tmp_path / "x" / "00000.bin", "<u2").tolist() == [1, 2, 3]


def test_large_vocabularies_take_four_bytes(tmp_path: Path) -> None:
    from tokenizers import Tokenizer as Backend
    from tokenizers.models import WordLevel

    vocabulary = {str(number): number for number in range(65_537)}
    large = Tokenizer(Backend(WordLevel(vocabulary, unk_token="0")))
    shards = write(tmp_path / "x", [[65_536, 0]], tokenizer=large)
    assert shards.index.dtype == "uint32"
    assert everything(shards) == [[65_536, 0]]


def test_a_writer_that_was_killed_is_gone_on_with_behind_its_complete_shards(
    tmp_path: Path,
) -> None:
    documents = [[number % 250] * (number % 7) for number in range(40)]
    expected = write(tmp_path / "whole", documents)
    for killed_after in (0, 1, 7, 25, 39):
        folder = tmp_path / f"killed-{killed_after}"
        with ShardWriter(folder, TOKENIZER, settings={}, tokens_per_shard=10) as writer:
            for ids in documents[:killed_after]:
                writer.write(ids, str(ids))
        with pytest.raises(CorpusError, match=r"not finished|no index\.json"):
            Shards.open(folder)
        assert write(folder, documents).index == expected.index
        assert {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()} == {
            p.name: p.read_bytes() for p in (tmp_path / "whole").iterdir() if p.is_file()
        }


def test_another_tokenizer_or_setting_does_not_go_on(tmp_path: Path) -> None:
    def begin(tokenizer: Tokenizer, limit: int) -> None:
        with ShardWriter(tmp_path, tokenizer, settings={}, tokens_per_shard=limit) as writer:
            writer.write([1, 2], "a")

    begin(TOKENIZER, 1)
    with pytest.raises(CorpusError, match="the tokenizer is another"):
        begin(OTHER, 1)
    with pytest.raises(CorpusError, match="tokens_per_shard was 1 and is 2"):
        begin(TOKENIZER, 2)


def test_one_writes_at_a_time_and_never_over_what_is_finished(tmp_path: Path) -> None:
    with (
        ShardWriter(tmp_path, TOKENIZER, settings={}),
        pytest.raises(CorpusError, match="another process"),
    ):
        ShardWriter(tmp_path, TOKENIZER, settings={})
    write(tmp_path, [[1]])
    with pytest.raises(CorpusError, match="holds token shards already"):
        write(tmp_path, [[2]])


def test_nothing_is_written_that_is_no_document_of_this_vocabulary(tmp_path: Path) -> None:
    with (
        ShardWriter(tmp_path, TOKENIZER, settings={}) as writer,
        pytest.raises(CorpusError, match="from 3 to 999"),
    ):
        writer.write([3, 999], "")
    with pytest.raises(CorpusError, match="no document"):
        write(tmp_path, [])
    with pytest.raises(ValueError, match="tokens_per_shard is 0"):
        write(tmp_path, [[1]], tokens_per_shard=0)


def test_the_tokenizer_comes_with_the_shards_and_no_other_is_taken(tmp_path: Path) -> None:
    shards = write(tmp_path / "x", [[1]])
    shards.require_tokenizer(shards.tokenizer())
    shards.require_tokenizer(TOKENIZER)
    with pytest.raises(CorpusError, match="another vocabulary"):
        shards.require_tokenizer(OTHER)


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def shuffle_ends(path: Path) -> None:
    np.fromfile(path, "<i8")[::-1].tofile(path)


def wrap_around(path: Path) -> None:
    np.array([2**63 - 1, 20], "<i8").tofile(path)


@pytest.mark.parametrize(
    ("name", "damage", "says"),
    [
        ("00000.bin", cut_short, "says 40"),
        ("00000.idx", cut_short, "says 16"),
        ("00001.bin", Path.unlink, "cannot be read"),
        ("00000.idx", shuffle_ends, "does not divide"),
        ("00000.idx", wrap_around, "does not divide"),
        ("index.json", cut_short, "index.json cannot be read as JSON"),
        ("index.json", lambda path: path.write_text("[]"), "must be a JSON object"),
        ("index.json", Path.unlink, "has no index.json"),
    ],
)
def test_a_damaged_file_is_named(
    tmp_path: Path, name: str, damage: Callable[[Path], object], says: str
) -> None:
    write(tmp_path, [[1] * 10, [2] * 10, [3] * 20], tokens_per_shard=20)
    damage(tmp_path / name)
    with pytest.raises(CorpusError, match=says):
        Shards.open(tmp_path)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (["format"], 2),
        (["dtype"], "float64"),
        (["dtype"], ["uint16"]),
        (["vocab_size"], 1 << 40),
        (["vocab_size"], "260"),
        (["vocab_size"], True),
        (["shards"], 7),
        (["shards"], [7]),
        (["shards", 0, "name"], "../../etc/passwd"),
        (["shards", 0, "name"], "00001"),
        (["shards", 0, "tokens"], -1),
        (["shards", 0, "tokens"], 1 << 60),
        (["shards", 0, "documents"], 1.0),
        (["shards", 0, "sha256"], None),
        (["surprise"], 1),
    ],
)
def test_a_hostile_index_is_refused(tmp_path: Path, path: list[str], value: object) -> None:
    write(tmp_path, [[1] * 10, [2] * 10], tokens_per_shard=10)
    content = json.loads((tmp_path / "index.json").read_text())
    place = content
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    (tmp_path / "index.json").write_text(json.dumps(content))
    with pytest.raises(CorpusError, match="build"):
        Shards.open(tmp_path)


def test_an_id_beyond_the_vocabulary_is_found_when_it_is_read(tmp_path: Path) -> None:
    shards = write(tmp_path, [[1, 2]])
    shards.check()
    np.array([1, 60_000], "<u2").tofile(tmp_path / "00000.bin")
    with pytest.raises(CorpusError, match="holds an id that"):
        Shards.open(tmp_path).document(0)
    with pytest.raises(CorpusError, match="SHA-256"):
        shards.check()


def test_a_full_disk_loses_no_complete_shard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    documents = [[number] * 10 for number in range(5)]

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with ShardWriter(tmp_path, TOKENIZER, settings={}, tokens_per_shard=20) as writer:
        for ids in documents[:3]:
            writer.write(ids, str(ids))
        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            writer.write(documents[3], str(documents[3]))
    monkeypatch.undo()
    assert everything(write(tmp_path, documents, tokens_per_shard=20)) == documents


def test_a_folder_that_is_none_is_told(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="is not a folder"):
        Shards.open(tmp_path / "nowhere")
