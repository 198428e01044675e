"""A folder of whatever an ingest may meet: each file its own line, the rest in the library."""

import os
import zipfile
from pathlib import Path

import psutil
import pytest

from pharos.rag.library import Library
from pharos.rag.report import IngestProgress

GOOD = "# Lamps\n\nThe lamp is trimmed every evening before sunset.\n"


@pytest.fixture
def hostile(tmp_path: Path, corpus: dict[str, Path]) -> Path:
    folder = tmp_path / "hostile"
    folder.mkdir()
    (tmp_path / "empty").mkdir()
    (folder / "good.md").write_text(GOOD)
    (folder / "truncated.pdf").write_bytes(corpus["pdf"].read_bytes()[:700])
    (folder / "junk.txt").write_bytes(bytes(range(256)) * 64)
    (folder / "nothing.txt").write_text("")
    (folder / "vanishes.md").write_text(GOOD.replace("Lamps", "Gone"))
    (folder / "deep.html").write_text("<div>" * 100_000 + "It is deep down here." + "</div>")
    (folder / "loop").symlink_to(folder)
    os.mkfifo(folder / "pipe.md")
    with (folder / "zeros.txt").open("wb") as file:
        file.truncate(1 << 30)  # sparse: takes no room on the disk
    with zipfile.ZipFile(folder / "bomb.docx", "w", zipfile.ZIP_DEFLATED) as bomb:
        bomb.writestr("word/document.xml", b"<w>" + b"0" * 300_000_000)
    return folder


def test_each_hostile_file_has_its_line_and_the_rest_is_ingested(
    library: Library, hostile: Path
) -> None:
    def vanish(progress: IngestProgress) -> None:
        if progress.stage == "ingest":
            (hostile / "vanishes.md").unlink(missing_ok=True)

    before = psutil.Process().memory_info().rss
    report = library.ingest([hostile, hostile.parent / "empty"], on_progress=vanish)
    reasons = {Path(failure.source).name: failure.reason for failure in report.failures}
    for name, reason in {
        "truncated.pdf": "",
        "junk.txt": "binary",
        "nothing.txt": "empty",
        "vanishes.md": "",
        "loop": "symbolic link",
        "pipe.md": "named pipe",
        "zeros.txt": "200",
        "bomb.docx": "",
        "empty": "no files",
    }.items():
        assert reason in reasons.pop(name)
    assert reasons.keys() <= {"deep.html"}
    assert "good.md" in {Path(record.source).name for record in library.documents()}
    assert library.check() == []
    assert psutil.Process().memory_info().rss - before < 300 << 20


def test_a_document_cannot_pose_as_another(library: Library, tmp_path: Path) -> None:
    """Titles, headings and texts are data: what looks like a source or a filter stays text."""
    names = ["o'brien's \"file\".md", "a]b[c.md", "ünï☃.md", "--flag.md", "x;DROP TABLE.md"]
    for name in names:
        (tmp_path / name).write_text(f"# ') OR 1=1 --\n\nThe file {name} is about lamps.\n")
    report = library.ingest([tmp_path / name for name in names])
    assert (report.added, report.failures) == (len(names), [])
    for name in names:
        (hit,) = library.search("lamps", k=1, filters={"source": f"*{name.replace('[', '[[]')}"})
        assert Path(hit.passage.source).name == name
    assert library.remove([str(tmp_path / names[0])]) == 1
    assert library.check() == []


def test_a_name_that_is_no_text_can_be_ingested_skipped_and_pruned(
    library: Library, tmp_path: Path
) -> None:
    folder = tmp_path / "names"
    folder.mkdir()
    path = Path(os.fsdecode(os.fsencode(folder) + b"/caf\xe9.md"))
    path.write_text(GOOD)
    assert library.ingest([folder]).added == 1
    assert library.ingest([folder]).unchanged == 1
    assert library.ingest([folder], prune=True).removed == 0
    path.unlink()
    (folder / "other.md").write_text("# Other\n\nAnother text.\n")
    assert library.ingest([folder], prune=True).removed == 1
