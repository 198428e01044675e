import os
import random
from pathlib import Path

import pytest

from pharos.data.discover import Discovery, discover, path_of


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "tree"
    for name in ("b.md", "a.txt", "sub/c.md", "sub/deep/d.rst", ".git/config", ".env"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    return root


def names(found: Discovery, root: Path) -> list[str]:
    return [str(Path(file.source).relative_to(root)) for file in found.files]


def test_a_folder_gives_its_files_sorted_and_without_the_hidden_ones(tree: Path) -> None:
    found = discover([tree])
    assert names(found, tree) == ["a.txt", "b.md", "sub/c.md", "sub/deep/d.rst"]
    assert found.failures == []


def test_what_is_named_is_taken_even_if_it_is_hidden(tree: Path) -> None:
    assert names(discover([tree / ".git", tree / ".env"]), tree) == [".env", ".git/config"]


def test_a_glob_gives_its_matches(tree: Path) -> None:
    assert names(discover([f"{tree}/**/*.md"]), tree) == ["b.md", "sub/c.md"]


def test_a_glob_takes_the_folders_that_it_matches(tree: Path) -> None:
    assert names(discover([f"{tree}/s*"]), tree) == ["sub/c.md", "sub/deep/d.rst"]


def test_a_glob_leaves_out_what_a_folder_would(tree: Path) -> None:
    (tree / "node_modules").mkdir()
    (tree / "node_modules" / "e.md").write_text("e")
    assert names(discover([f"{tree}/**/*.md", f"{tree}/n*"]), tree) == ["b.md", "sub/c.md"]
    assert names(discover([f"{tree}/node_modules/*.md"]), tree) == ["node_modules/e.md"]


def test_a_path_within_another_is_not_called_empty(tree: Path) -> None:
    assert discover([tree, tree / "sub", f"{tree}/*.md", tree / "a.txt"]).failures == []


def test_a_file_whose_name_looks_like_a_glob_is_a_file(tree: Path) -> None:
    (tree / "what[1].md").write_text("x")
    assert names(discover([tree / "what[1].md"]), tree) == ["what[1].md"]


def test_a_glob_without_matches_is_said_to_have_none(tree: Path) -> None:
    assert discover([tree / "*.xyz"]).failures == [
        (f"{tree}/*.xyz", "no file matches this pattern")
    ]


def test_each_real_file_comes_once_under_its_smallest_name(tree: Path) -> None:
    (tree / "z.md").symlink_to(tree / "b.md")
    (tree / "again").symlink_to(tree / "sub")
    os.link(tree / "a.txt", tree / "hard.txt")
    shuffled = [tree, tree / "z.md", tree / "b.md", tree / "sub"]
    random.Random(1).shuffle(shuffled)
    found = discover(shuffled)
    assert len({(f.path.stat().st_dev, f.path.stat().st_ino) for f in found.files}) == len(
        found.files
    )
    assert {"b.md", "a.txt"} <= set(names(found, tree))
    assert {"z.md", "hard.txt"}.isdisjoint(names(found, tree))


def test_a_symlink_loop_ends_and_is_reported(tree: Path) -> None:
    (tree / "sub" / "loop").symlink_to(tree)
    found = discover([tree])
    assert [reason for _, reason in found.failures] == [
        "a symbolic link to a folder that it stands in; it is not followed"
    ]
    assert len(found.files) == 4


def test_a_link_to_itself_and_a_link_to_nothing_are_reported(tree: Path) -> None:
    (tree / "self").symlink_to("self")
    (tree / "nowhere").symlink_to("missing")
    reasons = {Path(source).name: reason for source, reason in discover([tree]).failures}
    assert reasons["nowhere"] == "a symbolic link to nothing"
    assert reasons["self"].startswith("cannot be read")


def test_a_missing_path_and_an_empty_folder_are_reported(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    reasons = dict(discover([tmp_path / "empty", tmp_path / "missing"]).failures)
    assert reasons == {
        str(tmp_path / "empty"): "no files in this folder",
        str(tmp_path / "missing"): "no such file or folder",
    }


def test_a_fifo_is_named_and_not_opened(tree: Path) -> None:
    os.mkfifo(tree / "pipe.txt")
    assert discover([tree]).failures == [
        (str(tree / "pipe.txt"), "not a file but a named pipe; it is not read")
    ]


def test_a_device_is_named_and_not_read() -> None:
    assert discover(["/dev/zero"]).failures == [
        ("/dev/zero", "not a file but a character device; it is not read")
    ]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every folder")
def test_an_unreadable_folder_is_reported_and_the_rest_found(tree: Path) -> None:
    (tree / "sub").chmod(0)
    found = discover([tree])
    (tree / "sub").chmod(0o755)
    assert names(found, tree) == ["a.txt", "b.md"]
    assert "cannot be read" in found.failures[0][1]


def test_a_name_that_is_no_text_gets_a_source_that_is(tree: Path) -> None:
    Path(os.fsdecode(os.fsencode(tree) + b"/caf\xe9.txt")).write_text("x")
    found = discover([tree])
    assert f"{tree}/caf\\xe9.txt" in {file.source for file in found.files}
    assert all(file.path.exists() for file in found.files)
    assert all(path_of(file.source) == file.path for file in found.files)


def test_a_relative_path_is_made_absolute(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tree)
    assert names(discover(["sub/../sub"]), tree) == ["sub/c.md", "sub/deep/d.rst"]


def test_size_and_time_are_those_of_the_file(tree: Path) -> None:
    os.utime(tree / "a.txt", ns=(5, 7_000_000_001))
    (file,) = discover([tree / "a.txt"]).files
    assert (file.size, file.mtime_ns) == (5, 7_000_000_001)


def test_a_library_among_the_documents_is_not_taken_for_documents(tree: Path) -> None:
    library = tree / "pharos.library"
    (library / "tables").mkdir(parents=True)
    for name in ("writer.lock", "manifest.json", "tables/documents.lance"):
        (library / name).write_text("not a document")
    found = discover([tree])
    assert names(found, tree) == ["a.txt", "b.md", "sub/c.md", "sub/deep/d.rst"]
    assert found.failures == []
