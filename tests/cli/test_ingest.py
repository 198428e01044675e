import io
import json

import pytest

from pharos import Library


def test_the_report_names_duplicates_and_failures_with_their_reasons(
    pharos, manuals, tmp_path
) -> None:
    folder = tmp_path / "x.library"
    run = pharos("ingest", manuals, "--library", folder)
    assert run.code == 0
    assert run.out.startswith("4 added in ")
    assert "left out as duplicates (1):" in run.out
    assert "copy-of-backup.md" in run.out
    assert "broken.pdf: " in run.out
    again = pharos("ingest", manuals, "--library", folder)
    assert "4 unchanged" in again.out


def test_json_is_the_report(pharos, manuals, tmp_path) -> None:
    run = pharos("ingest", manuals, "--library", tmp_path / "x.library", "--json")
    report = json.loads(run.out)
    assert report["documents"] == 3
    assert [item["kind"] for item in report["duplicates"]] == ["exact"]
    assert [item["source"].rpartition("/")[2] for item in report["failures"]] == ["broken.pdf"]


def test_prune_removes_documents_whose_files_are_gone(pharos, tmp_path) -> None:
    docs, folder = tmp_path / "docs", tmp_path / "x.library"
    docs.mkdir()
    for name in ("here", "gone"):
        (docs / f"{name}.md").write_text(f"# {name}\n\nThe file called {name} is a short one.\n")
    pharos("ingest", docs, "--library", folder)
    (docs / "gone.md").unlink()
    pharos("ingest", docs, "--library", folder)
    assert len(Library.open(folder).documents()) == 2
    run = pharos("ingest", docs, "--library", folder, "--prune")
    assert "1 removed" in run.out
    assert len(Library.open(folder).documents()) == 1


def test_standard_input_is_a_document(pharos, tmp_path, monkeypatch) -> None:
    stdin = io.TextIOWrapper(io.BytesIO(b"The beacon is lit at dusk by the second watchman.\n"))
    monkeypatch.setattr("sys.stdin", stdin)
    run = pharos("ingest", "-", "--library", tmp_path / "x.library")
    assert run.code == 0
    assert "1 added" in run.out


def test_the_library_is_where_the_environment_says(pharos, manuals, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("PHAROS_LIBRARY", str(tmp_path / "named.library"))
    pharos("ingest", manuals / "roles.md")
    assert len(Library.open(tmp_path / "named.library", create=False).documents()) == 1


def test_if_no_file_could_be_read_it_is_a_failure(pharos, manuals, tmp_path) -> None:
    folder = tmp_path / "x.library"
    run = pharos("ingest", manuals / "broken.pdf", "--library", folder)
    assert run.code == 1
    assert "broken.pdf: " in run.out
    assert pharos("ingest", manuals / "roles.md", "--library", folder).code == 0
    run = pharos("ingest", tmp_path / "nowhere", "--library", folder)
    assert run.code == 1
    assert "nowhere: " in run.out
    run = pharos("ingest", manuals / "roles.md", tmp_path / "nowhere", "--library", folder)
    assert run.code == 0


def test_readers_change_only_if_a_group_is_named(pharos, manuals, tmp_path) -> None:
    folder, file = tmp_path / "x.library", manuals / "roles.md"

    def readers(*groups: str) -> tuple[str, ...]:
        assert pharos("ingest", file, "--library", folder, *groups).code == 0
        (record,) = Library.open(folder).documents()
        return record.groups

    assert readers() == ("public",)
    assert readers("--group", "legal", "--group", "audit") == ("audit", "legal")
    assert readers() == ("audit", "legal")
    run = pharos("ingest", file, "--library", folder, "--group", "public")
    assert "1 with other readers" in run.out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("-", "--prune"), "--prune is for folders"),
        (("-", "other.md"), "- stands alone"),
        (("docs", "--name", "foo"), "--name is for standard input"),
        (("docs", "--group", " "), "--group needs a name"),
    ],
)
def test_an_option_that_would_be_ignored_is_wrong_use(
    pharos, tmp_path, arguments: tuple[str, ...], says: str
) -> None:
    run = pharos("ingest", *arguments, "--library", tmp_path / "x.library")
    assert run.code == 2
    assert says in run.err
    assert not (tmp_path / "x.library").exists()


def test_interrupted_it_says_that_the_library_is_whole_and_how_to_go_on(
    pharos, manuals, tmp_path, monkeypatch
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Library, "ingest", interrupted)
    run = pharos("ingest", manuals, "--library", tmp_path / "x.library")
    assert run.code == 130
    assert "whole" in run.err
    assert "same command" in run.err


def test_a_place_where_no_library_can_be_is_one_line(pharos, manuals) -> None:
    run = pharos("ingest", manuals, "--library", manuals / "roles.md" / "x.library")
    assert run.code == 1
    assert len(run.err.splitlines()) == 1


def test_a_library_in_the_folder_it_is_made_of_does_not_take_in_itself(
    pharos, tmp_path, monkeypatch
) -> None:
    (tmp_path / "note.md").write_text("# Note\n\nThe beacon is lit at dusk.\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PHAROS_LIBRARY", raising=False)
    assert "1 added" in pharos("ingest", ".").out
    assert "1 unchanged" in pharos("ingest", ".").out
