"""Reading the JSON of a model's folder, which a stranger may have written."""

import json
import reprlib
from pathlib import Path
from typing import Any

from pharos.core.errors import ModelError


def read_object(path: Path, *, max_bytes: int) -> dict[str, Any]:
    """The object that a JSON file holds. Raises ModelError, naming the file, for anything else, and
    for what would read differently elsewhere: names that stand twice, NaN and Infinity."""
    try:
        if not path.is_file():
            raise ModelError(f"{path} is missing, or no regular file")
        if path.stat().st_size > max_bytes:
            raise ModelError(f"{path} is larger than {max_bytes:,} bytes; no such file needs more")
        content = json.loads(
            path.read_text(encoding="utf-8"),
            object_pairs_hook=_without_duplicates,
            parse_constant=_refuse,
        )
    except RecursionError:
        raise ModelError(f"{path} cannot be read as JSON: it is nested too deeply") from None
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(content, dict):
        raise ModelError(f"{path} holds a {type(content).__name__}; it must be a JSON object")
    return content


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content: dict[str, Any] = {}
    for name, value in pairs:
        if name in content:
            raise ValueError(f"{reprlib.repr(name)} stands in one object twice")
        content[name] = value
    return content


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not a value of JSON")
