"""How a run goes: the `training:` section of a recipe."""

from dataclasses import dataclass, field
from typing import Literal

import torch

from pharos.train.checkpoint import Retention

Precision = Literal["fp32", "bf16", "fp16"]
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True, kw_only=True, slots=True)
class LoopConfig:
    """`batch_size` is the rows of an optimizer step, over all devices; `micro_batch_size` those of
    one forward pass of one device (default: all of a rank's). `workers` processes make examples
    ahead. `evaluation_rows` are evaluated on each time (null: all). `ema` is the decay of averaged
    weights. `compile` has torch compile the step, of a model that each process has whole: it
    changes no more than rounding, and a run may go on without it."""

    steps: int
    batch_size: int
    micro_batch_size: int | None = None
    precision: Precision = "fp32"
    clip: float | None = 1.0
    ema: float | None = None
    activation_checkpointing: Literal["none", "selective", "full"] = "none"
    compile: bool = False
    workers: int = 0
    log_every: int = 10
    evaluate_every: int | None = 250
    evaluation_rows: int | None = 256
    checkpoint_every: int | None = None
    keep: Retention = field(default_factory=Retention)
    watch_for_spikes: bool = True
    check_first_step: bool = True

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "log_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        for name in (
            "micro_batch_size",
            "evaluate_every",
            "evaluation_rows",
            "checkpoint_every",
        ):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}; it must be at least 1, or null")
        if self.workers < 0:
            raise ValueError(f"workers is {self.workers}; it must be 0 (none) or more")
        if self.clip is not None and self.clip <= 0:
            raise ValueError(f"clip is {self.clip}; it must be positive, or null for no clipping")
        if self.ema is not None and not 0 < self.ema < 1:
            raise ValueError(f"ema is {self.ema}; it must be between 0 and 1, 0.999 for example")

    def micro_batch(self, data_ranks: int) -> int:
        """Rows of one forward pass. Raises ValueError where the rows cannot be dealt evenly."""
        micro = self.micro_batch_size or max(1, self.batch_size // data_ranks)
        if self.batch_size % (micro * data_ranks):
            raise ValueError(
                f"batch_size {self.batch_size} cannot be dealt to {data_ranks} data ranks in "
                f"micro-batches of {micro}: make it a multiple of {micro * data_ranks}, or "
                f"micro_batch_size smaller"
            )
        return micro
