import math
import random
from pathlib import Path

import pytest
import torch

from pharos.core.errors import TrainingError
from pharos.train.watchdog import Watchdog

BATCHES = [{"ids": torch.tensor([[1, 2, 3]])}, {"ids": torch.tensor([[4, 5, 6]])}]


def watched(tmp_path: Path, losses: list[float], dog: Watchdog | None = None) -> Watchdog:
    dog = dog or Watchdog()
    for step, loss in enumerate(losses):
        dog.check(step, loss, BATCHES, tmp_path)
    return dog


def falling(steps: int, noise: float = 0.1) -> list[float]:
    """A loss as a run has it: from 11 down to 3, noisy."""
    numbers = random.Random(0)
    return [3 + 8 * math.exp(-step / 300) + numbers.gauss(0, noise) for step in range(steps)]


def test_a_healthy_run_is_left_alone(tmp_path: Path) -> None:
    watched(tmp_path, falling(3000))
    assert list(tmp_path.iterdir()) == []


def test_a_loss_that_hardly_varies_may_vary_a_little(tmp_path: Path) -> None:
    watched(tmp_path, [*[2.0] * 100, 2.1])


def test_what_is_left_of_a_learned_loss_may_leap(tmp_path: Path) -> None:
    learned = [5.0, *[0.02] * 100, 1.2, 0.01]
    watched(tmp_path, learned)
    resumed = Watchdog()
    resumed.load_state_dict(watched(tmp_path, learned).state_dict())
    watched(tmp_path, [2.4], resumed)
    with pytest.raises(TrainingError, match=r"is 2\.6, and the last \d+ let at most 2\.5"):
        watched(tmp_path, [2.6], resumed)


def test_losses_far_below_are_good_news(tmp_path: Path) -> None:
    watched(tmp_path, [*falling(500), 0.01])


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_no_number_stops_the_first_step(tmp_path: Path, loss: float) -> None:
    with pytest.raises(TrainingError, match=r"the loss of step 0 is .*no number to learn from"):
        watched(tmp_path, [loss])


@pytest.mark.parametrize("norm", [math.nan, math.inf])
def test_a_gradient_that_is_no_number_stops_the_step(tmp_path: Path, norm: float) -> None:
    Watchdog().check_gradient(7, 12.5, BATCHES, tmp_path)
    with pytest.raises(TrainingError, match=f"the gradient of step 7 has the norm {norm}"):
        Watchdog().check_gradient(7, norm, BATCHES, tmp_path)
    assert (tmp_path / "stopped-at-00000007.pt").is_file()


def test_a_leap_stops_the_run_and_says_how_far_it_is(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"step 600 is 9, and the last 128 let at most 6\.\d+"):
        watched(tmp_path, [*falling(600), 9.0])


def test_a_leap_is_not_judged_while_little_is_known(tmp_path: Path) -> None:
    watched(tmp_path, [*[3.0] * 31, 9.0])
    with pytest.raises(TrainingError):
        watched(tmp_path, [*[3.0] * 32, 9.0])


def test_one_odd_loss_does_not_widen_what_is_let_through(tmp_path: Path) -> None:
    dog = watched(tmp_path, falling(500))
    before = dog.limit()
    dog.losses.append(1000.0)
    assert dog.limit() == pytest.approx(before, rel=0.05)


def test_the_batch_of_the_step_can_be_read_again(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"its batch is in .*stopped-at-00000000\.pt"):
        watched(tmp_path / "new", [math.nan])
    saved = torch.load(tmp_path / "new" / "stopped-at-00000000.pt", weights_only=True)
    assert [batch["ids"].tolist() for batch in saved["batches"]] == [[[1, 2, 3]], [[4, 5, 6]]]
    assert saved["step"] == 0


def test_a_batch_that_cannot_be_saved_does_not_hide_the_reason(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(TrainingError, match=r"is nan.*could not be saved"):
        watched(tmp_path / "file", [math.nan])


def test_a_resumed_watchdog_judges_alike(tmp_path: Path) -> None:
    dog, resumed = watched(tmp_path, falling(300)), Watchdog()
    torch.save(dog.state_dict(), tmp_path / "state.pt")
    resumed.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert resumed.limit() == dog.limit()
    watched(tmp_path, falling(200), dog)
    watched(tmp_path, falling(200), resumed)
    assert resumed.losses == dog.losses
