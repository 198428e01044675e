"""The files of a model's folder, which a stranger may have written: of a bounded size, regular, and
JSON that reads alike everywhere. What is not is a ModelError that names the file."""

import json
import reprlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pharos.core.errors import ModelError

MAX_BYTES = 16 << 20


def read_object(path: Path, *, max_bytes: int = MAX_BYTES) -> dict[str, Any]:
    """The object in a JSON file. Refused is also what other readers would read differently: names
    that stand twice, NaN and Infinity."""
    text = read_text(path, max_bytes=max_bytes)
    try:
        value = json.loads(text, object_pairs_hook=_without_duplicates, parse_constant=_refuse)
    except RecursionError:
        raise ModelError(
            f"{path} cannot be read as JSON: it is nested too deeply; download it again"
        ) from None
    except ValueError as error:
        raise ModelError(f"{path} cannot be read as JSON: {error}; download it again") from error
    if not isinstance(value, dict):
        raise ModelError(f"{path} holds a {type(value).__name__}; it must be a JSON object {{...}}")
    return value


def write_object(path: Path, value: Mapping[str, object]) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def read_text(path: Path, *, max_bytes: int = MAX_BYTES) -> str:
    """A text file in UTF-8 of at most `max_bytes`."""
    check_size(path, max_bytes)
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ModelError(
            f"{path} is not UTF-8 ({error.reason} at byte {error.start}); download it again"
        ) from error
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror}") from error


def check_size(path: Path, max_bytes: int) -> None:
    """Raises ModelError for a file that is missing, no regular one, or larger than such a file ever
    is."""
    try:
        size = path.stat().st_size
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror}") from error
    if not path.is_file():
        raise ModelError(f"{path} is no regular file; download it again")
    if size > max_bytes:
        raise ModelError(
            f"{path} is {size:,} bytes long; a file of up to {max_bytes:,} bytes is expected, so "
            "this is something else: download it again"
        )


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content: dict[str, Any] = {}
    for name, value in pairs:
        if name in content:
            raise ValueError(f"{reprlib.repr(name)} stands in one object twice")
        content[name] = value
    return content


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not a value of JSON")
