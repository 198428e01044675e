"""Stops a run that has gone wrong: at a loss that is no number, or one that leaps.

A loss leaps if it exceeds the median of the last ones by far more than these differ among
themselves. Both are judged robustly, by the median and the median absolute deviation (MAD; times
1.4826 it estimates a standard deviation), so neither the trend of a window nor one odd step in it
counts for much. What is left of a loss that is nearly learned away, a tenth of the first, comes
from a few rows, and leaps from batch to batch: then only half of the first loss is a leap.

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
LEARNED, UNLEARNED = 0.1, 0.5
"""The share of the first loss that is left when it is nearly learned away, and the share that it
takes then to be a leap."""


class Watchdog:
    """Knows the last `window` losses, and judges from `least` on. A leap is one of more than
    `deviations` standard deviations, which are taken to be at least 2% of the median. With a
    `window` of 0 none is known: only what is no number stops the run."""

    def __init__(self, *, window: int = 128, least: int = 32, deviations: float = 10.0) -> None:
        self.losses: deque[float] = deque(maxlen=window)
        self.first: float | None = None
        self.least, self.deviations = least, deviations

    def limit(self) -> float:
        """What the next loss may be at most; infinite while too few are known."""
        if len(self.losses) < self.least:
            return math.inf
        middle = median(self.losses)
        deviation = NORMAL * median(abs(loss - middle) for loss in self.losses)
        limit = middle + self.deviations * max(deviation, 0.02 * abs(middle))
        first = abs(self.first or 0.0)
        return max(limit, UNLEARNED * first) if abs(middle) < LEARNED * first else limit

    def check(self, step: int, loss: float, batches: Sequence[Batch], folder: Path) -> None:
        """Take in the loss of a step. Raises TrainingError if it is wrong, after saving the step's
        micro-batches into the folder, as `torch.load` reads them."""
        limit = self.limit()
        if not math.isfinite(loss):
            fault = f"the loss of step {step} is {loss}, which is no number to learn from"
            raise stopped(fault, step, batches, folder)
        if loss > limit:
            fault = (
                f"the loss of step {step} is {loss:.4g}, and the last {len(self.losses)} let at "
                f"most {limit:.4g} be expected"
            )
            raise stopped(fault, step, batches, folder)
        self.losses.append(loss)
        self.first = loss if self.first is None else self.first

    def check_gradient(
        self, step: int, norm: float, batches: Sequence[Batch], folder: Path
    ) -> None:
        """Before the optimizer's step, so that weights are not ruined by gradients that are no
        numbers. (In float16 these are usual: the scaler leaves such a step out.)"""
        if not math.isfinite(norm):
            fault = f"the gradient of step {step} has the norm {norm}, at a loss that is a number"
            raise stopped(fault, step, batches, folder)

    def state_dict(self) -> dict[str, Any]:
        return {"losses": list(self.losses), "first": self.first}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.losses.clear()
        self.losses.extend(state["losses"])
        self.first = state["first"]


def stopped(fault: str, step: int, batches: Sequence[Batch], folder: Path) -> TrainingError:
    """What is raised, with the batches saved. That they could not be saved must not hide why."""
    path = folder / f"stopped-at-{step:08d}{_of_rank()}.pt"
    tensors = [{name: value.cpu() for name, value in batch.items()} for batch in batches]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save({"step": step, "batches": tensors}, path)
        saved = f"its batch is in {path}"
    except (OSError, RuntimeError) as error:
        saved = f"its batch could not be saved to {path} ({error})"
    return TrainingError(
        f"{fault}; {saved}. Resume from the last checkpoint with a lower learning rate or stronger "
        "clipping, or without these rows"
    )


def _of_rank() -> str:
    """Each process has rows of its own."""
    is_one_of_many = dist.is_available() and dist.is_initialized()
    return f"-rank-{dist.get_rank()}" if is_one_of_many else ""
