"""The way from a file to a `Document`."""

from pathlib import Path, PurePath

from pharos.core import Document, DocumentError
from pharos.data.cleaning import clean_line
from pharos.data.parsing.draft import Parsed, Raw, check_length, sections_of
from pharos.data.parsing.formats import check_head, format_of, unpacked
from pharos.data.parsing.limits import ParseLimits
from pharos.data.parsing.reading import check_size, read_file

_LONGEST_TITLE = 300
_DEFAULT_LIMITS = ParseLimits()


def parse(path: Path, *, source: str, limits: ParseLimits = _DEFAULT_LIMITS) -> Document:
    """The document in a file; `source` is its name within the library.

    Raises DocumentError, with a reason made to be shown, for whatever keeps it from being read:
    the file system, the format, damage, encryption, a limit, or that there is no text in it.
    """
    data = read_file(path, limits, lambda head: check_head(path.name, head))
    return _document(Raw(data=data, name=path.name, limits=limits), source)


def parse_bytes(
    data: bytes, *, name: str, source: str, limits: ParseLimits = _DEFAULT_LIMITS
) -> Document:
    """As `parse`, for what came from elsewhere than a file. `name` may help to tell the format."""
    check_size(len(data), limits)
    return _document(Raw(data=data, name=name, limits=limits), source)


def _document(raw: Raw, source: str) -> Document:
    raw = unpacked(raw)
    format_ = format_of(raw)
    parsed = format_.parse(raw)
    if not parsed.text or parsed.text.isspace():
        raise DocumentError("empty: no text")
    check_length(len(parsed.text), raw.limits)
    return Document(
        source=source,
        title=_title(parsed, raw.name),
        text=parsed.text,
        format=format_.name,
        sections=sections_of(parsed.headings, len(parsed.text)),
        pages=parsed.pages,
        metadata={key: clean_line(value) for key, value in parsed.metadata.items()},
    )


def _title(parsed: Parsed, name: str) -> str:
    """The title that the document states, else its first heading near the top, else its name."""
    title = clean_line(parsed.title)
    if not title and parsed.headings and parsed.headings[0].start < 1000:
        title = parsed.headings[0].text
    return (title or PurePath(name).stem or name)[:_LONGEST_TITLE]
