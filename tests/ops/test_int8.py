import pytest
import torch

from pharos.ops.int8 import (
    FEW_ROWS,
    ZERO,
    can_multiply_int8_weight,
    has_vnni,
    int8_matmul,
    int8_weight_matmul,
    pack_int8_weight,
    plain_int8_matmul,
    plain_int8_weight_matmul,
    quantize_around_zero,
    quantize_rows,
    quantize_weight,
    unpack_int8_weight,
)


def test_a_row_comes_back_within_half_a_step_at_any_size() -> None:
    x_NI = torch.randn(20, 64) * torch.logspace(-6, 6, 20)[:, None]
    q_NI, scale_N1, lowest_N1 = quantize_rows(x_NI)
    back_NI = q_NI.float() * scale_N1 + lowest_N1
    assert ((back_NI - x_NI).abs() <= 0.501 * scale_N1).all()


def test_a_row_uses_the_whole_range() -> None:
    q_NI, _, _ = quantize_rows(torch.tensor([[0.0, 7.0], [-9.0, -2.0]]))
    assert q_NI.tolist() == [[0, 255], [0, 255]]


@pytest.mark.parametrize("value", [0.0, 5.0, -1e9])
def test_a_row_of_one_value_comes_back_exactly(value: float) -> None:
    q_NI, scale_N1, lowest_N1 = quantize_rows(torch.full((2, 8), value))
    torch.testing.assert_close(q_NI * scale_N1 + lowest_N1, torch.full((2, 8), value))


def test_a_row_is_quantized_alike_whatever_stands_beside_it() -> None:
    x_NI = torch.randn(8, 32)
    alone, *_ = quantize_rows(x_NI[:1])
    together, *_ = quantize_rows(torch.cat([x_NI[:1], 1000 * x_NI[1:]]))
    assert torch.equal(alone, together[:1])


def test_an_output_without_weights_is_zero_and_finite() -> None:
    weight_OI, scale_O = quantize_weight(torch.tensor([[0.0, 0.0], [1.0, -2.0]]))
    assert weight_OI.tolist() == [[0, 0], [64, -127]]
    assert scale_O.isfinite().all()


@pytest.mark.parametrize("rows", [1, 16, 130])
@pytest.mark.skipif(not has_vnni(), reason="this CPU has no eight-bit multiplication")
def test_the_multiplication_equals_its_plain_twin(rows: int) -> None:
    q_NI = torch.randint(0, 256, (rows, 384), dtype=torch.uint8)
    weight_OI, scale_O = quantize_weight(torch.randn(96, 384))
    fast_NO = int8_matmul(q_NI, pack_int8_weight(weight_OI), scale_O)
    plain_NO = plain_int8_matmul(q_NI, weight_OI, scale_O)
    torch.testing.assert_close(fast_NO, plain_NO, atol=1e-2, rtol=1e-5)


def test_around_zero_a_row_comes_back_within_half_a_step_and_zero_exactly() -> None:
    x_NI = torch.randn(20, 64) * torch.logspace(-6, 6, 20)[:, None]
    x_NI[:, 5] = 0
    q_NI, most_N1 = quantize_around_zero(x_NI)
    back_NI = (q_NI.float() - ZERO) * most_N1 / 127
    assert ((back_NI - x_NI).abs() <= 0.501 * most_N1 / 127).all()
    assert (back_NI[:, 5] == 0).all()
    assert int(q_NI.min()) >= 1


def test_a_row_of_zeros_stays_one() -> None:
    q_NI, most_N1 = quantize_around_zero(torch.zeros(2, 8))
    assert (q_NI == ZERO).all()
    assert (most_N1 < 1e-6).all()


@pytest.mark.skipif(not has_vnni(), reason="no eight-bit multiplication here")
def test_what_was_packed_can_be_unpacked() -> None:
    weight_OI, _ = quantize_weight(torch.randn(48, 64))
    assert torch.equal(unpack_int8_weight(pack_int8_weight(weight_OI)), weight_OI)


@pytest.mark.skipif(not has_vnni(), reason="no eight-bit multiplication here")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_products_around_zero_equal_their_twin(dtype: torch.dtype) -> None:
    q_NI, _ = quantize_around_zero(torch.randn(7, 64))
    weight_OI, scale_O = quantize_weight(torch.randn(48, 64))
    fast = int8_matmul(q_NI, pack_int8_weight(weight_OI), scale_O, zero=ZERO, dtype=dtype)
    plain = plain_int8_matmul(q_NI, weight_OI, scale_O, zero=ZERO, dtype=dtype)
    torch.testing.assert_close(fast, plain, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("rows", [1, FEW_ROWS, FEW_ROWS + 1, 100])
def test_bytes_are_multiplied_as_their_twin(rows: int) -> None:
    x_NI = torch.randn(rows, 64).bfloat16()
    weight_OI, scale_O = quantize_weight(torch.randn(300, 64), torch.bfloat16)
    assert can_multiply_int8_weight(weight_OI)
    found = int8_weight_matmul(x_NI, weight_OI, scale_O)
    plain = plain_int8_weight_matmul(x_NI, weight_OI, scale_O)
    torch.testing.assert_close(found, plain, rtol=2e-2, atol=0.1)


@pytest.mark.parametrize("num_inputs", [8, 24, 40])
def test_inputs_that_torchs_kernel_would_read_beyond_are_left_to_the_twin(num_inputs: int) -> None:
    assert not can_multiply_int8_weight(torch.zeros(4, num_inputs, dtype=torch.int8))
