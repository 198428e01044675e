"""Reading a file that may be anything: never blocks, never reads more than allowed."""

import os
import stat
from collections.abc import Callable
from pathlib import Path

from pharos.core import DocumentError
from pharos.data.file_kinds import kind_of
from pharos.data.parsing.limits import ParseLimits


def read_file(path: Path, limits: ParseLimits, check_head: Callable[[bytes], None]) -> bytes:
    """The bytes of a regular file. `check_head` sees its beginning and may raise before the rest
    is read. Raises DocumentError for whatever the file system answers."""
    try:
        _check_mode(path.stat().st_mode)  # a pipe or a device is not even opened
        with open(path, "rb", opener=_open_without_blocking) as file:
            found = os.fstat(file.fileno())
            _check_mode(found.st_mode)
            check_size(found.st_size, limits)
            head = file.read(65_536)
            check_head(head)
            data = head + file.read(limits.max_bytes + 1 - len(head))
    except FileNotFoundError:
        raise DocumentError("there is no such file (any more)") from None
    except OSError as error:
        raise DocumentError(f"cannot be read: {error.strerror or error}") from error
    check_size(len(data), limits)
    return data


def check_size(size: int, limits: ParseLimits) -> None:
    """Raises DocumentError for a file larger than allowed."""
    if size > limits.max_bytes:
        raise DocumentError(
            f"is {size:,} bytes, above the limit of {limits.max_bytes:,} (max_bytes)"
        )


def _check_mode(mode: int) -> None:
    if not stat.S_ISREG(mode):
        raise DocumentError(f"is {kind_of(mode)}; only regular files are read")


def _open_without_blocking(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))
