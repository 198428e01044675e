from pathlib import Path

import pytest
import torch
from torch import nn

from pharos.train.ema import EMA


def network(value: float = 1.0) -> nn.Linear:
    linear = nn.Linear(2, 2)
    nn.init.constant_(linear.weight, value)
    nn.init.constant_(linear.bias, value)
    return linear


def set_to(linear: nn.Linear, value: float) -> None:
    for parameter in linear.parameters():
        nn.init.constant_(parameter, value)


def test_the_average_is_the_recursion_with_a_decay_that_begins_low() -> None:
    model = network(0.0)
    ema = EMA(model, decay=0.5)
    expected = 0.0
    for update, value in enumerate([1.0, 3.0, -2.0, 5.0, 7.0, 1.0, 0.0, 2.0, 4.0], start=1):
        set_to(model, value)
        ema.update(model)
        decay = min(0.5, (1 + update) / (10 + update))
        expected = decay * expected + (1 - decay) * value
    assert ema.averages["weight"].flatten().tolist() == pytest.approx([expected] * 4)


def test_the_model_computes_with_the_averages_only_within_the_block() -> None:
    model = network(0.0)
    ema = EMA(model, decay=0.9)
    set_to(model, 1.0)
    ema.update(model)
    average = ema.averages["weight"].clone()
    with ema.applied(model):
        assert torch.equal(model.weight, average)
    assert torch.equal(model.weight, torch.ones(2, 2))
    assert torch.equal(ema.averages["weight"], average)


def test_the_models_own_weights_return_after_an_error() -> None:
    model = network(1.0)
    ema = EMA(model, decay=0.9)
    set_to(model, 2.0)
    with pytest.raises(RuntimeError), ema.applied(model):
        raise RuntimeError
    assert torch.equal(model.weight, torch.full((2, 2), 2.0))


def test_weights_in_bfloat16_are_averaged_in_float32() -> None:
    model = network(1.0).bfloat16()
    ema = EMA(model, decay=0.999)
    for _ in range(5):
        set_to(model, 1.0078125)  # the next number after 1
        ema.update(model)
    assert ema.averages["weight"].dtype == torch.float32
    assert 1.0 < ema.averages["weight"][0, 0] < 1.0078125


def test_what_is_frozen_is_not_averaged() -> None:
    model = network()
    model.bias.requires_grad_(False)
    assert EMA(model, decay=0.9).averages.keys() == {"weight"}


def test_a_tied_weight_is_averaged_once() -> None:
    model = nn.ModuleDict({"a": network(), "b": network()})
    model["b"].weight = model["a"].weight
    ema = EMA(model, decay=0.9)
    assert ema.averages.keys() == {"a.weight", "a.bias", "b.bias"}


def test_a_saved_average_goes_on_bit_for_bit(tmp_path: Path) -> None:
    model = network(0.3)
    ema, resumed = EMA(model, decay=0.9), EMA(model, decay=0.9)
    for value in (0.1, 0.7):
        set_to(model, value)
        ema.update(model)
    torch.save(ema.state_dict(), tmp_path / "ema.pt")
    resumed.load_state_dict(torch.load(tmp_path / "ema.pt", weights_only=True))
    set_to(model, 0.9)
    ema.update(model)
    resumed.update(model)
    assert torch.equal(ema.averages["weight"], resumed.averages["weight"])


def test_averages_of_another_model_are_refused() -> None:
    saved = EMA(network(), decay=0.9).state_dict()
    with pytest.raises(ValueError, match=r"those of another model: 0\.bias, 0\.weight, bias"):
        EMA(nn.Sequential(network()), decay=0.9).load_state_dict(saved)


def test_a_decay_that_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match=r"ema is 1.0; it must be between 0 and 1"):
        EMA(network(), decay=1.0)
