import gzip
import json
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from pharos.core.errors import TrainingError
from pharos.data.records import read_records

RECORDS = [{"text": 'a "b", c', "label": "x"}, {"text": "zwei\nZeilen", "label": "y"}]


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8", newline="")
    return path


def test_each_kind_of_file_gives_the_same_records(tmp_path: Path) -> None:
    lines = "\n\n".join(json.dumps(record) for record in RECORDS)
    table = 'text|label\r\n"a ""b"", c"|x\r\n"zwei\nZeilen"|y\r\n'
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(RECORDS), tmp_path / "a.parquet")
    paths = [
        write(tmp_path / "a.jsonl", lines),
        write(tmp_path / "a.csv", "\ufeff" + table.replace("|", ",")),
        write(tmp_path / "a.TSV", table.replace("|", "\t")),
        tmp_path / "a.parquet",
    ]
    assert all(read_records(path) == RECORDS for path in paths)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", '{"a": 1}\n{"a": ', "a.jsonl, line 2 is not JSON"),
        ("a.jsonl", "[1]\n", "line 1 is '\\[1\\]'; each line must be a JSON object"),
        ("a.csv", "a,b\n1,2\n3\n", "line 3 has another number of cells than the first line"),
        ("a.csv", "a,b\n1,2,3\n", "line 2 has another number of cells"),
        ("a.csv", 'a,b\n1,"2\n', "unexpected end of data"),
        ("a.csv", "a,b\n", "has no records"),
        ("a.txt", "text", "give it as .jsonl, .csv, .tsv, .parquet"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(
    tmp_path: Path, name: str, content: str, message: str
) -> None:
    with pytest.raises(TrainingError, match=message):
        read_records(write(tmp_path / name, content))


def test_other_encodings_and_missing_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"a\n\xe9\n")
    with pytest.raises(TrainingError, match="not in UTF-8"):
        read_records(tmp_path / "a.csv")
    with pytest.raises(TrainingError, match="is not a file"):
        read_records(tmp_path / "b.csv")


def test_records_come_from_an_array_and_from_compressed_lines(tmp_path: Path) -> None:
    lines = b'{"a": "1"}\n{"a": "2"}\n'
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(lines))
    (tmp_path / "a.json").write_text('[{"a": "1"}, {"a": "2"}]')
    for name in ("a.jsonl.gz", "a.json"):
        assert read_records(tmp_path / name) == [{"a": "1"}, {"a": "2"}]
    (tmp_path / "cut.jsonl.gz").write_bytes(gzip.compress(lines)[:-9])
    with pytest.raises(TrainingError, match=r"cut\.jsonl\.gz is damaged"):
        read_records(tmp_path / "cut.jsonl.gz")
    (tmp_path / "b.json").write_text('{"a": 1}')
    with pytest.raises(TrainingError, match="must be an array of objects"):
        read_records(tmp_path / "b.json")
