"""What a device could do, and what it holds."""

import resource
import sys
import time

import torch

TENSOR_CORE_FLOPS = {  # dense bfloat16, from the makers' data sheets
    "A100": 312e12,
    "A10": 125e12,
    "L4": 121e12,
    "L40": 181e12,
    "RTX 3090": 71e12,
    "RTX 4090": 165e12,
    "V100": 125e12,  # float16: it has no bfloat16
    "T4": 65e12,  # likewise
    "H100": 989e12,
    "H200": 989e12,
    "B200": 2250e12,
}


def peak_flops(device: torch.device, dtype: torch.dtype) -> float:
    """Floating-point operations a second at best, of one device: from the data sheet for a GPU that
    is known (0 for another), by multiplying two matrices for a CPU."""
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        known = [flops for part, flops in TENSOR_CORE_FLOPS.items() if part in name]
        return max(known, default=0.0) / (1 if dtype != torch.float32 else 2)
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
