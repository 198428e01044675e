"""One line on the machine a figure was measured on.

python benchmarks/hardware.py
"""

import os
import platform
import time
from pathlib import Path

import torch

ISA = ("avx2", "avx512_f", "avx_vnni", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8")


def cpu_model() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def usable_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def describe() -> str:
    """CPU, cores, what it multiplies in hardware, GPU if any, and the versions that matter."""
    capabilities = torch.cpu.get_capabilities()
    isa = ", ".join(flag for flag in ISA if capabilities.get(flag)) or platform.machine()
    gpu = f"; {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return (
        f"{cpu_model()}, {usable_cores()} cores ({isa}){gpu}; {platform.system()}, "
        f"Python {platform.python_version()}, torch {torch.__version__}"
    )


def memory_bandwidth() -> float:
    """Bytes per second that one pass of all threads over more memory than the caches hold reads, at
    best."""
    block = torch.ones(2**27)
    seconds = []
    for _ in range(5):
        started = time.perf_counter()
        block.sum()
        seconds.append(time.perf_counter() - started)
    return block.nbytes / min(seconds)


if __name__ == "__main__":
    print(describe())
