import pytest

from pharos.train.planner.devices import DEVICES, TFLOPS, device_named, known_flops


@pytest.mark.parametrize(
    ("name", "tflops"),
    [
        ("NVIDIA L40S", 362),
        ("NVIDIA L40", 181),
        ("NVIDIA L4", 121),
        ("NVIDIA A10", 125),
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H200", 989),
        ("NVIDIA GeForce RTX 4090", 165),
        ("Tesla V100-SXM2-32GB", 125),
        ("Tesla T4", 65),
        ("AMD Instinct MI300X", 1307),
    ],
)
def test_a_drivers_name_tells_the_accelerator(name: str, tflops: float) -> None:
    assert known_flops(name) == tflops * 1e12


@pytest.mark.parametrize("name", ["NVIDIA A10G", "NVIDIA GB200", "Quadro P400", ""])
def test_an_accelerator_that_is_not_known_is_not_taken_for_another(name: str) -> None:
    assert known_flops(name) is None


def test_a_plan_counts_with_what_a_run_is_measured_against() -> None:
    assert device_named("l40s").flops == known_flops("NVIDIA L40S")
    assert {device.flops for device in DEVICES} <= {tflops * 1e12 for tflops in TFLOPS.values()}
