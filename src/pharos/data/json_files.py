"""JSON from strangers: of a bounded size, an object, and an error that says what to do."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pharos.core import ModelError

MAX_BYTES = 16 << 20


def read_object(path: Path, *, max_bytes: int = MAX_BYTES) -> dict[str, Any]:
    """The object in a JSON file. Raises ModelError where it is too large, or is none."""
    value = _parsed(path, read_text(path, max_bytes=max_bytes))
    if not isinstance(value, dict):
        raise ModelError(f"{path} holds {_kind(value)}; it must hold a JSON object {{...}}")
    return value


def write_object(path: Path, value: Mapping[str, object]) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def read_text(path: Path, *, max_bytes: int = MAX_BYTES) -> str:
    """A text file in UTF-8 of at most `max_bytes`; ModelError otherwise."""
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
    """Raises ModelError for a file that is missing or larger than such a file ever is."""
    try:
        size = path.stat().st_size
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror}") from error
    if not path.is_file() or size > max_bytes:
        found = f"is {size:,} bytes long" if path.is_file() else "is no file"
        raise ModelError(
            f"{path} {found}; a file of up to {max_bytes:,} bytes is expected, "
            "so this is something else: download it again"
        )


def _parsed(path: Path, text: str) -> Any:
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ModelError(f"{path} is nested too deeply to be read; download it again") from error
    except ValueError as error:
        raise ModelError(f"{path} is not JSON: {error}; download it again") from error


def _kind(value: object) -> str:
    kinds = {list: "a list", str: "a string", type(None): "null"}
    return kinds.get(type(value), "a number")
