"""The two streams, and what may be written to them: results on stdout, messages on stderr.

Text that comes from documents is never trusted: it reaches rich as `Text`, which reads no markup,
and `printable` first takes out what could steer a terminal (escape sequences, bidirectional
overrides).
"""

import json
import os
import re
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

_STEERING = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)
_WRAPPED = 40  # characters: a shorter line ended because its author ended it
_ENDED = re.compile(r"^\s*$|[.:!?)\]]\s*$")
_GOES_ON = re.compile(r"\s*[\w\"'“‘(]")
_UNBOUNDED = 1_000_000  # columns: output into a pipe is not wrapped unless COLUMNS says so


def printable(text: str) -> str:
    """`text` without the characters that steer a terminal; line ends and tabs stay."""
    return _STEERING.sub("", text)


def one_line(text: str) -> str:
    return " ".join(printable(text).split())


def results() -> Console:
    """The console on stdout."""
    return _console(stderr=False)


def messages() -> Console:
    """The console on stderr."""
    return _console(stderr=True)


def _console(*, stderr: bool) -> Console:
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() or "COLUMNS" in os.environ else _UNBOUNDED
    return Console(stderr=stderr, width=width, markup=False, highlight=False, emoji=False)


def print_json(value: Mapping[str, Any]) -> None:
    """One JSON object on stdout; in ASCII, so that no document steers the terminal by it."""
    sys.stdout.write(json.dumps(value, indent=2) + "\n")


@contextmanager
def saying() -> Iterator[Callable[[str], None]]:
    """Yields what writes pieces of an answer on stdout, at once; their line is ended even if the
    answer breaks off."""
    said = False

    def say(piece: str) -> None:
        nonlocal said
        said = True
        sys.stdout.write(printable(piece))
        sys.stdout.flush()

    try:
        yield say
    finally:
        if said:
            say("\n")


def note(text: str) -> None:
    """One message on stderr."""
    messages().print(Text(printable(text)), soft_wrap=True)


def shown_path(path: str | Path) -> str:
    """A path as one would type it here: relative if it is below the working folder."""
    try:
        return one_line(str(Path(path).relative_to(Path.cwd())))
    except ValueError:
        return one_line(str(path))


def reflowed(text: str) -> str:
    """Running text with its hard line breaks taken out: a line that is long enough to have been
    wrapped, or begins a paragraph, goes on in the next unless that begins a list or a paragraph."""
    lines: list[str] = []
    is_wrapped = False
    for line in printable(text).split("\n"):
        begins = not lines or not lines[-1].strip()
        if is_wrapped and _GOES_ON.match(line):
            lines[-1] += " " + line.strip()
        else:
            lines.append(line)
        is_wrapped = len(line.strip()) >= _WRAPPED or (begins and not _ENDED.search(line))
    return "\n".join(lines)


def dedented(text: str) -> str:
    """A quote without the indentation of its place; it begins in the middle of a line."""
    first, line_end, rest = printable(text).partition("\n")
    return first + line_end + textwrap.dedent(rest)


def indented(text: Text, prefix: str, console: Console) -> Iterator[Text]:
    """`text` wrapped to the console, each line behind `prefix`."""
    room = max(16, console.width - len(prefix))
    for line in text.wrap(console, room):
        line.rstrip()
        yield Text(prefix, style="dim") + line
