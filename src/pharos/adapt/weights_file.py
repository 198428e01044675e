"""`adapter_model.safetensors`: an adapter's tensors and, in the file's metadata, what PEFT's config
has no word for: which head the model had, what its classes are called, whether it had a weight of
its own, and whether the base was quantized. PEFT does not look there.

A file may come from a stranger: whatever does not fit is a ModelError that names it.
"""

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast, get_args

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from pharos.core.errors import ModelError
from pharos.core.json_files import check_size
from pharos.models.family import Model, Task
from pharos.models.load import family_of, task_of

WEIGHTS_FILE = "adapter_model.safetensors"
MAX_WEIGHTS_BYTES = 1 << 38
TASK_KEY, LABELS_KEY = "pharos_task", "pharos_labels"
QUANTIZED_KEY, UNTIED_KEY = "pharos_quantized_base", "pharos_untied"


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainedOn:
    """The model that an adapter was trained on: what its head is for, the names of its classes, and
    in which form its weights were kept. None: the file does not say, or there is nothing to.
    `has_own_head` says that a language model's head was not its embedding again."""

    task: Task | None = None
    labels: tuple[str, ...] | None = None
    quantization: str | None = None
    has_own_head: bool = False

    @classmethod
    def of(cls, model: Model) -> "TrainedOn":
        forms = (getattr(module, "quantization", None) for module in model.modules())
        return cls(
            task=task_of(model, family_of(model.config.model_type)),
            labels=tuple(model.config.labels),
            quantization=next((form for form in forms if form is not None), None),
            has_own_head=getattr(model, "lm_head", None) is not None,
        )

    @property
    def metadata(self) -> dict[str, str]:
        told = {TASK_KEY: self.task, QUANTIZED_KEY: self.quantization}
        if self.labels is not None:
            told[LABELS_KEY] = json.dumps(self.labels)
        if self.has_own_head:
            told[UNTIED_KEY] = "true"
        return {key: value for key, value in told.items() if value is not None}


def write_tensors(path: Path, tensors: Mapping[str, Tensor], trained_on: TrainedOn) -> None:
    """The same tensors and metadata are the same bytes."""
    save_file(dict(tensors), path, metadata={"format": "pt"} | trained_on.metadata)
    _sort_metadata(path)


def read_tensors(folder: Path) -> dict[str, Tensor]:
    path = _weights_of(folder)
    try:
        return load_file(path)
    except (OSError, ValueError, SafetensorError) as error:
        raise _unreadable(path, error) from error


def read_trained_on(folder: Path) -> TrainedOn:
    """What the file of an adapter says of its model: of PEFT's own, nothing."""
    path = _weights_of(folder)
    try:
        with safe_open(path, framework="pt") as file:
            found = file.metadata() or {}
    except (OSError, ValueError, SafetensorError) as error:
        raise _unreadable(path, error) from error
    task, labels = found.get(TASK_KEY), found.get(LABELS_KEY)
    if task is not None and task not in get_args(Task):
        known = ", ".join(get_args(Task))
        raise ModelError(f"{path}: {TASK_KEY} is {task[:40]!r}; known are {known}")
    return TrainedOn(
        task=cast(Task | None, task),
        labels=None if labels is None else _read_labels(path, labels),
        quantization=found.get(QUANTIZED_KEY),
        has_own_head=UNTIED_KEY in found,
    )


def _read_labels(path: Path, written: str) -> tuple[str, ...]:
    try:
        labels = json.loads(written)
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path}: {LABELS_KEY} is not JSON: {error}") from error
    if not isinstance(labels, list) or not labels or not all(isinstance(x, str) for x in labels):
        raise ModelError(f"{path}: {LABELS_KEY} is {written[:40]!r}; it must be a list of names")
    return tuple(labels)


def _weights_of(folder: Path) -> Path:
    path = folder / WEIGHTS_FILE
    if not path.is_file() and (folder / "adapter_model.bin").is_file():
        raise ModelError(
            f"{folder / 'adapter_model.bin'} is a pickle, which can run any code when it is read; "
            "convert it to safetensors where you trust it"
        )
    check_size(path, MAX_WEIGHTS_BYTES)
    return path


def _unreadable(path: Path, error: Exception) -> ModelError:
    return ModelError(f"{path} cannot be read as safetensors: {error}")


def _sort_metadata(path: Path) -> None:
    """safetensors writes metadata in an order that is another each time."""
    with path.open("r+b") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header: dict[str, Any] = json.loads(file.read(length))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        written = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        assert len(written) <= length, "the same entries take the same room"
        file.seek(8)
        file.write(written.ljust(length))
