"""What a run tells of itself while it goes on, and to whom."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, kw_only=True, slots=True)
class RunFacts:
    """Known before the first step. `peak_flops` is what the devices do at best, together (0 where
    that is not known)."""

    output: Path
    steps: int
    first_step: int
    num_parameters: int
    num_trainable: int
    rows_per_step: int
    device: str
    processes: int
    peak_flops: float


@dataclass(frozen=True, kw_only=True, slots=True)
class StepRecord:
    """Of one optimizer step; times and speeds are means since the record before. `losses` has each
    term's mean and whatever else the objective counts, per target."""

    step: int
    train_loss: float
    losses: Mapping[str, float]
    learning_rate: float
    gradient_norm: float
    tokens: int
    tokens_per_second: float
    seconds: float
    waited_seconds: float
    mfu: float | None
    memory_bytes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation:
    step: int
    val_loss: float
    losses: Mapping[str, float]
    seconds: float
    samples: tuple[str, ...] = field(default=())


class Observer:
    """Overrides what it wants to hear of. Observers run on the first process only."""

    def on_start(self, facts: RunFacts) -> None: ...

    def on_step(self, record: StepRecord) -> None: ...

    def on_evaluation(self, evaluation: Evaluation) -> None: ...

    def on_checkpoint(self, step: int, folder: Path) -> None: ...

    def on_end(self, *, is_complete: bool) -> None:
        """Called however the run ends; `is_complete` is whether it took its last step."""
