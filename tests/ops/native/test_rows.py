"""What stands between a prompt's products says what torch's own calls say."""

import pytest
import torch
from torch import Tensor
from torch.nn.functional import rms_norm, silu

from pharos.ops.int8 import has_vnni, pack_int8_weight, quantize_weight
from pharos.ops.linear import pack_weight
from pharos.ops.native import (
    NativeMatrix,
    bf16_matrix,
    int8_matrix,
    norm_rows,
    silu_and_mul,
    swiglu,
    takes_rows,
)

pytestmark = pytest.mark.usefixtures("native")
dtypes = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])


def close(found: Tensor, expected: Tensor) -> None:
    tolerance = 1e-5 if found.dtype == torch.float32 else 0.016
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance, equal_nan=True)


@dtypes
@pytest.mark.parametrize("size", [(1, 1), (3, 17), (2, 5, 64), (130, 896)])
def test_a_norm_is_torchs(size: tuple[int, ...], dtype: torch.dtype) -> None:
    torch.set_num_threads(1 + len(size) % 2)
    x, weight_D = 3 * torch.randn(size).to(dtype), torch.randn(size[-1]).to(dtype)
    close(norm_rows(x, weight_D, 1e-5), rms_norm(x, weight_D.shape, weight_D, 1e-5))


@dtypes
def test_a_norm_of_a_transposed_tensor_has_its_shape(dtype: torch.dtype) -> None:
    x, weight_D = torch.randn(2, 6, 5, 16).to(dtype).transpose(1, 2), torch.ones(16, dtype=dtype)
    close(norm_rows(x, weight_D, 1e-6), rms_norm(x, (16,), weight_D, 1e-6))


@dtypes
@pytest.mark.parametrize("size", [(1,), (3, 17), (5, 1024), (130, 896)])
def test_a_gate_is_torchs_and_takes_no_memory(size: tuple[int, ...], dtype: torch.dtype) -> None:
    torch.set_num_threads(1 + len(size) % 2)
    gate, up = 4 * torch.randn(size).to(dtype), torch.randn(size).to(dtype)
    expected = silu(gate) * up
    found = silu_and_mul(gate, up)
    close(found, expected)
    assert found.data_ptr() == gate.data_ptr()


@dtypes
def test_what_is_no_number_stays_none_and_large_ones_stay_numbers(dtype: torch.dtype) -> None:
    x = torch.tensor([[1.0, float("nan")], [2.0, 3.0]]).to(dtype)
    close(norm_rows(x, torch.ones(2).to(dtype), 1e-5), rms_norm(x, (2,), eps=1e-5))
    gate = torch.tensor([float("nan"), 300.0, -300.0, 0.0]).to(dtype)
    close(silu_and_mul(gate.clone(), torch.ones(4).to(dtype)), silu(gate))


def pair_of(kind: str, inner: int, width: int) -> tuple[NativeMatrix, NativeMatrix]:
    """Gate and up. Skips where they do not take many rows."""
    torch.manual_seed(inner)
    made = [_matrix(kind, torch.randn(inner, width) / width**0.5, torch.randn(inner))] * 2
    made[1] = _matrix(kind, torch.randn(inner, width) / width**0.5, torch.randn(inner))
    first, second = made
    if first is None or second is None or not first.takes_many(rows_of(65, width)):
        pytest.skip("prompts are multiplied by torch on this processor")
    return first, second


def _matrix(kind: str, weight_OI: Tensor, bias_O: Tensor) -> NativeMatrix | None:
    if kind == "bf16":
        return bf16_matrix(pack_weight(weight_OI.bfloat16()), bias_O.bfloat16())
    if not has_vnni():
        return None
    codes_OI, scale_O = quantize_weight(weight_OI)
    return int8_matrix(pack_int8_weight(codes_OI), scale_O / 127, bias_O)


def rows_of(num_rows: int, width: int) -> Tensor:
    return torch.randn(num_rows, width, generator=torch.Generator().manual_seed(0)).bfloat16()


def test_matrices_that_lie_in_two_ways_are_not_multiplied_together() -> None:
    in_bytes, _ = pair_of("w8a8", 96, 64)
    halves, _ = pair_of("bf16", 96, 64)
    other, _ = pair_of("w8a8", 100, 64)
    assert in_bytes.lies_as(in_bytes)
    assert not in_bytes.lies_as(halves)
    assert not in_bytes.lies_as(other)
    with pytest.raises(AssertionError):
        swiglu(in_bytes, halves, rows_of(100, 64))


@pytest.mark.parametrize("kind", ["bf16", "w8a8"])
@pytest.mark.parametrize("size", [(96, 64), (100, 72), (65, 132)])
@pytest.mark.parametrize("num_rows", [65, 128, 129, 300])
def test_gated_products_are_the_gate_of_both_products(
    kind: str, size: tuple[int, int], num_rows: int
) -> None:
    gate, up = pair_of(kind, *size)
    x_ND = rows_of(num_rows, size[1])
    torch.set_num_threads(1 + num_rows % 2)
    found = swiglu(gate, up, x_ND)
    assert torch.equal(found, silu_and_mul(gate(x_ND), up(x_ND)))
    if kind == "w8a8":
        close(swiglu(gate, up, x_ND.float()), silu_and_mul(gate(x_ND.float()), up(x_ND.float())))


@pytest.mark.parametrize("kind", ["bf16", "w8a8"])
def test_a_gated_row_depends_neither_on_its_neighbours_nor_on_the_threads(kind: str) -> None:
    gate, up = pair_of(kind, 100, 72)
    x_ND = rows_of(300, 72)
    torch.set_num_threads(1)
    alone = swiglu(gate, up, x_ND)
    torch.set_num_threads(3)
    assert torch.equal(swiglu(gate, up, x_ND[200:]), alone[200:])


def test_kernels_take_floats_of_the_processor_that_need_no_gradient() -> None:
    assert takes_rows(torch.ones(2, 3))
    assert takes_rows(torch.ones(2, 3).bfloat16())
    assert not takes_rows(torch.ones(2, 3).double())
    assert not takes_rows(torch.ones(0, 3))
    assert not takes_rows(torch.ones(2, 3), torch.ones(3).bfloat16())
    assert not takes_rows(torch.ones(2, 3, device="meta"))
    learned = torch.ones(2, 3, requires_grad=True)
    assert not takes_rows(torch.ones(2, 3), learned)
    with torch.no_grad():
        assert takes_rows(learned)
