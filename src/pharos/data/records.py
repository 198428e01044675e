"""Records from files: JSON lines (also compressed by gzip), a JSON array, CSV, TSV, Parquet. A
record is a mapping from column to value."""

import csv
import gzip
import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pharos.core.errors import TrainingError

Record = Mapping[str, Any]


def read_records(path: Path) -> list[Record]:
    """All records of a file, of the kind its name says. Values of CSV and TSV are strings. Raises
    TrainingError naming file and line."""
    kind = "".join(path.suffixes[-2:]) if path.suffix.lower() == ".gz" else path.suffix
    reader = _READERS.get(kind.lower())
    if reader is None:
        raise TrainingError(
            f"{path} is not of a kind that is read as records; give it as {', '.join(_READERS)}"
        )
    if not path.is_file():
        raise TrainingError(f"{path} is not a file; check the path in the recipe")
    try:
        records = list(reader(path))
    except UnicodeDecodeError as error:
        raise TrainingError(
            f"{path} is not in UTF-8 ({error.reason}); convert it, with iconv for example"
        ) from error
    except (gzip.BadGzipFile, EOFError) as error:
        raise TrainingError(f"{path} is damaged ({error}); copy or download it again") from error
    if not records:
        raise TrainingError(f"{path} has no records")
    return records


def column(record: Record, name: str, number: int) -> Any:
    """A record's value. `number` is the record's, for the message."""
    if name not in record or record[name] is None:
        there = ", ".join(str(key) for key in record)
        raise TrainingError(f"record {number} has no {name!r}; it has {there}")
    return record[name]


def text_column(record: Record, name: str, number: int) -> str:
    value = column(record, name, number)
    if not isinstance(value, str):
        raise TrainingError(f"record {number}: {name} is {value!r}; it must be a text")
    return value


def _json_lines(path: Path) -> Iterator[Record]:
    is_packed = path.suffix.lower() == ".gz"
    with gzip.open(path, "rb") if is_packed else path.open("rb") as file:
        for number, line in enumerate(io.TextIOWrapper(file, encoding="utf-8-sig"), 1):
            if line.strip():
                yield _json_record(line, f"{path}, line {number}")


def _json_record(line: str, where: str) -> Record:
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        raise TrainingError(
            f"{where} is not JSON ({error.msg}); each line is an object by itself"
        ) from error
    if not isinstance(record, dict):
        raise TrainingError(f"{where} is {line.strip()[:40]!r}; each line must be a JSON object")
    return record


def _json_array(path: Path) -> Iterable[Record]:
    try:
        records = json.loads(path.read_text(encoding="utf-8-sig"))
    except json.JSONDecodeError as error:
        raise TrainingError(f"{path}, line {error.lineno} is not JSON ({error.msg})") from error
    if not isinstance(records, list) or not all(isinstance(each, dict) for each in records):
        raise TrainingError(f"{path} must be an array of objects; or name it .jsonl, one a line")
    return records


def _delimited(delimiter: str) -> Callable[[Path], Iterator[Record]]:
    def read(path: Path) -> Iterator[Record]:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, delimiter=delimiter, strict=True)
            try:
                for record in reader:
                    if None in record or None in record.values():
                        raise TrainingError(
                            f"{path}, line {reader.line_num} has another number of cells than the "
                            f"first line, which names {len(reader.fieldnames or ())} columns"
                        )
                    yield record
            except csv.Error as error:
                raise TrainingError(f"{path}, line {reader.line_num}: {error}") from error

    return read


def _parquet(path: Path) -> Iterable[Record]:
    try:
        import pyarrow.parquet as parquet  # only for those who have such files
    except ImportError as error:
        raise TrainingError(
            f"{path} is a Parquet file; `pip install pyarrow` to read it"
        ) from error
    records: list[Record] = parquet.read_table(path).to_pylist()
    return records


_READERS: dict[str, Callable[[Path], Iterable[Record]]] = {
    ".jsonl": _json_lines,
    ".csv": _delimited(","),
    ".tsv": _delimited("\t"),
    ".parquet": _parquet,
    ".json": _json_array,
    ".jsonl.gz": _json_lines,
}
