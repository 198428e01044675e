import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pharos.train.optimizers.dynamic_map import (
    BLOCK,
    dequantize,
    dynamic_map,
    quantize,
    quantize_plain,
)

BOTH = pytest.mark.parametrize("signed", [True, False])


def blocks(*, signed: bool, num: int = 8, seed: int = 0) -> torch.Tensor:
    """Numbers over twelve decades."""
    generator = torch.Generator().manual_seed(seed)
    magnitudes = 10.0 ** (torch.rand(num, BLOCK, generator=generator) * -12)
    signs = torch.randint(0, 2, (num, BLOCK), generator=generator) * 2 - 1
    return magnitudes * signs if signed else magnitudes


def test_the_signed_map_has_the_published_values() -> None:
    """Those that bitsandbytes (0.50) computes: its first, those about zero, and its last."""
    values = dynamic_map(signed=True)
    assert values[:2].tolist() == pytest.approx([-0.99296874, -0.97890627])
    assert values[126:131].tolist() == pytest.approx([-5.5e-7, 0.0, 5.5e-7, 3.25e-6, 7.75e-6])
    assert values[-3:].tolist() == pytest.approx([0.97890627, 0.99296874, 1.0])


def test_the_unsigned_map_has_the_published_values() -> None:
    values = dynamic_map(signed=False)
    assert values[:3].tolist() == pytest.approx([0.0, 3.25e-7, 7.75e-7])
    middle = [0.099296875, 0.103515625, 0.110546872, 0.117578126]
    assert values[126:130].tolist() == pytest.approx(middle)
    assert values[-3:].tolist() == pytest.approx([0.98945311, 0.99648438, 1.0])


@BOTH
def test_a_map_has_256_values_in_ascending_order(signed: bool) -> None:
    values = dynamic_map(signed=signed)
    assert values.shape == (256,)
    assert (values.diff() > 0).all()


@BOTH
def test_the_fast_way_finds_the_same_codes_as_comparing_with_every_value(signed: bool) -> None:
    x_NC = blocks(signed=signed)
    codes, scales = quantize(x_NC, signed=signed)
    plain_codes, plain_scales = quantize_plain(x_NC, signed=signed)
    assert torch.equal(codes, plain_codes)
    assert torch.equal(scales, plain_scales)


@BOTH
def test_the_fast_way_is_exact_about_the_middle_between_two_values(signed: bool) -> None:
    values = dynamic_map(signed=signed)
    middle = (values[:-1] + values[1:]) / 2
    one = torch.ones(1)
    numbers = (middle.nextafter(-one), middle, middle.nextafter(one), one)
    codes, _ = quantize(torch.cat(numbers)[None], signed=signed)
    below, at, above, _ = codes[0].int().split([255, 255, 255, 1])
    assert below.tolist() == at.tolist() == list(range(255))
    assert above.tolist() == list(range(1, 256))


@BOTH
@pytest.mark.parametrize("seed", range(3))
def test_the_error_is_at_most_half_the_distance_of_neighbouring_values(
    signed: bool, seed: int
) -> None:
    x_NC = blocks(signed=signed, seed=seed)
    codes, scale_N1 = quantize(x_NC, signed=signed)
    values = dynamic_map(signed=signed)
    gaps = torch.cat((values.diff()[:1], values.diff(), values.diff()[-1:]))
    widest = torch.maximum(gaps[codes.int()], gaps[codes.int() + 1]) / 2
    error = (dequantize(codes, scale_N1, signed=signed) - x_NC).abs()
    assert (error <= widest * scale_N1 * (1 + 1e-5)).all()


@BOTH
def test_numbers_near_the_largest_are_kept_within_eight_percent(signed: bool) -> None:
    x_NC = blocks(signed=signed)
    near_NC = x_NC.abs() > 0.1 * x_NC.abs().amax(dim=1, keepdim=True)
    back_NC = dequantize(*quantize(x_NC, signed=signed), signed=signed)
    assert ((back_NC - x_NC).abs() / x_NC.abs())[near_NC].max() < 0.08


def test_what_came_from_codes_goes_back_to_the_same_codes() -> None:
    """(The signed map lacks -1, so a block whose largest number is negative shrinks a little.)"""
    codes, scales = quantize(blocks(signed=False), signed=False)
    again, same_scales = quantize(dequantize(codes, scales, signed=False), signed=False)
    assert torch.equal(again, codes)
    assert torch.equal(same_scales, scales)


@given(scale=st.floats(1e-30, 1e30), seed=st.integers(0, 100))
@settings(max_examples=30, deadline=None)
def test_the_largest_number_of_a_block_is_kept_exactly(scale: float, seed: int) -> None:
    x_NC = blocks(signed=False, num=1, seed=seed) * scale
    back_NC = dequantize(*quantize(x_NC, signed=False), signed=False)
    assert back_NC.max() == x_NC.max()


@BOTH
def test_zeros_stay_zeros(signed: bool) -> None:
    codes, scales = quantize(torch.zeros(2, BLOCK), signed=signed)
    assert not dequantize(codes, scales, signed=signed).any()


def test_blocks_do_not_disturb_each_other() -> None:
    small_NC, large_NC = blocks(signed=True, num=1) * 1e-9, blocks(signed=True, num=1) * 1e9
    together = dequantize(*quantize(torch.cat((small_NC, large_NC)), signed=True), signed=True)
    alone = dequantize(*quantize(small_NC, signed=True), signed=True)
    assert torch.equal(together[:1], alone)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_block_with_a_number_that_is_none_does_not_come_back_as_numbers(value: float) -> None:
    x_NC = blocks(signed=True, num=1)
    x_NC[0, 3] = value
    assert not dequantize(*quantize(x_NC, signed=True), signed=True).isfinite().all()
