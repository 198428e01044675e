"""Tables as text: a row a line, its cells parted by ` | `; CSV and TSV files."""

import csv
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import PurePath

from pharos.data.cleaning import clean_line, clean_text
from pharos.data.parsing.decoding import decode
from pharos.data.parsing.draft import Draft, Parsed, Raw
from pharos.data.parsing.text import parse_text

_SAMPLE_LINES = 50


def row_text(cells: Sequence[str]) -> str:
    """One row as a line; empty cells at its end are left out."""
    cleaned = [clean_line(cell) for cell in cells]
    while cleaned and not cleaned[-1]:
        cleaned.pop()
    return " | ".join(cleaned)


def add_table(draft: Draft, rows: Iterable[Sequence[str]], *, tight: bool = False) -> int | None:
    """Append a table as one block of lines and return where it starts; empty rows are left out.
    A `tight` table goes on with the one before it."""
    first: int | None = None
    for row in rows:
        start = draft.add(row_text(row), separator="\n" if tight else "\n\n")
        if start is not None:
            tight = True
            first = start if first is None else first
    return first


def parse_delimited(raw: Raw) -> Parsed:
    """A CSV or TSV file; one that does not hold together as a table is read as plain text."""
    lines = clean_text(decode(raw.data)).split("\n")
    delimiter = _delimiter(lines, tab_first=PurePath(raw.name).suffix.lower() == ".tsv")
    draft = Draft(raw.limits)
    try:
        add_table(draft, csv.reader((line + "\n" for line in lines), delimiter=delimiter))
    except csv.Error:  # an unclosed quote swallows what follows it
        return parse_text(raw)
    return draft.finish()


def _delimiter(lines: Sequence[str], *, tab_first: bool) -> str:
    """The character that parts most lines into the same number of cells."""
    sample = [line for line in lines[: _SAMPLE_LINES * 2] if line][:_SAMPLE_LINES]
    best, most = "\t" if tab_first else ",", 0
    for candidate in "\t,;|" if tab_first else ",;\t|":
        counts = Counter(line.count(candidate) for line in sample)
        agreeing = max((n for cells, n in counts.items() if cells), default=0)
        if agreeing > most:
            best, most = candidate, agreeing
    return best
