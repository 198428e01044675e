import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from pharos.core import Document, IntegrityError, LibraryError, LockedError, Passage
from pharos.core.doubles import HashEmbedder
from pharos.rag.check import problems
from pharos.rag.schema import Batch, IndexedPassage, structure_columns
from pharos.rag.store import Snapshot, Store, Writer

EMBEDDER = HashEmbedder(dim=16)
PUBLIC = '["public"]'


def batch_of(names: Iterable[str], text: str = "a lamp on a tower", readers: str = PUBLIC) -> Batch:
    """A commit that puts one-passage documents of these names, replacing those of the same name."""
    batch = Batch()
    for name in names:
        batch.remove.add(name)
        batch.documents.append(document_row(name, text, readers))
        passage = Passage(
            id=f"{name}-0",
            document_id=name,
            source=name,
            title=name,
            headings=(),
            page=None,
            start=0,
            end=len(text),
            text=text,
        )
        vectors = EMBEDDER.embed([text])
        batch.passages.append(
            (IndexedPassage(passage=passage, prefix=name, vectors=vectors), readers)
        )
    return batch


def document_row(name: str, text: str, readers: str) -> dict[str, Any]:
    document = Document(source=name, title=name, text=text, format="text/plain")
    return {
        "id": name,
        "source": name,
        "title": name,
        "format": "text/plain",
        "metadata": "{}",
        "readers": readers,
        "status": "indexed",
        "num_passages": 1,
        **structure_columns(document),
    }


def write(store: Store, batch: Batch) -> None:
    with open_writer(store) as writer:
        writer.commit(batch)


def open_writer(store: Store) -> Any:
    return store.writer(encoder=EMBEDDER.name, dim=EMBEDDER.dim)


def held(snapshot: Snapshot) -> set[str]:
    return {row["id"] for row in snapshot.documents.search().select(["id"]).to_list()}


def test_a_commit_is_seen_by_a_reader_that_was_open_before(tmp_path: Path) -> None:
    store, reader = Store(tmp_path), Store(tmp_path)
    write(store, batch_of(["a"]))
    assert held(reader.snapshot()) == {"a"}
    write(store, batch_of(["b"]))
    assert held(reader.snapshot()) == {"a", "b"}


def test_a_snapshot_keeps_its_state_while_others_write(tmp_path: Path) -> None:
    store = Store(tmp_path)
    write(store, batch_of(["a"]))
    snapshot = store.snapshot()
    write(store, batch_of(["a", "b"], text="another text"))
    assert held(snapshot) == {"a"}
    assert list(problems(snapshot)) == []


def test_what_was_not_published_does_not_exist_and_is_undone_by_the_next_writer(
    tmp_path: Path,
) -> None:
    store = Store(tmp_path)
    write(store, batch_of(["a"]))
    with open_writer(store) as writer:
        kill_before_publishing(writer, batch_of(["a", "b"], text="lost"))
    assert held(store.snapshot()) == {"a"}
    write(store, batch_of(["c"]))
    assert held(store.snapshot()) == {"a", "c"}
    assert list(problems(store.snapshot())) == []


def kill_before_publishing(writer: Writer, batch: Batch) -> None:
    """Do a commit up to the moment before the manifest is replaced."""

    class KilledError(Exception):
        pass

    def die(*_: object) -> None:
        raise KilledError

    writer._publish = die  # type: ignore[method-assign]
    with pytest.raises(KilledError):
        writer.commit(batch)


def test_a_library_killed_while_it_was_made_is_made_anew(tmp_path: Path) -> None:
    write(Store(tmp_path), batch_of(["a"]))
    (tmp_path / "manifest.json").unlink()
    with pytest.raises(LibraryError, match="holds no library"):
        Store(tmp_path).snapshot()
    write(Store(tmp_path), batch_of(["b"]))
    assert held(Store(tmp_path).snapshot()) == {"b"}


