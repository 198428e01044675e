"""Stops a run that has gone wrong: at a loss that is no number, or one that leaps.

A loss leaps if it exceeds the median of the last ones by far more than these differ among
themselves. Both are judged robustly, by the median and the median absolute deviation (MAD; times
1.4826 it estimates a standard deviation), so neither the trend of a window nor one odd step in it
counts for much.

The batch is saved: whether it is the data or the model that is at fault can be seen from it.
"""

import math
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch.distributed as dist

from pharos.core.errors import TrainingError
from pharos.train.objective import Batch

NORMAL = 1.4826
"""A normal distribution's standard deviation, over its MAD."""


class Watchdog:
    """Knows the last `window` losses, and judges from `least` on. A leap is one of more than
    `deviations` standard deviations, which are taken to be at least 2% of the median."""

    def __init__(self, *, window: int = 128, least: int = 32, deviations: float = 10.0) -> None:
        self.losses: deque[float] = deque(maxlen=window)
        self.least, self.deviations = least, deviations

    def limit(self) -> float:
        """What the next loss may be at most; infinite while too few are known."""
        if len(self.losses) < self.least:
            return math.inf
        middle = median(self.losses)
        deviation = NORMAL * median(abs(loss - middle) for loss in self.losses)
        return middle + self.deviations * max(deviation, 0.02 * abs(middle))

    def check(self, step: int, loss: float, batches: Sequence[Batch], folder: Path) -> None:
        """Take in the loss of a step. Raises TrainingError if it is wrong, after saving the step's
        micro-batches into the folder, as `torch.load` reads them."""
        limit = self.limit()
        if math.isfinite(loss) and loss <= limit:
            self.losses.append(loss)
            return
        fault = (
            f"the loss of step {step} is {loss:.4g}, and the last {len(self.losses)} let at most "
            f"{limit:.4g} be expected"
            if math.isfinite(loss)
            else f"the loss of step {step} is {loss}, which is no number to learn from"
        )
        saved = save_batches(folder / f"stopped-at-{step:08d}{_of_rank()}.pt", step, loss, batches)
        raise TrainingError(
            f"{fault}; {saved}. Resume from the last checkpoint with a lower learning rate or "
            "stronger clipping, or without these rows"
        )

    def state_dict(self) -> dict[str, Any]:
        return {"losses": list(self.losses)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.losses.clear()
        self.losses.extend(state["losses"])


def _of_rank() -> str:
    """Each process has rows of its own."""
    is_one_of_many = dist.is_available() and dist.is_initialized()
    return f"-rank-{dist.get_rank()}" if is_one_of_many else ""


def save_batches(path: Path, step: int, loss: float, batches: Sequence[Batch]) -> str:
    """What became of it, for the message: that the batch could not be saved must not hide why."""
    tensors = [{name: value.cpu() for name, value in batch.items()} for batch in batches]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save({"step": step, "loss": loss, "batches": tensors}, path)
    except (OSError, RuntimeError) as error:
        return f"its batch could not be saved to {path} ({error})"
    return f"its batch is in {path}"
