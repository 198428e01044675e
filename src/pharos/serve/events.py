"""Server-sent events: the framing in which an endpoint streams its reply, read as the WHATWG says.

Lines are split as bytes, so that neither a chunk border inside a character nor U+2028 inside a
token can break a line in two. Comments (keep-alives) are skipped; `data` lines of one event are
joined with a line feed; a last event that no blank line closes is discarded, as the standard has
it, except that a lone `[DONE]` counts.
"""

from collections.abc import Iterable, Iterator

from pharos.core import EndpointError

MAX_LINE_BYTES = 1 << 20


def read_events(chunks: Iterable[bytes]) -> Iterator[str]:
    """The data of each event in a body that arrives in arbitrary chunks.

    Raises EndpointError for a line above MAX_LINE_BYTES or bytes that are not UTF-8.
    """
    data: list[str] = []
    for line in _lines(chunks):
        if line:
            field, _, value = line.partition(":")
            if field == "data":
                data.append(value.removeprefix(" "))
        elif data:
            yield "\n".join(data)
            data = []
    if data == ["[DONE]"]:
        yield data[0]


def _lines(chunks: Iterable[bytes]) -> Iterator[str]:
    rest = b""
    for chunk in chunks:
        *complete, rest = (rest + chunk).split(b"\n")
        yield from map(_decoded, complete)
        if len(rest) > MAX_LINE_BYTES:
            raise EndpointError(
                f"the stream has a line of more than {MAX_LINE_BYTES:,} bytes; "
                "this is not the event stream that an OpenAI-compatible endpoint sends"
            )
    if rest:
        yield _decoded(rest)


def _decoded(line: bytes) -> str:
    try:
        return line.removesuffix(b"\r").decode()
    except UnicodeDecodeError as error:
        raise EndpointError(f"the stream is not UTF-8 at {line[:40]!r}") from error