def test_a_second_writer_is_refused_at_once_and_told_who_is_writing(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with open_writer(store), pytest.raises(LockedError, match=f"process {os.getpid()}"):
        open_writer(Store(tmp_path)).__enter__()


def test_the_lock_of_a_killed_writer_is_free(tmp_path: Path) -> None:
    program = (
        "import os, sys; from pathlib import Path; from pharos.rag.store import Store\n"
        "with Store(Path(sys.argv[1])).writer(encoder=sys.argv[2], dim=16):\n"
        "    os.kill(os.getpid(), 9)"
    )
    command = [sys.executable, "-c", program, str(tmp_path), EMBEDDER.name]
    assert subprocess.run(command, check=False).returncode == -9
    write(Store(tmp_path), batch_of(["a"]))


def test_another_encoder_cannot_write(tmp_path: Path) -> None:
    write(Store(tmp_path), batch_of(["a"]))
    with pytest.raises(LibraryError, match="hash-16, not other"):
        Store(tmp_path).writer(encoder="other", dim=16).__enter__()


def test_reading_an_absent_library_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(LibraryError, match="pharos ingest PATH --library"):
        Store(tmp_path).snapshot()


def test_indexing_changes_nothing_but_the_indexes(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for name in "abc":
        write(store, batch_of([name]))
    before = held(store.snapshot())
    with open_writer(store) as writer:
        writer.index()
    indexes = store.snapshot().passages.list_indices()
    assert [index.num_unindexed_rows for index in indexes] == [0] * len(indexes)
    assert held(store.snapshot()) == before
    assert list(problems(store.snapshot())) == []


def test_a_library_that_is_already_indexed_is_not_written_to(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with open_writer(store) as writer:
        writer.commit(batch_of("ab"))
        writer.index()
    before = (tmp_path / "manifest.json").stat().st_mtime_ns
    with open_writer(store) as writer:
        writer.index()
    assert (tmp_path / "manifest.json").stat().st_mtime_ns == before


def test_a_reader_that_a_clean_up_overtook_reads_the_new_snapshot(tmp_path: Path) -> None:
    store, reader = Store(tmp_path), Store(tmp_path)
    write(store, batch_of(["a"]))
    overtaken: list[Snapshot] = []

    def query(snapshot: Snapshot) -> set[str]:
        if not overtaken:
            overtaken.append(snapshot)
            write(store, batch_of(["b"]))
            raise RuntimeError("Not found: data of a version that was cleaned up")
        return held(snapshot)

    assert reader.read(query) == {"a", "b"}


def test_damaged_tables_are_an_error_that_names_the_folder(tmp_path: Path) -> None:
    write(Store(tmp_path), batch_of(["a"]))
    for path in (tmp_path / "tables" / "documents.lance" / "data").iterdir():
        path.write_bytes(b"damaged")
    with pytest.raises(IntegrityError, match="restore the folder from a backup"):
        Store(tmp_path).read(lambda snapshot: snapshot.documents.to_arrow())


def test_a_missing_table_is_an_error_that_names_the_folder(tmp_path: Path) -> None:
    write(Store(tmp_path), batch_of(["a"]))
    shutil.rmtree(tmp_path / "tables" / "windows.lance")
    with pytest.raises(IntegrityError, match="cannot be read"):
        Store(tmp_path).snapshot()


def test_readers_change_in_every_table_at_once(tmp_path: Path) -> None:
    store = Store(tmp_path)
    write(store, batch_of("ab"))
    write(store, Batch(readers={"a": '["hr"]'}))
    snapshot = store.snapshot()
    assert list(problems(snapshot)) == []
    assert snapshot.manifest.reader_sets == {PUBLIC: 1, '["hr"]': 1}


class StoreMachine(RuleBasedStateMachine):
    """Commits, lost commits, indexing and reopening in any order: what was published is there."""

    names = st.lists(st.sampled_from("abcde"), min_size=1, max_size=3, unique=True)
    texts = st.sampled_from(["one text", "another text", "naïve ☃ text"])

    @initialize(folder=st.builds(lambda: __import__("tempfile").mkdtemp()))
    def make(self, folder: str) -> None:
        self.store = Store(Path(folder))
        self.expected: dict[str, str] = {}
        write(self.store, Batch(remove={"nothing"}))

    @rule(names=names, text=texts)
    def put(self, names: list[str], text: str) -> None:
        write(self.store, batch_of(names, text))
        self.expected |= dict.fromkeys(names, text)

    @rule(names=names)
    def remove(self, names: list[str]) -> None:
        write(self.store, Batch(remove=set(names)))
        for name in names:
            self.expected.pop(name, None)

    @rule(names=names, text=texts)
    def put_and_die(self, names: list[str], text: str) -> None:
        with open_writer(self.store) as writer:
            kill_before_publishing(writer, batch_of(names, text))

    @rule()
    def index(self) -> None:
        with open_writer(self.store) as writer:
            writer.index()

    @rule()
    def reopen(self) -> None:
        self.store = Store(self.store.folder)

    @invariant()
    def it_holds_what_was_published(self) -> None:
        snapshot = self.store.snapshot()
        rows = snapshot.documents.search().select(["id", "text"]).to_list()
        assert {row["id"]: row["text"] for row in rows} == self.expected
        assert list(problems(snapshot)) == []


StoreMachine.TestCase.settings = settings(max_examples=10, stateful_step_count=12, deadline=None)
TestStoreMachine = StoreMachine.TestCase
