"""The two streams, and what may be written to them: results on stdout, messages on stderr.

Text that comes from documents is never trusted: it reaches rich as `Text`, which reads no markup,
and `printable` first takes out what could steer a terminal (escape sequences, bidirectional
overrides).
"""

import json
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

_STEERING = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)
_UNBOUNDED = 1_000_000  # columns: output into a pipe is not wrapped


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
    width = None if stream.isatty() else _UNBOUNDED
    return Console(stderr=stderr, width=width, markup=False, highlight=False, emoji=False)


def print_json(value: Mapping[str, Any]) -> None:
    """One JSON object on stdout; in ASCII, so that no document steers the terminal by it."""
    sys.stdout.write(json.dumps(value, indent=2) + "\n")


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
    """Hard-wrapped lines of running text joined; lists, code and tables stay as they are."""
    return re.sub(r"(?<=\S{3})\n(?=[\w\"'“‘(])", " ", printable(text))


def indented(text: Text, prefix: str, console: Console) -> Iterator[Text]:
    """`text` wrapped to the console, each line behind `prefix`."""
    room = max(16, console.width - len(prefix))
    for line in text.wrap(console, room):
        line.rstrip()
        yield Text(prefix, style="dim") + line
