"""What a device could do, and what it holds."""

import resource
import sys
import time

import torch

from pharos.train.planner.devices import known_flops


def peak_flops(device: torch.device, dtype: torch.dtype) -> float:
    """Floating-point operations a second at best, of one device: from the data sheet for a GPU that
    is known (0 for another), by multiplying two matrices for a CPU."""
    if device.type == "cuda":
        flops = known_flops(torch.cuda.get_device_name(device)) or 0.0
        return flops / (1 if dtype != torch.float32 else 2)
    size = 1024
    a, b = torch.ones(size, size, dtype=dtype), torch.ones(size, size, dtype=dtype)
    best = min(_seconds(a, b) for _ in range(5))
    return 2 * size**3 / best


def memory_in_use(device: torch.device) -> int:
    """Bytes at the highest point so far: of the device's memory, or of this process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _seconds(a: torch.Tensor, b: torch.Tensor) -> float:
    started = time.perf_counter()
    a @ b
    return time.perf_counter() - started
