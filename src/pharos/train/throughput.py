"""What a device could do, and what it holds."""

import resource
import sys
import time
from functools import cache

import torch

from pharos.train.planner.devices import known_flops

SIZES = (256, 512, 1024, 1024, 1024, 1024)
"""Of the square matrices that a CPU is measured with. Few processors multiply float16 at speed: the
others are not asked for the larger ones."""
MEASURED_S = 0.1
"""Seconds after which no larger ones are multiplied."""


def peak_flops(device: torch.device, dtype: torch.dtype) -> float:
    """Floating-point operations a second at best, of one device: from the data sheet for a GPU that
    is known (0 for another), by multiplying matrices for a CPU."""
    if device.type == "cuda":
        flops = known_flops(torch.cuda.get_device_name(device)) or 0.0
        return flops / (1 if dtype != torch.float32 else 2)
    return _measured_flops(dtype, torch.get_num_threads())


@cache
def _measured_flops(dtype: torch.dtype, num_threads: int) -> float:
    """By so many threads of torch, which a first product wakes."""
    _seconds(torch.ones(SIZES[0], SIZES[0], dtype=dtype))
    best, began = 0.0, time.perf_counter()
    for size in SIZES:
        best = max(best, 2 * size**3 / _seconds(torch.ones(size, size, dtype=dtype)))
        if time.perf_counter() - began > MEASURED_S:
            break
    return best


def memory_in_use(device: torch.device) -> int:
    """Bytes at the highest point so far: of the device's memory, or of this process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _seconds(matrix: torch.Tensor) -> float:
    """For one product."""
    started = time.perf_counter()
    matrix @ matrix
    return time.perf_counter() - started
