import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import pytest

from pharos.core import LockedError
from pharos.core.doubles import HashEmbedder
from pharos.rag.ingest import IngestConfig
from pharos.rag.library import Library
from pharos.rag.report import IngestProgress
from pharos.rag.store import Store

from .conftest import MakeLibrary

LONG = " ".join(f"word{i} is followed by word{i + 1} in sentence number {i}." for i in range(120))


def contents(library: Library) -> list[tuple[object, ...]]:
    """Everything that searching and answering see, in one order."""
    snapshot = library._store.snapshot()
    passages = snapshot.passages.search().to_list()
    documents = snapshot.documents.search().to_list()
    windows = snapshot.windows.search().to_list()
    return (
        sorted((r["id"], r["start"], r["end"], r["body"], r["readers"]) for r in passages)
        + sorted((r["source"], r["status"], r["duplicate_of"] or "", r["text"]) for r in documents)
        + sorted((r["passage_id"], tuple(r["vector"])) for r in windows)
    )


def sources(library: Library, status: str = "indexed") -> set[str]:
    return {Path(d.source).name for d in library.documents() if d.status == status}


def test_a_folder_becomes_searchable_documents(library: Library, docs: Path) -> None:
    report = library.ingest([docs])
    assert (report.added, report.failures, report.duplicates) == (3, [], [])
    assert report.documents == 3
    assert library.check() == []
    assert library.search("drop a role")[0].passage.source == str(docs / "roles.md")


def test_unchanged_files_are_skipped_without_being_parsed(library: Library, docs: Path) -> None:
    library.ingest([docs])
    seen: list[IngestProgress] = []
    report = library.ingest([docs], on_progress=seen.append)
    assert (report.added, report.changed, report.unchanged) == (0, 0, 3)
    assert max(progress.files_total for progress in seen) == 0


def test_a_touched_file_with_the_same_bytes_is_unchanged(library: Library, docs: Path) -> None:
    library.ingest([docs])
    os.utime(docs / "roles.md", ns=(1, 1))
    assert library.ingest([docs]).unchanged == 3


def test_a_changed_file_replaces_its_document(library: Library, docs: Path) -> None:
    library.ingest([docs])
    (docs / "roles.md").write_text("# Roles\n\nThe command REVOKE takes privileges away.\n")
    report = library.ingest([docs])
    assert (report.added, report.changed, report.unchanged) == (0, 1, 2)
    texts = {h.passage.text for h in library.search("role", k=50)}
    assert not any("DROP ROLE" in text for text in texts)
    assert library.check() == []


def test_a_file_that_is_gone_is_removed_only_with_prune(library: Library, docs: Path) -> None:
    library.ingest([docs])
    (docs / "roles.md").unlink()
    assert library.ingest([docs]).removed == 0
    assert "roles.md" in sources(library)
    assert library.ingest([docs], prune=True).removed == 1
    assert "roles.md" not in sources(library)
    assert library.check() == []


def test_prune_leaves_what_lies_elsewhere(library: Library, docs: Path) -> None:
    library.ingest([docs])
    (docs / "roles.md").unlink()
    library.ingest([docs / "guides"], prune=True)
    assert "roles.md" in sources(library)


def test_a_file_that_cannot_be_read_is_a_line_in_the_report(library: Library, docs: Path) -> None:
    (docs / "junk.txt").write_bytes(bytes(range(256)) * 8)
    (docs / "broken.pdf").write_bytes(b"%PDF-1.7\nnothing more")
    report = library.ingest([docs])
    assert {Path(f.source).name for f in report.failures} == {"junk.txt", "broken.pdf"}
    assert all(failure.reason for failure in report.failures)
    assert report.added == 3


def test_a_file_that_breaks_keeps_its_last_good_version(library: Library, docs: Path) -> None:
    library.ingest([docs])
    (docs / "roles.md").write_bytes(b"\x00\x01" * 500)
    report = library.ingest([docs])
    assert [Path(f.source).name for f in report.failures] == ["roles.md"]
    assert "roles.md" in sources(library)
    assert library.check() == []


def test_duplicates_are_left_out_and_reported(library: Library, docs: Path) -> None:
    (docs / "a.txt").write_text(LONG)
    (docs / "copy.txt").write_text(LONG)
    (docs / "nearly.txt").write_text(LONG.replace("word60 is", "word_sixty is"))
    report = library.ingest([docs])
    found = {(Path(d.source).name, d.kind) for d in report.duplicates}
    assert found == {("copy.txt", "exact"), ("nearly.txt", "near")}
    assert {Path(d.duplicate_of).name for d in report.duplicates} == {"a.txt"}
    assert sources(library, "duplicate") == {"copy.txt", "nearly.txt"}
    assert library.check() == []


