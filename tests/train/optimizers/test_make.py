from typing import Any

import pytest
import torch
from torch import nn

from pharos.models.doubles import tiny_llama
from pharos.models.load import new_model
from pharos.train.optimizers import AdamW8bit, Muon, OptimizerConfig, make_optimizer
from pharos.train.optimizers.make import parameter_kinds

T5 = {
    "model_type": "t5",
    "vocab_size": 40,
    "d_model": 16,
    "d_kv": 4,
    "d_ff": 32,
    "num_layers": 1,
    "num_heads": 4,
}


@pytest.fixture
def llama() -> nn.Module:
    return tiny_llama().requires_grad_(True)


def group_of(optimizer: torch.optim.Optimizer, weight: nn.Parameter) -> dict[str, Any]:
    (group,) = [g for g in optimizer.param_groups if any(p is weight for p in g["params"])]
    return group


@pytest.mark.parametrize(
    ("name", "kind"), [("adamw", torch.optim.AdamW), ("adamw8bit", AdamW8bit), ("muon", Muon)]
)
def test_each_name_makes_its_optimizer_over_all_parameters_once(
    llama: nn.Module, name: Any, kind: type
) -> None:
    optimizer = make_optimizer(OptimizerConfig(name=name), llama)
    assert isinstance(optimizer, kind)
    ours = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert sorted(ours) == sorted(id(p) for p in llama.parameters())


@pytest.mark.parametrize("name", ["adamw", "adamw8bit", "muon"])
def test_every_parameter_changes_in_a_step(llama: nn.Module, name: Any) -> None:
    optimizer = make_optimizer(OptimizerConfig(name=name), llama)
    before = {key: value.detach().clone() for key, value in llama.named_parameters()}
    llama(torch.arange(50)[None]).square().sum().backward()
    optimizer.step()
    same = [key for key, value in llama.named_parameters() if torch.equal(value, before[key])]
    assert same == []


def test_vectors_do_not_decay_and_matrices_do(llama: Any) -> None:
    optimizer = make_optimizer(OptimizerConfig(weight_decay=0.3), llama)
    for name, parameter in llama.named_parameters():
        decay = group_of(optimizer, parameter)["weight_decay"]
        assert decay == (0.3 if parameter.ndim >= 2 else 0.0), name


def test_embeddings_decay_as_told(llama: Any) -> None:
    optimizer = make_optimizer(OptimizerConfig(decay_embeddings=False), llama)
    assert group_of(optimizer, llama.body.embedding.weight)["weight_decay"] == 0.0
    assert group_of(optimizer, llama.lm_head.weight)["weight_decay"] == 0.1


def test_a_tied_head_is_an_embedding() -> None:
    raw = {"model_type": "gpt2", "vocab_size": 20, "n_positions": 8, "n_embd": 8}
    model: Any = new_model(raw | {"n_layer": 1, "n_head": 2}, "causal_lm", seed=0)
    kinds = parameter_kinds(model.requires_grad_(True))
    assert any(p is model.body.embedding.weight for p in kinds["table"])
    assert kinds["matrix"] == []


def test_what_is_frozen_is_left_out(llama: Any) -> None:
    llama.body.embedding.requires_grad_(False)
    optimizer = make_optimizer(OptimizerConfig(), llama)
    ours = {p for group in optimizer.param_groups for p in group["params"]}
    assert llama.body.embedding.weight not in ours


def test_muon_is_for_the_matrices_of_the_body_only(llama: Any) -> None:
    config = OptimizerConfig(name="muon", lr=3e-4, matrix_lr=0.01, momentum=0.9)
    optimizer = make_optimizer(config, llama)
    for name, parameter in llama.named_parameters():
        group = group_of(optimizer, parameter)
        is_hidden = name.startswith("body.blocks") and parameter.ndim == 2
        assert group["orthogonal"] == is_hidden, name
        assert group["lr"] == (0.01 if is_hidden else 3e-4)


def test_muon_leaves_the_relative_positions_of_t5_to_adamw() -> None:
    model = new_model(T5, "seq2seq_lm", seed=0).requires_grad_(True)
    optimizer = make_optimizer(OptimizerConfig(name="muon"), model)
    tables = [p for p in model.parameters() if p.shape == (32, 4)]
    assert tables
    assert not any(group_of(optimizer, table)["orthogonal"] for table in tables)


def test_groups_know_their_highest_learning_rate(llama: Any) -> None:
    optimizer = make_optimizer(OptimizerConfig(name="muon", lr=3e-4), llama)
    assert optimizer.param_groups[0]["initial_lr"] == 3e-4
    assert optimizer.param_groups[-1]["initial_lr"] == 0.02


def test_a_model_without_anything_to_train_is_refused() -> None:
    with pytest.raises(ValueError, match="let some require gradients"):
        make_optimizer(OptimizerConfig(), tiny_llama())


def test_muon_without_a_body_is_refused() -> None:
    with pytest.raises(ValueError, match="muon is for the matrices within a model's body"):
        make_optimizer(OptimizerConfig(name="muon"), nn.Linear(4, 4))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "adamv"}, "unknown optimizer 'adamv'; choose from adamw, adamw8bit, muon"),
        ({"lr": 0.0}, "lr is 0.0; it must be positive"),
        ({"lr": float("nan")}, "lr is nan"),
        ({"betas": (0.9, 1.0)}, r"betas\[1\] is 1.0; it must be at least 0 and below 1"),
        ({"name": "muon", "momentum": 1.5}, "momentum is 1.5"),
        ({"weight_decay": -0.1}, "weight_decay is -0.1"),
        ({"paged": True}, "paged is a setting of adamw8bit, and name is adamw; leave it out"),
        ({"matrix_lr": 0.1}, "matrix_lr is a setting of muon"),
        ({"name": "adamw8bit", "momentum": 0.9}, "momentum is a setting of muon"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        OptimizerConfig(**settings)
