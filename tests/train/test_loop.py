"""The loop by itself, over an objective that is told its losses."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pharos.core import TrainingError
from pharos.data.rows import Row
from pharos.train.checkpoint import Retention
from pharos.train.events import Observer, StepRecord
from pharos.train.loader import Loader
from pharos.train.loop import Trainer
from pharos.train.loop_config import LoopConfig
from pharos.train.objective import Batch
from pharos.train.schedules import Schedule, ScheduleConfig


class Numbers:
    """Row n is the number n."""

    def __getitem__(self, number: int) -> Row:
        return {"ids": np.array([number])}


class Distance:
    """How far the only weight is from the rows' numbers."""

    weights: Mapping[str, float] = {"distance": 1.0}

    def example(self, row: Row, generator: np.random.Generator) -> Row:
        return row

    def collate(self, examples: Sequence[Row]) -> Batch:
        return {"ids": torch.from_numpy(np.stack([example["ids"] for example in examples]))}

    def count(self, batch: Batch) -> Mapping[str, int]:
        return {"distance": len(batch["ids"])}

    def losses(self, model: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
        return {"distance": model(batch["ids"].float()).sum()}


class Weight(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))

    def forward(self, x_B1: Tensor) -> Tensor:
        return (x_B1 - self.weight).abs()


class Records(Observer):
    def __init__(self) -> None:
        self.records: list[StepRecord] = []

    def on_step(self, record: StepRecord) -> None:
        self.records.append(record)


def trainer(output: Path, validation: Sequence[float] = (), **changes: Any) -> Trainer:
    """`validation` are the losses that the evaluations find, one after the other."""
    usual: dict[str, Any] = {"steps": 12, "batch_size": 4, "check_first_step": False}
    config = LoopConfig(**{**usual, **changes})
    objective, model = Distance(), Weight()
    found = iter(validation)

    def batches(first: int) -> Loader:
        return Loader(
            Numbers(),
            objective,
            rows_per_step=config.batch_size,
            micro_batch_size=config.batch_size,
            start_step=first,
        )

    def of_loss() -> Iterator[Sequence[Batch]]:
        yield [{"ids": model.weight.detach().view(1, 1) + next(found)}]

    evaluates: Callable[[], Iterator[Sequence[Batch]]] | None = of_loss if validation else None
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    optimizer.param_groups[0]["initial_lr"] = 0.1
    return Trainer(
        model=model,
        objective=objective,
        optimizer=optimizer,
        schedule=Schedule(ScheduleConfig(name="constant"), steps=config.steps),
        config=config,
        output=output,
        batches=batches,
        validation=evaluates,
    )


def test_the_best_checkpoint_is_kept_whenever_it_was_found(tmp_path: Path) -> None:
    keep = Retention(keep_last=1)
    run = trainer(tmp_path, [5.0, 1.0, 3.0, 4.0], evaluate_every=3, checkpoint_every=4, keep=keep)
    run.run()
    assert run.best == (1.0, 6)
    assert run.checkpoints.steps() == [6, 12]


def test_an_evaluation_that_is_no_number_is_never_the_best(tmp_path: Path) -> None:
    run = trainer(tmp_path, [float("nan"), 2.0, 3.0, 4.0], evaluate_every=3)
    run.run()
    assert run.best == (2.0, 6)


def test_all_tokens_are_counted_whenever_they_are_logged_or_saved(tmp_path: Path) -> None:
    run = trainer(tmp_path, log_every=5, checkpoint_every=4)
    records = Records()
    run.observers = [records]
    run.run()
    assert [(record.step, record.tokens) for record in records.records] == [
        (step, 4 * step) for step in (1, 5, 10, 12)
    ]


def test_the_watchdog_may_be_off_for_a_part_of_a_run(tmp_path: Path) -> None:
    trainer(tmp_path, steps=4, watch_for_spikes=False).run()
    again = trainer(tmp_path, steps=8)
    assert again.resume()
    assert again.step == 4
    again.run()


def test_a_step_without_a_target_is_refused(tmp_path: Path) -> None:
    run = trainer(tmp_path)
    run.objective.count = lambda batch: {"distance": 0}  # type: ignore[method-assign]
    with pytest.raises(TrainingError, match=r"none of the 4 rows has a valid target \(distance\)"):
        run.run()
