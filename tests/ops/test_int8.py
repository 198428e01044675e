import pytest
import torch

from pharos.ops.int8 import (
    has_vnni,
    int8_matmul,
    pack_int8_weight,
    plain_int8_matmul,
    quantize_rows,
    quantize_weight,
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
