from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pharos.models.doubles import tiny_llama
from pharos.models.heads import CausalLM
from pharos.models.load import new_model
from pharos.train.activation_checkpoint import blocks_of, checkpoint_activations

WAYS: Any = ["none", "selective", "full"]
IDS = torch.arange(12).view(2, 6)


def trainable() -> CausalLM:
    return tiny_llama().requires_grad_(True)


def gradients(model: nn.Module) -> dict[str, Tensor]:
    model(IDS).square().sum().backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def kept_bytes(model: nn.Module) -> int:
    """What autograd keeps from forward to backward, parameters aside."""
    parameters = {p.data_ptr() for p in model.parameters()}
    kept: dict[int, int] = {}

    def keep(x: Tensor) -> Tensor:
        if x.untyped_storage().data_ptr() not in parameters:
            kept[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        model(IDS)
    return sum(kept.values())


@pytest.mark.parametrize("how", WAYS)
def test_gradients_are_the_same_however_activations_are_kept(how: Any) -> None:
    plain, model = trainable(), trainable()
    checkpoint_activations(model, how)
    expected, found = gradients(plain), gradients(model)
    assert found.keys() == expected.keys()
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, expected[name])


def test_a_block_that_is_recomputed_keeps_less() -> None:
    plain, full = trainable(), trainable()
    checkpoint_activations(full, "full")
    assert kept_bytes(full) < kept_bytes(plain) / 2


def counted(model: nn.Module, kind: type[nn.Module]) -> Callable[[], int]:
    calls = []
    for module in model.modules():
        if isinstance(module, kind):
            module.register_forward_hook(lambda *_: calls.append(1))
    return lambda: len(calls)


def test_full_computes_a_block_twice_but_for_its_last_matrix() -> None:
    model = trainable()
    checkpoint_activations(model, "full")
    num_calls = counted(model.body.blocks, nn.Linear)
    gradients(model)
    assert num_calls() == 2 * (7 + 6)


def test_the_dropout_of_a_recomputed_block_is_that_of_the_first_time() -> None:
    raw = {"model_type": "gpt2", "vocab_size": 12, "n_embd": 8, "n_layer": 2, "n_head": 2}
    found = []
    for how in WAYS:
        model = new_model(raw, "causal_lm").train()
        checkpoint_activations(model, how)
        torch.manual_seed(3)
        found.append(gradients(model))
    for name, gradient in found[0].items():
        assert all(torch.equal(gradient, other[name]) for other in found[1:]), name


def test_parameters_keep_their_names() -> None:
    model = trainable()
    names = [name for name, _ in model.named_parameters()]
    checkpoint_activations(model, "selective")
    assert [name for name, _ in model.named_parameters()] == names


def test_experts_are_no_blocks() -> None:
    raw = {
        "model_type": "mixtral",
        "vocab_size": 9,
        "hidden_size": 8,
        "intermediate_size": 8,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
    }
    model = new_model(raw, "causal_lm")
    assert list(blocks_of(model)) == list(model.body.blocks)  # type: ignore[union-attr, arg-type]
