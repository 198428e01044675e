import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from pharos.models.doubles import tiny_llama
from pharos.ops.nf4 import (
    CODES,
    byte_codes,
    dequantize_magnitudes,
    dequantize_nf4,
    nf4_codes,
    plain_dequantize_nf4,
    quantize_magnitudes,
    quantize_nf4,
)
from pharos.quant import Nf4Linear, bits_per_weight, convert_nf4
from pharos.quant.nf4 import STATE

torch.set_num_threads(1)


def linear(rows: int, columns: int, *, seed: int = 0) -> nn.Linear:
    layer = nn.Linear(columns, rows)
    generator = torch.Generator().manual_seed(seed)
    layer.weight.data.normal_(std=0.05, generator=generator)
    return layer


# What bitsandbytes 0.50.2 gives for this weight.
WEIGHT = (torch.arange(5 * 33).float() * 0.7).sin().view(5, 33)
WEIGHT = WEIGHT * torch.linspace(0.1, 2, 5)[:, None]
PACKED = (
    "7899865567899865567899865567899860028efea30028efea30028efea30028abd941138ded941138ded941138ded"
    "831149efe920029efe92002aefe92003aeed83003aefe82003aefe82003aefe82003bef7"
)


def test_bytes_and_magnitudes_are_those_of_bitsandbytes() -> None:
    layer = nn.Linear(33, 5)
    layer.weight.data = WEIGHT
    state = Nf4Linear(layer).state_dict()
    assert bytes(state["weight"].view(-1).tolist()).hex() == PACKED
    assert state["weight.absmax"].tolist() == [0, 198, 240]
    assert state["weight.nested_absmax"].tolist() == pytest.approx([0.790343165397644])
    told = json.loads(bytes(state[STATE].tolist()))
    assert told.pop("nested_offset") == pytest.approx(1.3639386892318726)
    assert told == {
        "quant_type": "nf4",
        "blocksize": 64,
        "dtype": "float32",
        "shape": [5, 33],
        "nested_blocksize": 256,
        "nested_dtype": "float32",
    }
    assert state["weight.quant_map"].tolist() == list(CODES)
    assert len(state["weight.nested_quant_map"]) == 256


@given(rows=st.integers(1, 20), columns=st.integers(1, 40), doubly=st.booleans())
@settings(max_examples=40, deadline=None)
def test_no_weight_is_further_off_than_half_a_gap(rows: int, columns: int, doubly: bool) -> None:
    layer = linear(rows, columns)
    quantized = Nf4Linear(layer, double_quantize=doubly)
    error = (quantized.dequantize(torch.float32) - layer.weight).abs().max()
    widest = nf4_codes(torch.device("cpu")).diff().max() / 2
    slack = 1.05 if doubly else 1.0001
    largest = layer.weight.abs().max()
    assert error <= widest * largest * slack + (0.02 * largest if doubly else 0)


@given(rows=st.integers(1, 9), columns=st.integers(1, 70))
@settings(max_examples=40, deadline=None)
def test_the_pairs_of_a_byte_equal_half_bytes(rows: int, columns: int) -> None:
    packed_P, absmax_K = quantize_nf4(linear(rows, columns).weight)
    for dtype in (torch.float32, torch.bfloat16):
        made = dequantize_nf4(packed_P, absmax_K, (rows, columns), dtype)
        plain = plain_dequantize_nf4(packed_P, absmax_K, (rows, columns), dtype)
        assert torch.equal(made, plain)


def test_magnitudes_come_back_with_their_mean() -> None:
    absmax_K = torch.rand(1000, generator=torch.Generator().manual_seed(0)) * 0.01 + 3.0
    back_K = dequantize_magnitudes(quantize_magnitudes(absmax_K))
    assert (back_K - absmax_K).abs().max() < 1e-4


def test_what_is_a_code_stays_exactly_what_it_is() -> None:
    weight = nf4_codes(torch.device("cpu")).repeat(8)
    packed_P, absmax_K = quantize_nf4(weight)
    assert torch.equal(dequantize_nf4(packed_P, absmax_K, weight.shape, torch.float32), weight)
    assert len(byte_codes(torch.device("cpu")).unique()) == 256


def test_zeros_stay_zeros() -> None:
    layer = nn.Linear(64, 4)
    layer.weight.data.zero_()
    assert not Nf4Linear(layer).dequantize(torch.float32).any()


def test_a_weight_takes_less_than_4_13_bits() -> None:
    layer = linear(256, 1024)
    assert bits_per_weight(Nf4Linear(layer)) <= 4.13
    assert bits_per_weight(Nf4Linear(layer, double_quantize=False)) == 4.5


def test_only_the_linears_of_the_body_are_quantized() -> None:
    model = convert_nf4(tiny_llama())
    names = {name for name, module in model.named_modules() if isinstance(module, Nf4Linear)}
    assert len(names) == 14
    assert all(name.startswith("body.blocks.") for name in names)
    assert isinstance(model.lm_head, nn.Linear)
    assert not any(parameter.requires_grad for parameter in model.parameters())
    before = model.body.blocks[0].mlp.up
    assert convert_nf4(model).body.blocks[0].mlp.up is before


@pytest.mark.parametrize("doubly", [True, False])
def test_a_state_dict_brings_every_bit_back(doubly: bool) -> None:
    model = convert_nf4(tiny_llama(), double_quantize=doubly)
    again = convert_nf4(tiny_llama(seed=1), double_quantize=not doubly)
    again.load_state_dict(model.state_dict())
    ids = torch.tensor([[3, 1, 4, 1, 5]])
    assert torch.equal(again(ids), model(ids))


def test_a_conversion_to_bfloat16_does_not_round_the_magnitudes() -> None:
    layer = Nf4Linear(linear(8, 64))
    before = layer.dequantize(torch.float32)
    layer.to(torch.bfloat16)
    assert layer.bias.dtype == torch.bfloat16
    assert torch.equal(layer.dequantize(torch.float32), before)


def test_gradients_flow_through_to_the_input() -> None:
    layer = Nf4Linear(linear(6, 64)).requires_grad_(False)
    x = torch.randn(3, 64, requires_grad=True)
    layer(x).sum().backward()
    torch.testing.assert_close(x.grad, layer.dequantize(torch.float32).sum(0).expand(3, -1))


def test_float16_is_warned_of() -> None:
    layer = Nf4Linear(linear(6, 64)).requires_grad_(False).half()
    with pytest.warns(UserWarning, match="compute in bfloat16"):
        layer(torch.zeros(1, 64, dtype=torch.float16))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weight.absmax": torch.zeros(3, dtype=torch.uint8)}, "weight.absmax is"),
        ({"weight": torch.zeros(5, 1, dtype=torch.uint8)}, "weight is"),
        ({STATE: torch.tensor(list(b"nonsense"), dtype=torch.uint8)}, "is not JSON"),
        ({STATE: torch.tensor(list(b'{"quant_type": "fp4"}'), dtype=torch.uint8)}, "quant_type"),
        ({"weight.nested_absmax": torch.zeros(9)}, "weight.nested_absmax is"),
    ],
)
def test_a_state_that_does_not_fit_is_named(change: dict[str, torch.Tensor], message: str) -> None:
    layer = Nf4Linear(linear(8, 64))
    with pytest.raises(RuntimeError, match=message):
        layer.load_state_dict(layer.state_dict() | change)
