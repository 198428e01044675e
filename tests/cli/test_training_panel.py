import math
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from rich.console import Console

from pharos.cli.training_panel import BLOCKS, TrainingPanel, clock, sparkline
from pharos.train.events import Evaluation, RunFacts, StepRecord


def facts(**changes: Any) -> RunFacts:
    usual: dict[str, Any] = {
        "output": Path("runs/small"),
        "steps": 2000,
        "first_step": 0,
        "num_parameters": 800_000,
        "num_trainable": 800_000,
        "rows_per_step": 12,
        "device": "cpu",
        "processes": 1,
        "peak_flops": 1e11,
    }
    return RunFacts(**(usual | changes))


def record(step: int, **changes: Any) -> StepRecord:
    usual: dict[str, Any] = {
        "step": step,
        "train_loss": 2.5,
        "losses": {},
        "learning_rate": 9.5e-4,
        "gradient_norm": 1.25,
        "tokens": 76_800,
        "tokens_per_second": 12_300.0,
        "seconds": 0.25,
        "waited_seconds": 0.0,
        "mfu": 0.21,
        "memory_bytes": 1 << 30,
    }
    return StepRecord(**(usual | changes))


def evaluation(step: int, val_loss: float, *samples: str) -> Evaluation:
    return Evaluation(step=step, val_loss=val_loss, losses={}, seconds=1.0, samples=samples)


def run(panel: TrainingPanel) -> None:
    panel.on_start(facts())
    panel.on_step(record(100))
    panel.on_evaluation(evaluation(100, 2.75, "To be\nor not \x1b[2J"))
    panel.on_checkpoint(100, Path("runs/small/checkpoints/step-00000100"))
    panel.on_step(record(200, train_loss=2.25))
    panel.on_end(is_complete=False)


@pytest.fixture
def pipe() -> Console:
    return Console(file=StringIO(), width=200, force_terminal=False)


@pytest.fixture
def terminal() -> Console:
    return Console(file=StringIO(), width=100, height=40, force_terminal=True, color_system=None)


def written(console: Console) -> str:
    file = console.file
    assert isinstance(file, StringIO)
    return file.getvalue()


def test_into_a_pipe_each_record_is_a_line(pipe: Console) -> None:
    run(TrainingPanel(pipe))
    assert written(pipe).splitlines() == [
        "step 100/2,000  loss 2.5000  lr 9.5e-04  norm 1.25  12,300 tokens/s  MFU 21.0%  7:55 left",
        "step 100: validation loss 2.7500",
        "  To be or not [2J",
        "step 100: checkpoint in runs/small/checkpoints/step-00000100",
        "step 200/2,000  loss 2.2500  lr 9.5e-04  norm 1.25  12,300 tokens/s  MFU 21.0%  7:30 left",
    ]


def test_a_resumed_run_says_where_it_goes_on(pipe: Console) -> None:
    TrainingPanel(pipe).on_start(facts(first_step=500))
    assert written(pipe) == "going on at step 500 of 2,000\n"


def test_a_terminal_shows_all_figures(terminal: Console) -> None:
    run(TrainingPanel(terminal))
    shown = written(terminal)
    for text in (
        "runs/small",
        "step 200 of 2,000",
        "7:30 left",
        "2.2500",
        "2.7500 at step 100",
        "9.50e-04",
        "12,300",
        "21.0%",
        "1.00 GiB",
        "0.0% of the time",
        "800,000",
        "step 100 in runs/small/checkpoints/step-00000100",
        "█▁",
    ):
        assert text in shown, text


def test_what_a_model_wrote_cannot_steer_the_terminal(terminal: Console) -> None:
    run(TrainingPanel(terminal))
    assert "or not [2J" in written(terminal)
    assert "\x1b[2J" not in written(terminal)


def test_before_the_first_record_the_panel_shows_what_is_known(terminal: Console) -> None:
    panel = TrainingPanel(terminal)
    panel.on_start(facts())
    panel.on_end(is_complete=False)
    assert "step 0 of 2,000" in written(terminal)


def test_the_cursor_returns_when_a_run_ends(terminal: Console) -> None:
    run(TrainingPanel(terminal))
    assert written(terminal).rindex("\x1b[?25h") > written(terminal).rindex("\x1b[?25l")


def test_the_best_evaluation_is_kept(terminal: Console) -> None:
    panel = TrainingPanel(terminal)
    panel.on_start(facts())
    for step, loss in ((10, 3.0), (20, 2.0), (30, 2.5), (40, math.nan)):
        panel.on_evaluation(evaluation(step, loss))
    panel.on_end(is_complete=True)
    assert panel.best is not None
    assert panel.best.step == 20


def test_a_device_whose_peak_is_not_known_has_no_share_of_it(terminal: Console) -> None:
    panel = TrainingPanel(terminal)
    panel.on_start(facts())
    panel.on_step(record(100, mfu=None))
    panel.on_end(is_complete=True)
    assert "not known here" in written(terminal)


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(5.0, "0:05"), (65.0, "1:05"), (7200.0, "2:00:00"), (273_600.0, "3 d 04:00:00")],
)
def test_times_are_said_as_a_clock_does(seconds: float, said: str) -> None:
    assert clock(seconds) == said
    assert clock(math.nan) == "?"


def test_a_falling_loss_is_drawn_falling() -> None:
    assert sparkline([8.0, 7, 6, 5, 4, 3, 2, 1], 8) == BLOCKS[::-1]
    assert sparkline([1.0, math.nan, 2.0], 3) == "▁×█"
    assert sparkline([], 10) == ""


@example([1.7976931348623157e308, -9.9792015476736e291], 2)
@given(values=st.lists(st.floats(), min_size=1, max_size=300), width=st.integers(1, 80))
def test_a_curve_fits_into_its_width(values: list[float], width: int) -> None:
    drawn = sparkline(values, width)
    assert len(drawn) == min(width, len(values))
    assert set(drawn) <= {*BLOCKS, "×"}
