import importlib.util
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pharos.core.errors import TrainingError
from pharos.train.gradients import GradientScaler, clip_gradients

DRIVER = Path(__file__).with_name("sharded_driver.py")


def weights(*gradients: list[float]) -> list[nn.Parameter]:
    made = [nn.Parameter(torch.zeros(len(gradient))) for gradient in gradients]
    for parameter, gradient in zip(made, gradients, strict=True):
        parameter.grad = torch.tensor(gradient)
    return made


def gradients_of(parameters: list[nn.Parameter]) -> list[list[float]]:
    return [p.grad.tolist() for p in parameters if p.grad is not None]


def test_the_norm_is_that_of_all_gradients_together() -> None:
    assert clip_gradients(weights([3.0], [0.0, 4.0]), None) == 5.0


def test_gradients_are_scaled_to_the_highest_norm() -> None:
    parameters = weights([3.0], [0.0, 4.0])
    assert clip_gradients(parameters, 1.0) == 5.0
    assert gradients_of(parameters) == [pytest.approx([0.6]), pytest.approx([0.0, 0.8])]


def test_smaller_gradients_are_left_bit_for_bit() -> None:
    parameters = weights([0.1], [0.2, 0.3])
    before = gradients_of(parameters)
    clip_gradients(parameters, 1.0)
    assert gradients_of(parameters) == before


def test_parameters_without_a_gradient_do_not_count() -> None:
    assert clip_gradients([nn.Parameter(torch.ones(3)), *weights([2.0])], 1.0) == 2.0
    assert clip_gradients([nn.Parameter(torch.ones(3))], 1.0) == 0.0


@pytest.mark.parametrize("value", [math.inf, math.nan])
def test_gradients_that_are_not_finite_are_told_and_not_spread(value: float) -> None:
    parameters = weights([1.0], [value])
    assert not math.isfinite(clip_gradients(parameters, 1.0))
    assert gradients_of(parameters)[0] == [1.0]


class Scaled:
    """A parameter, a scaler, and steps with given gradients."""

    def __init__(self, **settings: Any) -> None:
        self.weight = nn.Parameter(torch.zeros(2))
        self.optimizer = torch.optim.SGD([self.weight], lr=1.0)
        self.scaler = GradientScaler(is_enabled=True, **settings)

    def step(self, gradient: list[float]) -> bool:
        """`gradient` is that of the loss that is not scaled."""
        self.weight.grad = torch.tensor(gradient) * self.scaler.factor
        self.scaler.unscale(self.optimizer)
        return self.scaler.step(self.optimizer)


def test_the_scale_of_the_loss_does_not_reach_the_weights() -> None:
    run = Scaled(scale=1024.0)
    assert run.step([0.25, -0.5])
    assert run.weight.tolist() == [-0.25, 0.5]


def test_a_loss_is_multiplied_by_the_scale() -> None:
    assert GradientScaler(is_enabled=True, scale=8.0).scale(torch.tensor(2.0)) == 16.0


@pytest.mark.parametrize("value", [math.inf, math.nan])
def test_an_overflow_leaves_the_step_out_and_halves_the_scale(value: float) -> None:
    run = Scaled(scale=1024.0)
    assert not run.step([1.0, value])
    assert run.weight.tolist() == [0.0, 0.0]
    assert run.scaler.factor == 512.0
    assert run.step([1.0, 1.0])


def test_the_scale_doubles_after_so_many_good_steps_in_a_row() -> None:
    run = Scaled(scale=4.0, growth_interval=3)
    scales = []
    for value in (1.0, 1.0, math.inf, 1.0, 1.0, 1.0, 1.0):
        run.step([value, 0.0])
        scales.append(run.scaler.factor)
    assert scales == [4.0, 4.0, 2.0, 2.0, 2.0, 4.0, 4.0]


def test_gradients_that_overflow_at_every_scale_end_the_run() -> None:
    run = Scaled(scale=2.0)
    run.step([math.nan, 0.0])
    with pytest.raises(TrainingError, match="train with precision bf16 or fp32"):
        run.step([math.nan, 0.0])


def test_a_scaler_that_is_not_enabled_does_nothing() -> None:
    run = Scaled()
    run.scaler = GradientScaler(is_enabled=False)
    assert run.scaler.scale(torch.tensor(2.0)) == 2.0
    assert run.step([1.0, 2.0])
    assert run.weight.tolist() == [-1.0, -2.0]


def test_a_resumed_scaler_goes_on_alike() -> None:
    first, second = Scaled(growth_interval=5), Scaled(growth_interval=5)
    for value in (math.inf, 1.0, 1.0):
        first.step([value, 0.0])
    second.scaler.load_state_dict(first.scaler.state_dict())
    for _ in range(4):
        for run in (first, second):
            run.step([1.0, 0.0])
    assert first.scaler.state_dict() == second.scaler.state_dict()


# -- parameters that several processes share


@pytest.fixture(scope="module")
def alone() -> dict[str, Any]:
    spec = importlib.util.spec_from_file_location("sharded_driver", DRIVER)
    assert spec is not None and spec.loader is not None
    driver = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(driver)
    found: dict[str, Any] = driver.results(lambda name, tensor: tensor)
    return found


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of two processes found."""
    folder = tmp_path_factory.mktemp("shared")
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(DRIVER)]
    processes = [
        subprocess.Popen([*command, str(rank), "2", str(folder)], env=env) for rank in range(2)
    ]
    assert [process.wait(timeout=120) for process in processes] == [0, 0]
    return [torch.load(folder / f"rank-{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.mark.parametrize("what", ["muon", "adamw", "adamw8bit"])
def test_shared_parameters_are_treated_as_whole_ones(
    alone: dict[str, Any], shared: list[dict[str, Any]], what: str
) -> None:
    for found in shared:
        for name, tensor in alone[what].items():
            shown: Tensor = found[what][name]
            torch.testing.assert_close(shown, tensor, rtol=1e-5, atol=1e-6, msg=name)


def test_all_processes_leave_a_step_out_where_one_overflowed(shared: list[dict[str, Any]]) -> None:
    assert [found["overflow"] for found in shared] == [(False, 512.0, True)] * 2
