"""What accelerators can do, as their makers say: dense peaks, no sparsity.

The price of an hour is an assumption, a rough on-demand price of a cloud: whoever plans with money
gives their own.
"""

from dataclasses import dataclass


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
    name: str, tflops: float, gb: float, gb_per_s: float, price: float, fp8: float | None = None
) -> Device:
    return Device(
        name=name,
        flops=tflops * 1e12,
        memory=gb * 1e9,
        bandwidth=gb_per_s * 1e9,
        price=price,
        fp8_flops=None if fp8 is None else fp8 * 1e12,
    )


DEVICES = (
    _device("v100", 125, 32, 900, 0.80),
    _device("a100-40", 312, 40, 1555, 1.30),
    _device("a100-80", 312, 80, 2039, 1.80),
    _device("h100", 989, 80, 3350, 2.50, fp8=1979),
    _device("h200", 989, 141, 4800, 3.20, fp8=1979),
    _device("b200", 2250, 180, 8000, 5.00, fp8=4500),
    _device("mi300x", 1307, 192, 5300, 2.50, fp8=2615),
    _device("l4", 121, 24, 300, 0.70, fp8=242),
    _device("l40s", 362, 48, 864, 1.00, fp8=733),
    _device("rtx-3090", 71, 24, 936, 0.25),
    _device("rtx-4090", 165, 24, 1008, 0.40, fp8=330),
    _device("tpu-v4", 275, 32, 1200, 3.20),
)


def device_named(name: str) -> Device:
    for device in DEVICES:
        if device.name == name.casefold():
            return device
    choices = ", ".join(device.name for device in DEVICES)
    raise ValueError(f"unknown GPU {name!r}; choose from {choices}")
