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
    """Row n is the number n, but for some that are told."""

    def __init__(self, told: Mapping[int, float] | None = None) -> None:
        self.told = told or {}

    def __getitem__(self, number: int) -> Row:
        return {"ids": np.array([self.told.get(number, number)], dtype=np.float32)}


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


class Pairs(Distance):
    """Twice the distances, and how far pairs of numbers are from each other."""

    weights: Mapping[str, float] = {"distance": 1.0, "pair": 1.0}

    def count(self, batch: Batch) -> Mapping[str, int]:
        return {"distance": 2 * len(batch["ids"]), "pair": len(batch["ids"]) // 2}

    def losses(self, model: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
        pairs = torch.tensor(len(batch["ids"]) / 2)
        right = {"correct": 4 * pairs, "pair_correct": pairs}
        return {"distance": model(batch["ids"].float()).sum(), "pair": 3 * pairs, **right}


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


CONSTANT = ScheduleConfig(name="constant")


def trainer(
    output: Path,
    validation: Sequence[float] = (),
    rows: Numbers | None = None,
    schedule: ScheduleConfig = CONSTANT,
    objective: Distance | None = None,
    **changes: Any,
) -> Trainer:
    """`validation` are the losses that the evaluations find, one after the other."""
    usual: dict[str, Any] = {"steps": 12, "batch_size": 4, "check_first_step": False}
    config = LoopConfig(**{**usual, **changes})
    objective, model = objective or Distance(), Weight()
    found = iter(validation)

    def batches(first: int) -> Loader:
        return Loader(
            rows or Numbers(),
            objective,
            rows_per_step=config.batch_size,
            micro_batch_size=config.micro_batch(1),
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
        schedule=Schedule(schedule, steps=config.steps),
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


LEAP, NOTHING = 1e9, float("nan")
LEAPS, IS_NOTHING = "let at most .* be expected", "is nan, which is no number"


@pytest.mark.parametrize(("number", "says"), [(LEAP, LEAPS), (NOTHING, IS_NOTHING)])
def test_a_loss_that_goes_wrong_stops_the_run_with_its_batch(
    number: float, says: str, tmp_path: Path
) -> None:
    run = trainer(tmp_path, rows=Numbers({4 * 40 + 1: number}), steps=60)
    with pytest.raises(TrainingError, match=f"the loss of step 40 .*{says}"):
        run.run()
    assert run.step == 40
    saved = torch.load(tmp_path / "stopped-at-00000040.pt", weights_only=True)
    assert saved["step"] == 40
    found = torch.cat([batch["ids"] for batch in saved["batches"]]).flatten()
    expected = torch.tensor([160, number, 162, 163], dtype=torch.float32)
    assert torch.equal(found.nan_to_num(), expected.nan_to_num())


def test_without_watching_for_spikes_only_what_is_no_number_stops_a_run(tmp_path: Path) -> None:
    wrong = Numbers({4 * 40 + 1: LEAP, 4 * 50 + 1: NOTHING})
    run = trainer(tmp_path, rows=wrong, steps=60, watch_for_spikes=False)
    with pytest.raises(TrainingError, match=f"the loss of step 50 .*{IS_NOTHING}"):
        run.run()
    assert run.step == 50


def test_a_gradient_that_is_no_number_stops_the_run_before_it_ruins_a_weight(
    tmp_path: Path,
) -> None:
    run = trainer(tmp_path)
    weight = next(run.model.parameters())
    weight.register_hook(lambda gradient: gradient * NOTHING)
    with pytest.raises(TrainingError, match="the gradient of step 0 has the norm nan"):
        run.run()
    assert float(weight) == 0.0


def test_the_first_batch_is_looked_at_before_the_first_step(tmp_path: Path) -> None:
    run = trainer(tmp_path, rows=Numbers({1: NOTHING}), check_first_step=True)
    with pytest.raises(TrainingError, match="the first distance loss is nan"):
        run.run()


def test_clipping_bounds_the_update_and_the_norm_is_told_as_it_was(tmp_path: Path) -> None:
    rows = Numbers(dict.fromkeys(range(4), 9.0))  # far: a gradient of -1
    for clip, learned in ((0.25, 0.025), (None, 0.1)):
        run, records = trainer(tmp_path / str(clip), rows=rows, steps=1, clip=clip), Records()
        run.observers = [records]
        run.run()
        assert float(next(run.model.parameters())) == pytest.approx(learned)
        assert records.records[0].gradient_norm == pytest.approx(1.0)


@pytest.mark.parametrize("micro", [4, 2, 1])
def test_the_rate_follows_optimizer_steps_however_their_rows_are_dealt(
    micro: int, tmp_path: Path
) -> None:
    falling = ScheduleConfig(name="linear", warmup_steps=2, final=0.0)
    loop = {"steps": 6, "log_every": 1, "micro_batch_size": micro}
    run, records = trainer(tmp_path, schedule=falling, **loop), Records()
    run.observers = [records]
    run.run()
    told = [record.learning_rate for record in records.records]
    factors = [Schedule(falling, steps=6).factor(step) for step in range(6)]
    assert told == pytest.approx([0.1 * factor for factor in factors])
    assert len(set(told)) > 3


def test_there_is_dropout_in_training_and_none_in_evaluating(tmp_path: Path) -> None:
    run = trainer(tmp_path, [1.0, 1.0], steps=4, evaluate_every=2)
    is_training: list[bool] = []
    run.model.register_forward_pre_hook(lambda model, _: is_training.append(model.training))
    run.run()
    assert is_training == [True, True, False, True, True, False]


def test_right_answers_are_told_per_target_of_their_own_term(tmp_path: Path) -> None:
    run = trainer(tmp_path, objective=Pairs())
    run.validation = lambda: iter([[{"ids": torch.full((4, 1), 3.0)}]])
    losses = run.evaluate().losses
    assert losses == {"distance": 1.5, "pair": 3.0, "correct": 1.0, "pair_correct": 1.0}


def test_what_is_evaluated_are_the_averaged_weights(tmp_path: Path) -> None:
    run = trainer(tmp_path, ema=0.9)
    run.run()
    run.validation = lambda: iter([[{"ids": torch.zeros(1, 1)}]])  # how far the weight is from 0
    own = float(next(run.model.parameters()))
    assert run.ema is not None
    average = float(run.ema.averages["weight"])
    assert 0 < average < own - 0.1
    assert run.evaluate().val_loss == pytest.approx(average)
    assert float(next(run.model.parameters())) == own


def test_a_checkpoint_that_cannot_be_written_loses_none_that_is_complete(tmp_path: Path) -> None:
    run = trainer(tmp_path, checkpoint_every=4, keep=Retention(keep_last=1))
    blocked = run.checkpoints.path(8).with_suffix(".partial")
    blocked.parent.mkdir()
    blocked.write_text("a file where the folder must be")
    with pytest.raises(TrainingError, match=r"step-00000008: .*step 4 is complete"):
        run.run()
    assert run.checkpoints.steps() == [4]
    blocked.unlink()
    again = trainer(tmp_path, checkpoint_every=4)
    assert again.resume()
    assert again.step == 4
    again.run()
    assert again.checkpoints.steps() == [8, 12]


def test_without_a_folder_for_checkpoints_that_is_told(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").write_text("a file where the folder must be")
    with pytest.raises(TrainingError, match=r"could not be written .*none is complete yet"):
        trainer(tmp_path, checkpoint_every=4).run()
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoints"]


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
