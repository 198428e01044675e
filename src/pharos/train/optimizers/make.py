"""From a recipe's `optimizer:` to an optimizer over a model's parameters.

Parameters come in three kinds: matrices (the weights of linears), tables (embeddings, learned
positions, and whatever else has rows) and vectors (biases, gains of norms). Matrices decay, vectors
never do, tables as told. Muon is for the matrices of bodies: those of heads have a row for each
class, and are left to AdamW like tables and vectors.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from pharos.models.family import Body
from pharos.train.optimizers.adamw8bit import AdamW8bit
from pharos.train.optimizers.muon import Muon
from pharos.train.parallel.optimizer_groups import by_layout

Name = Literal["adamw", "adamw8bit", "muon"]
Group = dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class OptimizerConfig:
    """`lr` is the highest learning rate: schedules multiply it. `paged` (adamw8bit) keeps the state
    of a model on a GPU in the host's memory. `matrix_lr` and `momentum` are Muon's (0.02 and 0.95
    unless given), while `lr`, `betas` and `eps` are for what it leaves to AdamW."""

    name: Name = "adamw"
    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = 1e-8
    weight_decay: float = 0.1
    decay_embeddings: bool = True
    paged: bool = False
    matrix_lr: float | None = None
    momentum: float | None = None

    def __post_init__(self) -> None:
        if self.name not in get_args(Name):
            names = ", ".join(get_args(Name))
            raise ValueError(f"unknown optimizer {self.name!r}; choose from {names}")
        for name in ("lr", "eps", "matrix_lr"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise ValueError(f"{name} is {value}; it must be positive, 0.001 for example")
        means = {"betas[0]": self.betas[0], "betas[1]": self.betas[1], "momentum": self.momentum}
        for name, value in means.items():
            if value is not None and not 0 <= value < 1:
                raise ValueError(f"{name} is {value}; it must be at least 0 and below 1")
        if not 0 <= self.weight_decay < float("inf"):
            raise ValueError(f"weight_decay is {self.weight_decay}; it must be 0 (none) or more")
        self._check_is_used("paged", self.paged, "adamw8bit")
        self._check_is_used("matrix_lr", self.matrix_lr is not None, "muon")
        self._check_is_used("momentum", self.momentum is not None, "muon")

    def _check_is_used(self, key: str, is_set: bool, name: Name) -> None:
        if is_set and self.name != name:
            raise ValueError(f"{key} is a setting of {name}, and name is {self.name}; leave it out")


def make_optimizer(config: OptimizerConfig, model: nn.Module) -> torch.optim.Optimizer:
    """Over every parameter of the model that is trained. Each group has its highest learning rate
    as `initial_lr`; the first one's is `config.lr`. Raises ValueError if there is nothing to
    train, or nothing for Muon."""
    kinds = parameter_kinds(model)
    if not any(kinds.values()):
        raise ValueError("no parameter of the model is trained; let some require gradients")
    if config.name == "muon" and not kinds["hidden"]:
        raise ValueError(
            "muon is for the matrices within a model's body, and none is trained here; choose adamw"
        )
    groups = [group for group in _groups(config, kinds) if group["params"]]
    for group in groups:
        group["initial_lr"] = group["lr"]
    return MAKERS[config.name](config, groups)


Kind = Literal["hidden", "matrix", "table", "vector"]


def parameter_kinds(model: nn.Module) -> Mapping[Kind, list[nn.Parameter]]:
    """The trained parameters by kind, each once (`hidden` are the matrices of bodies)."""
    matrices = _weights_of_linears(model)
    bodies = (module for module in model.modules() if isinstance(module, Body))
    hidden = {weight for body in bodies for weight in _weights_of_linears(body)}
    kinds: dict[Kind, list[nn.Parameter]] = {"hidden": [], "matrix": [], "table": [], "vector": []}
    for parameter in model.parameters():
        if not parameter.requires_grad:
            continue
        if parameter.ndim < 2:
            kinds["vector"].append(parameter)
        elif parameter not in matrices:
            kinds["table"].append(parameter)
        else:
            kinds["hidden" if parameter in hidden else "matrix"].append(parameter)
    return kinds


def _weights_of_linears(model: nn.Module) -> set[Tensor]:
    """A weight that is an embedding's too (a tied head's) is not one of them."""
    tables = {module.weight for module in model.modules() if isinstance(module, nn.Embedding)}
    linears = (module.weight for module in model.modules() if isinstance(module, nn.Linear))
    return {weight for weight in linears if weight not in tables}


def _groups(config: OptimizerConfig, kinds: Mapping[Kind, list[nn.Parameter]]) -> list[Group]:
    hidden, rest = kinds["hidden"], {"lr": config.lr, "weight_decay": config.weight_decay}
    tables = rest if config.decay_embeddings else rest | {"weight_decay": 0.0}
    groups: list[Group] = [
        {"params": kinds["matrix"], **rest},
        {"params": kinds["table"], **tables},
        {"params": kinds["vector"], "lr": config.lr, "weight_decay": 0.0},
    ]
    if config.name != "muon":
        return [{"params": hidden, **rest}, *groups]
    matrix_lr = 0.02 if config.matrix_lr is None else config.matrix_lr
    return [*groups, {"params": hidden, **rest, "lr": matrix_lr, "orthogonal": True}]


def _adamw(config: OptimizerConfig, groups: list[Group]) -> torch.optim.Optimizer:
    fused = all(p.is_cuda or p.is_cpu for group in groups for p in group["params"])
    groups = by_layout(groups)
    return torch.optim.AdamW(groups, betas=config.betas, eps=config.eps, fused=fused)


def _adamw8bit(config: OptimizerConfig, groups: list[Group]) -> torch.optim.Optimizer:
    return AdamW8bit(groups, betas=config.betas, eps=config.eps, paged=config.paged)


def _muon(config: OptimizerConfig, groups: list[Group]) -> torch.optim.Optimizer:
    momentum = 0.95 if config.momentum is None else config.momentum
    return Muon(groups, momentum=momentum, betas=config.betas, eps=config.eps)


MAKERS: Mapping[Name, Callable[[OptimizerConfig, list[Group]], torch.optim.Optimizer]] = {
    "adamw": _adamw,
    "adamw8bit": _adamw8bit,
    "muon": _muon,
}
