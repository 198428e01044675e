"""Texts come from files of all kinds, in the order of their names; what fails is told."""

import gzip
import json
from pathlib import Path

import pytest

from pharos.data.text_sources import SourceConfig, TextSource

JSON_LINES = "".join(json.dumps({"text": f"json {i} é", "id": i}) + "\n" for i in range(3))


def write_parquet(path: Path, texts: list[str | None], column: str = "text") -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({column: texts, "id": list(range(len(texts)))}), path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "a.jsonl").write_text(JSON_LINES, encoding="utf-8")
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(JSON_LINES.encode()))
    (tmp_path / "c.md").write_text("# Roles\n\nA role is dropped.\n")
    write_parquet(tmp_path / "d.parquet", ["row 0", None, "row 2"])
    (tmp_path / "e.txt").write_bytes("\ufeffone\n\ntwo\nthree é\n\n\nfour".encode())
    (tmp_path / "f.txt.gz").write_bytes(gzip.compress(b"packed\n"))
    return tmp_path


def test_every_kind_of_file_is_read_in_order(folder: Path) -> None:
    source = TextSource([folder])
    lines = [f"json {i} é" for i in range(3)]
    rows = ["row 0", "row 2"]
    plain = ["one\n\ntwo\nthree é\n\n\nfour", "packed\n"]
    for _ in range(2):
        assert list(source) == [*lines, *lines, "# Roles\n\nA role is dropped.", *rows, *plain]
        assert source.failures == []
        assert source.bytes_read == source.bytes_total > 0


def test_parsed_documents_do_not_depend_on_the_number_of_workers(
    corpus: dict[str, Path],
) -> None:
    paths = sorted(corpus.values())
    one, three = TextSource(paths), TextSource(paths, workers=3)
    assert list(one) == list(three)
    assert one.failures == three.failures


@pytest.mark.parametrize(
    ("division", "texts"),
    [
        ("line", ["one\n", "\n", "two\n", "three é\n", "\n", "\n", "four"]),
        ("paragraph", ["one\n", "two\nthree é\n", "four"]),
    ],
)
def test_a_plain_text_is_divided_as_asked(folder: Path, division, texts: list[str]) -> None:
    assert list(TextSource([folder / "e.txt"], SourceConfig(division=division))) == texts


def test_the_field_with_the_text_may_have_another_name(tmp_path: Path) -> None:
    write_parquet(tmp_path / "a.parquet", ["row"], column="content")
    (tmp_path / "b.jsonl").write_text('\n{"content": "line", "text": 3}\n')
    config = SourceConfig(text_field="content")
    assert list(TextSource([tmp_path], config)) == ["row", "line"]


@pytest.mark.parametrize(
    ("name", "data", "says", "kept"),
    [
        ("x.jsonl", b'{"text": "ok"}\n{"text": \n', "line 2 is no JSON", ["ok"]),
        ("x.jsonl", b"[" * 100_000, "line 1 is no JSON", []),
        ("x.jsonl", b'{"body": "x"}\n', "no text in the field 'text' (it has 'body')", []),
        ("x.jsonl", b'{"text": null}\n', "no text in the field", []),
        ("x.jsonl", b"[1]\n", "it has list", []),
        ("x.txt", b"fine\ncaf\xe9\n", "line 2 is not UTF-8", []),
        ("x.txt.gz", gzip.compress(b"a" * 99_999)[:-20], "end-of-stream", []),
        ("x.txt.gz", b"no gzip", "gzip", []),
        ("x.parquet", b"PAR1 and nothing", "not a Parquet file", []),
        ("x.pdf", b"%PDF-1.7 and then nothing", "", []),
    ],
)
def test_what_cannot_be_read_is_told_and_passed(
    tmp_path: Path, name: str, data: bytes, says: str, kept: list[str]
) -> None:
    (tmp_path / name).write_bytes(data)
    (tmp_path / "z.jsonl").write_text('{"text": "next"}')
    source = TextSource([tmp_path])
    assert list(source) == [*kept, "next"]
    [(failed, reason)] = source.failures
    assert failed.endswith(name)
    assert says in reason
    assert source.bytes_read == source.bytes_total


def test_a_parquet_file_without_the_column_names_its_columns(tmp_path: Path) -> None:
    write_parquet(tmp_path / "a.parquet", ["x"], column="content")
    source = TextSource([tmp_path])
    assert list(source) == []
    assert "its columns are content, id" in source.failures[0][1]


def test_a_missing_path_is_a_failure(tmp_path: Path) -> None:
    source = TextSource([tmp_path / "nowhere"])
    assert list(source) == []
    assert "no such file" in source.failures[0][1]


def test_settings_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="choose from file, line, paragraph"):
        SourceConfig(division="page")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="text_field is empty"):
        SourceConfig(text_field="")
