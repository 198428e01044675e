"""What accelerators can do, as their makers say: dense peaks, no sparsity.

The price of an hour is an assumption, a rough on-demand price of a cloud: whoever plans with money
gives their own.
"""

import re
from dataclasses import dataclass

TFLOPS = {
    "V100": 125,  # float16: it has no bfloat16
    "T4": 65,  # likewise
    "A10": 125,
    "A100": 312,
    "H100": 989,
    "H200": 989,
    "B200": 2250,
    "MI300X": 1307,
    "L4": 121,
    "L40": 181,
    "L40S": 362,
    "RTX 3090": 71,
    "RTX 4090": 165,
    "TPU v4": 275,
}
"""In bfloat16, by the name that its maker gives an accelerator."""


def known_flops(name: str) -> float | None:
    """FLOP/s at best of the accelerator that a driver calls so (`NVIDIA A100-SXM4-80GB`), or None
    for one that is not known. Names are whole words: an L40S is no L40."""
    for accelerator, tflops in TFLOPS.items():
        if re.search(rf"\b{accelerator}\b", name):
            return tflops * 1e12
    return None


@dataclass(frozen=True, kw_only=True, slots=True)
class Device:
    """`flops` are FLOP/s in bf16 (fp16 where there is no bf16), `fp8_flops` those in fp8 or None;
    `memory` is in bytes, `bandwidth` in bytes per second, `price` in US dollars per hour."""

    name: str
    flops: float
    memory: float
    bandwidth: float
    price: float
    fp8_flops: float | None = None


def _device(
    name: str, accelerator: str, gb: float, gb_per_s: float, price: float, fp8: float | None = None
) -> Device:
    return Device(
        name=name,
        flops=TFLOPS[accelerator] * 1e12,
        memory=gb * 1e9,
        bandwidth=gb_per_s * 1e9,
        price=price,
        fp8_flops=None if fp8 is None else fp8 * 1e12,
    )


DEVICES = (
    _device("v100", "V100", 32, 900, 0.80),
    _device("a100-40", "A100", 40, 1555, 1.30),
    _device("a100-80", "A100", 80, 2039, 1.80),
    _device("h100", "H100", 80, 3350, 2.50, fp8=1979),
    _device("h200", "H200", 141, 4800, 3.20, fp8=1979),
    _device("b200", "B200", 180, 8000, 5.00, fp8=4500),
    _device("mi300x", "MI300X", 192, 5300, 2.50, fp8=2615),
    _device("l4", "L4", 24, 300, 0.70, fp8=242),
    _device("l40s", "L40S", 48, 864, 1.00, fp8=733),
    _device("rtx-3090", "RTX 3090", 24, 936, 0.25),
    _device("rtx-4090", "RTX 4090", 24, 1008, 0.40, fp8=330),
    _device("tpu-v4", "TPU v4", 32, 1200, 3.20),
)


def device_named(name: str) -> Device:
    for device in DEVICES:
        if device.name == name.casefold():
            return device
    choices = ", ".join(device.name for device in DEVICES)
    raise ValueError(f"unknown GPU {name!r}; choose from {choices}")
