"""Checkpoints that are whole or not there.

A checkpoint is written into a folder beside, flushed to the disk, and then renamed: whoever finds
`step-00001000` finds all of it. What is not needed any more is removed only after a newer one is
complete, so a full disk costs the newest checkpoint at most.

    checkpoints/step-00001000/config.json, model.safetensors, …   a model folder, ready to use
                              training.pt                         what a run needs to go on exactly
"""

import os
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn

from pharos.core.errors import TrainingError
from pharos.models.family import Model
from pharos.models.load import family_of, load_model, save_model, task_of

STATE_FILE = "training.pt"
PARTIAL = ".partial"
WRITE_ERRORS = (OSError, RuntimeError, SafetensorError)
"""What torch and safetensors raise where a disk is full."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Retention:
    """Which checkpoints stay: the last `keep_last`, every one whose step is a multiple of
    `keep_every`, and the one that evaluated best."""

    keep_last: int = 2
    keep_every: int | None = None
    keep_best: bool = True

    def __post_init__(self) -> None:
        if self.keep_last < 1:
            raise ValueError(
                f"keep_last is {self.keep_last}; at least 1 must be kept to go on from"
            )
        if self.keep_every is not None and self.keep_every < 1:
            raise ValueError(f"keep_every is {self.keep_every}; it must be at least 1, or null")


class Checkpoints:
    """The checkpoints of one run, by step."""

    def __init__(self, folder: Path, retention: Retention) -> None:
        self.folder, self.retention = folder, retention

    def steps(self) -> list[int]:
        """Of the complete ones, ascending."""
        if not self.folder.is_dir():
            return []
        found = (re.fullmatch(r"step-(\d{8,})", path.name) for path in self.folder.iterdir())
        return sorted(int(match[1]) for match in found if match)

    def latest(self) -> Path | None:
        steps = self.steps()
        return self.path(steps[-1]) if steps else None

    def path(self, step: int) -> Path:
        return self.folder / f"step-{step:08d}"

    def save(self, step: int, write: Callable[[Path], None]) -> Path:
        """A checkpoint of what `write` puts into the folder that it is given. Raises TrainingError
        if that fails; all earlier checkpoints are then still there."""
        final = self.path(step)
        if final.is_dir():
            return final
        partial = final.with_name(final.name + PARTIAL)
        try:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
            write(partial)
            flush(partial)
            partial.rename(final)
            _flush_entry(self.folder)
        except WRITE_ERRORS as error:
            shutil.rmtree(partial, ignore_errors=True)
            raise TrainingError(
                f"{final}: the checkpoint could not be written ({error}); free space there or name "
                f"another output, then resume: {self._kept()}"
            ) from error
        return final

    def prune(self, best: int | None) -> None:
        """Remove what the retention does not keep, and what an interrupted save left."""
        steps, keep = self.steps(), self.retention
        kept = set(steps[-keep.keep_last :])
        if keep.keep_every is not None:
            kept |= {step for step in steps if step % keep.keep_every == 0}
        if keep.keep_best and best is not None:
            kept.add(best)
        for step in steps:
            if step not in kept:
                shutil.rmtree(self.path(step), ignore_errors=True)
        for left in self.folder.glob(f"*{PARTIAL}"):
            shutil.rmtree(left, ignore_errors=True)

    def _kept(self) -> str:
        steps = self.steps()
        return (
            f"the checkpoint of step {steps[-1]} is complete" if steps else "none is complete yet"
        )


def flush(folder: Path) -> None:
    """Have everything in the folder on the disk."""
    for path in sorted(folder.rglob("*")):
        _flush_entry(path)
    _flush_entry(folder)


def _flush_entry(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def save_module(model: nn.Module, folder: Path) -> None:
    """A model of ours as a Hugging Face folder; any other module as its state, name by name."""
    if isinstance(model, Model):
        save_model(model, folder)
    else:
        torch.save(model.state_dict(), folder / "state.pt")


def load_module(model: nn.Module, folder: Path) -> None:
    """The weights that `save_module` wrote, into a module of the same shape."""
    if isinstance(model, Model):
        task = task_of(model, family_of(model.config.model_type))
        saved: Mapping[str, Any] = load_model(folder, task=task).state_dict()
    else:
        saved = torch.load(folder / "state.pt", weights_only=True)
    model.load_state_dict(saved)


def save_state(state: Mapping[str, Any], folder: Path) -> None:
    torch.save(dict(state), folder / STATE_FILE)


def load_state(folder: Path) -> dict[str, Any]:
    """Raises TrainingError for a folder that no run can go on from."""
    path = folder / STATE_FILE
    try:
        state: dict[str, Any] = torch.load(path, weights_only=True, map_location="cpu")
    except FileNotFoundError:
        raise TrainingError(
            f"{folder} holds no {STATE_FILE}: it is a model, but no run can go on from it; start a "
            "new run from it with model.load"
        ) from None
    except Exception as error:
        raise TrainingError(
            f"{path} cannot be read ({error}); remove {folder} to go on from an earlier checkpoint"
        ) from error
    return state