def test_a_duplicate_comes_in_when_its_original_leaves(library: Library, docs: Path) -> None:
    (docs / "a.txt").write_text(LONG)
    (docs / "copy.txt").write_text(LONG)
    library.ingest([docs])
    (docs / "a.txt").unlink()
    library.ingest([docs], prune=True)
    assert "copy.txt" in sources(library)
    assert library.check() == []


def test_a_duplicate_comes_in_when_its_original_changes(library: Library, docs: Path) -> None:
    (docs / "a.txt").write_text(LONG)
    (docs / "copy.txt").write_text(LONG)
    library.ingest([docs])
    (docs / "a.txt").write_text("Something else altogether stands here now.")
    library.ingest([docs])
    assert {"a.txt", "copy.txt"} <= sources(library)
    assert library.check() == []


def test_a_duplicate_of_a_removed_document_comes_in_with_the_next_ingest(
    library: Library, docs: Path
) -> None:
    (docs / "a.txt").write_text(LONG)
    (docs / "copy.txt").write_text(LONG)
    library.ingest([docs])
    assert library.remove([str(docs / "a.txt")]) == 1
    library.ingest([docs / "guides"])
    assert "copy.txt" in sources(library)
    assert library.check() == []


def test_the_same_text_for_other_readers_is_no_duplicate(library: Library, docs: Path) -> None:
    (docs / "a.txt").write_text(LONG)
    library.ingest([docs])
    (docs.parent / "copy.txt").write_text(LONG)
    report = library.ingest([docs.parent / "copy.txt"], groups=["board"])
    assert report.duplicates == []
    found = library.search("word7", groups=["board"])
    assert {Path(hit.passage.source).name for hit in found} == {"copy.txt"}


def test_other_groups_for_the_same_file_replace_who_may_read_it(
    library: Library, docs: Path
) -> None:
    library.ingest([docs])
    library.ingest([docs / "roles.md"], groups=["admins"])
    assert all("roles.md" not in h.passage.source for h in library.search("role", k=50))
    assert "roles.md" in library.search("role", groups=["admins"])[0].passage.source
    assert library.check() == []


def test_without_groups_known_documents_keep_their_readers(library: Library, docs: Path) -> None:
    library.ingest([docs / "roles.md"], groups=["admins"])
    library.ingest([docs])
    (docs / "roles.md").write_text("# Roles\n\nThe command REVOKE takes privileges away.\n")
    report = library.ingest([docs])
    assert (report.changed, report.readers_changed) == (1, 0)
    assert all("roles.md" not in hit.passage.source for hit in library.search("REVOKE", k=50))
    assert library.search("REVOKE", groups=["admins"])


def test_readers_change_without_reading_the_file_again(library: Library, docs: Path) -> None:
    library.ingest([docs])
    report = library.ingest([docs], groups=["admins"])
    assert (report.readers_changed, report.unchanged, report.changed) == (3, 3, 0)
    assert library.search("role") == []
    assert library.check() == []


def test_readers_change_even_if_the_file_cannot_be_read_any_more(
    library: Library, docs: Path
) -> None:
    library.ingest([docs])
    (docs / "roles.md").write_bytes(b"\x00\x01" * 500)
    report = library.ingest([docs / "roles.md"], groups=["admins"])
    assert "keeps the text that it had" in report.failures[0].reason
    assert all("roles.md" not in hit.passage.source for hit in library.search("role", k=50))


def test_a_duplicate_comes_in_when_its_original_is_taken_from_its_readers(
    library: Library, docs: Path
) -> None:
    (docs / "a.txt").write_text(LONG)
    (docs / "copy.txt").write_text(LONG)
    library.ingest([docs])
    library.ingest([docs / "a.txt"], groups=["board"])
    public = {Path(hit.passage.source).name for hit in library.search("word7 is followed", k=50)}
    assert "copy.txt" in public
    assert "a.txt" not in public
    assert library.check() == []


def test_nothing_is_pruned_below_a_folder_that_is_not_there(library: Library, docs: Path) -> None:
    library.ingest([docs])
    docs.rename(docs.with_name("unmounted"))
    report = library.ingest([docs], prune=True)
    assert (report.removed, len(report.failures)) == (0, 1)
    assert len(sources(library)) == 3


def test_prune_follows_a_pattern(library: Library, docs: Path) -> None:
    pattern = str(docs / "*.md")
    (docs / "other.md").write_text("# Other\n\nAnother text.\n")
    library.ingest([pattern])
    (docs / "roles.md").unlink()
    assert library.ingest([pattern], prune=True).removed == 1
    assert sources(library) == {"other.md"}


def test_a_library_does_not_ingest_itself(library: Library, docs: Path) -> None:
    library.ingest([docs.parent])
    report = library.ingest([docs.parent])
    assert (report.added, report.unchanged, report.failures) == (0, 3, [])


