"""Times, tokens and losses between two records of a run."""

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

from pharos.train.events import StepRecord
from pharos.train.loader import Batches
from pharos.train.loop_config import DTYPES
from pharos.train.objective import Batch
from pharos.train.throughput import memory_in_use, peak_flops

if TYPE_CHECKING:
    from pharos.train.loop import Trainer


class Meter:
    """Times and tokens between records."""

    def __init__(self, trainer: "Trainer") -> None:
        self.trainer = trainer
        device, dtype = trainer.device, DTYPES[trainer.config.precision]
        self.peak_flops = peak_flops(device, dtype) * trainer.ranks.processes
        self.restart()

    def restart(self, loader: Batches | None = None) -> None:
        self.started, self.tokens, self.steps = time.perf_counter(), 0, 0
        self.waited_before = loader.waited_s if loader else 0.0

    def count(self, tokens: int) -> None:
        """A step is over, in which all ranks together had so many."""
        self.tokens += tokens
        self.steps += 1

    def record(self, losses: Mapping[str, float], norm: float, loader: Batches) -> StepRecord:
        trainer = self.trainer
        seconds = time.perf_counter() - self.started
        speed = self.tokens / seconds
        record = StepRecord(
            step=trainer.step,
            train_loss=total_loss(losses, trainer.objective.weights),
            losses=losses,
            learning_rate=trainer.optimizer.param_groups[0]["lr"],
            gradient_norm=norm,
            tokens=trainer.tokens,
            tokens_per_second=speed,
            seconds=seconds / max(self.steps, 1),
            waited_seconds=(loader.waited_s - self.waited_before) / max(self.steps, 1),
            mfu=speed * trainer.flops_per_token / self.peak_flops if self.peak_flops else None,
            memory_bytes=memory_in_use(trainer.device),
        )
        self.restart(loader)
        return record


def total_loss(losses: Mapping[str, float], weights: Mapping[str, float]) -> float:
    return sum(weight * losses[name] for name, weight in weights.items())


def num_tokens(batch: Batch) -> int:
    """That the model reads or writes, padding included."""
    return sum(x.numel() for name, x in batch.items() if name.endswith("ids"))
