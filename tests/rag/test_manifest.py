import json
from pathlib import Path

import pytest

from pharos.core import LibraryError
from pharos.rag.manifest import Manifest


def manifest(**changes: object) -> Manifest:
    fields = {"encoder": "hash-64", "dim": 64, "versions": {"documents": 3}} | changes
    return Manifest(**fields)  # type: ignore[arg-type]


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    written = manifest(reader_sets={'["public"]': 7}, passages=7, generation=2)
    written.write(tmp_path)
    assert Manifest.read(tmp_path) == written


def test_an_absent_manifest_is_none(tmp_path: Path) -> None:
    assert Manifest.read(tmp_path) is None


def test_a_half_written_new_manifest_does_not_hide_the_old_one(tmp_path: Path) -> None:
    manifest(passages=1).write(tmp_path)
    (tmp_path / "manifest.json.new").write_text('{"encoder": "ha')
    read = Manifest.read(tmp_path)
    assert read is not None
    assert read.passages == 1


def test_another_format_is_refused_with_the_way_out(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text(json.dumps({"format": 99}))
    with pytest.raises(LibraryError, match=r"format 99.*ingest"):
        Manifest.read(tmp_path)


def test_a_damaged_manifest_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(LibraryError, match=r"manifest\.json cannot be read"):
        Manifest.read(tmp_path)


def test_another_encoder_is_refused_by_both_names() -> None:
    with pytest.raises(LibraryError, match="hash-64, not hash-8"):
        manifest().require_encoder("hash-8", 8)