def test_an_orphaned_document_that_is_no_file_comes_in_from_its_stored_text(
    library: Library, docs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (docs / "a.txt").write_text(LONG)
    library.ingest([docs])
    library.ingest_bytes(LONG.encode(), name="note.txt")
    assert sources(library, "duplicate") == {"note.txt"}
    (docs / "a.txt").write_text("Something else altogether stands here now.")
    monkeypatch.chdir(docs)
    (docs / "note.txt").write_text("A file that only has the same name.")
    library.ingest([docs / "a.txt"])
    assert library.document("note.txt").text.strip() == LONG
    assert "note.txt" in sources(library)
    assert library.check() == []


def test_many_duplicates_are_committed_in_parts(
    library: Library, docs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pharos.rag.ingest.GROUP_DOCUMENTS", 4)
    for i in range(10):
        (docs / f"copy{i}.txt").write_text(LONG)
    library.ingest([docs])
    assert library._store.snapshot().manifest.generation >= 4
    assert len(sources(library, "duplicate")) == 9


def test_other_chunking_reads_everything_again(library: Library, docs: Path) -> None:
    library.ingest([docs])
    chunking = IngestConfig().chunking
    config = IngestConfig(chunking=type(chunking)(target_tokens=64, max_tokens=128, min_tokens=8))
    assert library.ingest([docs], config=config).changed == 3
    assert library.check() == []


def test_an_empty_folder_is_said_to_be_empty(library: Library, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    report = library.ingest([tmp_path / "empty"])
    assert [failure.source for failure in report.failures] == [str(tmp_path / "empty")]


def test_bytes_become_a_document_of_their_own(library: Library) -> None:
    library.ingest_bytes(b"# Lamps\n\nThe lamp burns oil.\n", name="notes.md")
    assert library.document("notes.md").title == "Lamps"
    assert library.check() == []


def test_progress_ends_where_it_should(library: Library, docs: Path) -> None:
    seen: list[IngestProgress] = []
    library.ingest([docs], on_progress=seen.append)
    assert [seen[0].stage, seen[-1].stage] == ["discover", "index"]
    last = seen[-1]
    assert (last.files_done, last.bytes_done) == (last.files_total, last.bytes_total) != (0, 0)
    assert last.passages == library.stats().passages


def test_a_second_ingest_is_refused_while_one_is_writing(
    make_library: MakeLibrary, docs: Path, tmp_path: Path
) -> None:
    embedder = HashEmbedder(dim=256)
    with (
        Store(tmp_path / "library").writer(encoder=embedder.name, dim=embedder.dim),
        pytest.raises(LockedError, match="one writer at a time"),
    ):
        make_library().ingest([docs])


# Killed at any call that the job makes, and run again: the child counts the function calls in
# pharos.rag and kills itself at the one it was told.
CHILD = dedent(
    """
    import json, os, signal, sys
    from pharos.core.doubles import HashEmbedder
    from pharos.rag import ingest
    from pharos.rag.library import Library

    folder, docs, fatal = sys.argv[1], sys.argv[2], int(sys.argv[3])
    ingest.GROUP_WINDOWS = 6  # many commits even for a small corpus
    calls = 0

    def count(frame, event, argument):
        global calls
        if event in ("call", "return") and "/pharos/rag/" in frame.f_code.co_filename:
            calls += 1
            if calls == fatal:
                os.kill(os.getpid(), signal.SIGKILL)

    library = Library.open(folder, embedder=HashEmbedder(dim=256))
    sys.setprofile(count)
    report = library.ingest([docs], prune=True)
    sys.setprofile(None)
    print(json.dumps({"calls": calls, "added": report.added}))
    """
)


def run_child(library: Path, docs: Path, fatal: int = 0) -> dict[str, int] | None:
    """What the child reports, or None if it was killed."""
    command = [sys.executable, "-c", CHILD, str(library), str(docs), str(fatal)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode == -signal.SIGKILL:
        return None
    assert done.returncode == 0, done.stderr
    report: dict[str, int] = json.loads(done.stdout)
    return report


@pytest.mark.slow
def test_killed_at_any_moment_and_run_again_it_is_the_same_library(
    docs: Path, tmp_path: Path
) -> None:
    for i in range(12):
        (docs / f"manual{i:02}.md").write_text(f"# Manual {i}\n\n{LONG.replace('word', f'm{i}w')}")
    (docs / "copy.md").write_text((docs / "manual03.md").read_text())
    whole = run_child(tmp_path / "whole", docs)
    assert whole is not None
    expected = Library.open(tmp_path / "whole", embedder=HashEmbedder(dim=256))
    moments = random.Random(7).sample(range(1, whole["calls"]), 5)
    killed = Library.open(tmp_path / "killed", embedder=HashEmbedder(dim=256))
    deaths = 0
    for moment in [*moments, 0]:
        deaths += run_child(tmp_path / "killed", docs, fatal=moment) is None
    assert deaths >= 2
    assert killed.check() == []
    assert contents(killed) == contents(expected)
