"""Texts from files of any kind, one after another and never all at once.

| file | texts |
|---|---|
| `.jsonl`, `.ndjson`, gzipped or not | one a line: its field `text` |
| `.parquet` | one a row: its column `text` |
| `.txt`, gzipped or not, in UTF-8 | the file, each of its lines, or each of its paragraphs |
| what `data.parsing` reads (PDF, DOCX, HTML, …) | the document; parsed in worker processes |

What cannot be read becomes a failure with its reason, and the next file is read.
"""

import gzip
import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import IO, Literal, get_args

from pharos.core import DocumentError
from pharos.data.discover import SourceFile, discover
from pharos.data.workers import run_isolated

Division = Literal["file", "line", "paragraph"]
MAX_LINE_BYTES = 1 << 28
_ROWS_AT_ONCE = 256


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceConfig:
    """`text_field` is the field of JSON lines and the column of Parquet files that hold the text;
    `division` is what one text of a plain text file is."""

    text_field: str = "text"
    division: Division = "file"

    def __post_init__(self) -> None:
        if not self.text_field:
            raise ValueError("text_field is empty; name the field that holds the text")
        if self.division not in get_args(Division):
            raise ValueError(
                f"division is {self.division!r}; choose from {', '.join(get_args(Division))}"
            )


@dataclass(slots=True)
class TextSource:
    """The texts of all files that `paths` name, in the order of the files' names. `bytes_read` of
    `bytes_total` tells how far it is; `failures` are (source, reason)."""

    paths: Iterable[str | Path]
    config: SourceConfig = field(default_factory=SourceConfig)
    workers: int = 1
    failures: list[tuple[str, str]] = field(default_factory=list)
    bytes_read: int = 0
    bytes_total: int = 0

    def __iter__(self) -> Iterator[str]:
        found = discover(self.paths)
        self.failures[:] = found.failures
        self.bytes_read, self.bytes_total = 0, sum(file.size for file in found.files)
        for reader, files in groupby(found.files, key=lambda file: _reader_of(file.path)):
            if reader is None:
                yield from self._parsed(files)
                continue
            for file in files:
                yield from self._read(reader, file)

    def _parsed(self, files: Iterable[SourceFile]) -> Iterator[str]:
        outcomes = run_isolated(_parse, files, workers=self.workers)
        with closing(outcomes):  # type: ignore[type-var]
            for outcome in outcomes:
                self.bytes_read += outcome.item.size
                if outcome.value is None:
                    self._fail(outcome.item, str(outcome.error))
                else:
                    yield outcome.value

    def _read(self, reader: "Reader", file: SourceFile) -> Iterator[str]:
        before = self.bytes_read
        try:
            for text, position in reader(file.path, self.config):
                self.bytes_read = before + min(position, file.size)
                yield text
        except (DocumentError, EOFError, gzip.BadGzipFile, UnicodeDecodeError) as error:
            self._fail(file, str(error))
        except OSError as error:
            self._fail(file, f"cannot be read: {error.strerror or error}")
        self.bytes_read = before + file.size

    def _fail(self, file: SourceFile, reason: str) -> None:
        self.failures.append((file.source, reason))


Reader = Callable[[Path, SourceConfig], Iterator[tuple[str, int]]]
"""The texts of a file, each with how many bytes of it were read."""


def _reader_of(path: Path) -> Reader | None:
    suffixes = [suffix.lower() for suffix in path.suffixes]
    kind = (
        suffixes[-2] if suffixes[-1:] == [".gz"] and len(suffixes) > 1 else "".join(suffixes[-1:])
    )
    return _READERS.get(kind)


def _parse(file: SourceFile) -> str:
    from pharos.data.parsing import parse  # a machine that only trains has no parsers

    return parse(file.path, source=file.source).text


def _json_lines(path: Path, config: SourceConfig) -> Iterator[tuple[str, int]]:
    for number, (line, position) in enumerate(_lines(path), start=1):
        if not line.isspace():
            yield _field(line, config.text_field, number), position


def _field(line: str, name: str, number: int) -> str:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DocumentError(f"line {number} is no JSON ({error}); mend or remove it") from None
    text = value.get(name) if isinstance(value, dict) else None
    if not isinstance(text, str):
        has = ", ".join(map(repr, value)) if isinstance(value, dict) else type(value).__name__
        raise DocumentError(
            f"line {number} has no text in the field {name!r} (it has {has[:200]}); name the field "
            "that holds it"
        )
    return text


def _parquet(path: Path, config: SourceConfig) -> Iterator[tuple[str, int]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            names = file.schema_arrow.names
            if config.text_field not in names:
                raise DocumentError(
                    f"has no column {config.text_field!r}; its columns are {', '.join(names)}"
                )
            size, done = path.stat().st_size, 0
            for batch in file.iter_batches(_ROWS_AT_ONCE, columns=[config.text_field]):
                done += len(batch)
                for text in batch.column(0).to_pylist():
                    if isinstance(text, str):
                        yield text, size * done // max(file.metadata.num_rows, 1)
    except pa.ArrowException as error:
        raise DocumentError(f"is not a Parquet file that can be read: {error}") from error


def _plain(path: Path, config: SourceConfig) -> Iterator[tuple[str, int]]:
    if config.division == "file":
        with _opened(path) as (file, raw):
            yield _decoded(file.read(), 1), raw.tell()
    elif config.division == "line":
        yield from _lines(path)
    else:
        for is_blank, lines in groupby(_lines(path), key=lambda item: item[0].isspace()):
            if not is_blank:
                joined = list(lines)
                yield "".join(line for line, _ in joined), joined[-1][1]


def _lines(path: Path) -> Iterator[tuple[str, int]]:
    """The lines of a text in UTF-8, each with its end."""
    with _opened(path) as (file, raw):
        number = 0
        while line := file.readline(MAX_LINE_BYTES + 1):
            number += 1
            if len(line) > MAX_LINE_BYTES:
                raise DocumentError(f"line {number} is longer than {MAX_LINE_BYTES:,} bytes")
            yield _decoded(line, number), raw.tell()


def _decoded(data: bytes, line: int) -> str:
    try:
        return data.decode("utf-8-sig" if line == 1 else "utf-8")
    except UnicodeDecodeError as error:
        number = line + data.count(b"\n", 0, error.start)
        raise DocumentError(
            f"line {number} is not UTF-8 ({error.reason}); convert the file, with iconv for example"
        ) from None


@contextmanager
def _opened(path: Path) -> Iterator[tuple[IO[bytes], IO[bytes]]]:
    """What a file holds, unpacked, and the file itself, whose position tells how far one is."""
    with path.open("rb") as raw:
        if path.suffix.lower() == ".gz":
            with gzip.GzipFile(fileobj=raw) as unpacked:
                yield unpacked, raw  # type: ignore[misc]
        else:
            yield raw, raw


_READERS: dict[str, Reader] = {
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
    ".parquet": _parquet,
    ".txt": _plain,
}
