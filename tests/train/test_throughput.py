"""What a device could do."""

from collections.abc import Iterator

import pytest
import torch

from pharos.train import throughput
from pharos.train.throughput import peak_flops

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def unmeasured() -> Iterator[None]:
    """What other tests have measured is forgotten, and what these pretend."""
    throughput._measured_flops.cache_clear()
    yield
    throughput._measured_flops.cache_clear()


def pretend(monkeypatch: pytest.MonkeyPatch, seconds_of: dict[int, float]) -> list[int]:
    """A processor that takes so many seconds for matrices of a size; the sizes it is asked for."""
    sizes: list[int] = []

    def seconds(matrix: torch.Tensor) -> float:
        sizes.append(len(matrix))
        return seconds_of[len(matrix)]

    monkeypatch.setattr(throughput, "_seconds", seconds)
    return sizes


def test_the_peak_is_that_of_the_best_size_and_is_measured_once_for_each_type(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(throughput, "MEASURED_S", 60.0)
    sizes = pretend(monkeypatch, {256: 0.001, 512: 0.002, 1024: 0.1})
    assert peak_flops(CPU, torch.float32) == 2 * 512**3 / 0.002
    expected = [256, *throughput.SIZES]  # the first wakes the threads
    assert sizes == expected
    peak_flops(CPU, torch.float32)
    assert sizes == expected
    peak_flops(CPU, torch.bfloat16)
    assert sizes == expected * 2


def test_a_type_that_is_slow_is_not_measured_with_large_matrices(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(throughput, "MEASURED_S", 0.0)
    sizes = pretend(monkeypatch, {256: 0.1})
    assert peak_flops(CPU, torch.float16) == 2 * 256**3 / 0.1
    assert sizes == [256, 256]


def test_what_a_processor_does_is_a_plausible_number() -> None:
    assert 1e7 < peak_flops(CPU, torch.float32) < 1e15
