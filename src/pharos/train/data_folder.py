"""Where a recipe's data lie: a path that begins with `$PHAROS_DATA` is below that folder."""

import glob
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pharos.core.errors import TrainingError

DATA_VARIABLE = "PHAROS_DATA"
DATA_FOLDER = "./data"


def data_folder() -> str:
    """What `$PHAROS_DATA` says, or `./data` where it is not set."""
    return os.environ.get(DATA_VARIABLE) or DATA_FOLDER


def expanded(value: Any) -> Any:
    """With `$PHAROS_DATA` replaced, wherever it begins a text."""
    if isinstance(value, Mapping):
        return {key: expanded(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [expanded(inner) for inner in value]
    if isinstance(value, str) and value.startswith(f"${DATA_VARIABLE}"):
        return data_folder() + value.removeprefix(f"${DATA_VARIABLE}")
    return value


def check_there(path: str, key: str) -> None:
    """Raises TrainingError for a path of the recipe, under `key`, that is not there (a pattern may
    match anything)."""
    if Path(path).exists() or glob.has_magic(path):
        return
    raise TrainingError(f"{key} is {path}, and there is no such file or folder; {_remedy(path)}")


def _remedy(path: str) -> str:
    if not path.startswith(data_folder()):
        return "check the path in the recipe"
    is_set = bool(os.environ.get(DATA_VARIABLE))
    found = "is set to that folder" if is_set else f"is not set, so {DATA_FOLDER} was taken"
    return (
        f"${DATA_VARIABLE} {found}: set it to the folder that holds the data "
        "(docs/training.md tells where they come from)"
    )
