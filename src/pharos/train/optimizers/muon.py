"""Muon (Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks").

A matrix's momentum M = U S Vᵀ is replaced by the nearest orthogonal matrix U Vᵀ: every direction is
learned equally fast, not only those few in which gradients are large. Instead of a decomposition,
five steps of a Newton-Schulz iteration bring all singular values into about 0.7 to 1.2, which is
near enough, with products of matrices only:

    X ← M / ‖M‖,  then five times  A ← X Xᵀ,  X ← a X + (b A + c A²) X

Step sizes are those of the original: the update of an [out, in] matrix is scaled by
√max(1, out / in). What is no matrix within a body takes AdamW's step.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor

from pharos.train.optimizers.adamw import adamw_
from pharos.train.optimizers.exact_state import ExactStateOptimizer
from pharos.train.shards import gradient_of, local_shard

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""a, b, c: the steepest slope at zero for which small singular values still end near one."""


class Muon(ExactStateOptimizer):
    """Groups that say `orthogonal` hold matrices for Muon; the others take AdamW's step. State is
    in float32, and dealt to the processes as its parameter is."""

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        *,
        lr: float = 0.02,
        momentum: float = 0.95,
        betas: tuple[float, float] = (0.9, 0.95),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        defaults = {"lr": lr, "weight_decay": weight_decay, "momentum": momentum}
        super().__init__(params, {**defaults, "betas": betas, "eps": eps, "orthogonal": False})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        assert closure is None, "Muon takes one step for one gradient"
        for group in self.param_groups:
            update = self._update_matrix if group["orthogonal"] else self._update_rest
            for parameter in group["params"]:
                if parameter.grad is not None:
                    update(parameter, group)
        return None

    def _update_matrix(self, parameter: Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        if not state:
            state["momentum"] = torch.zeros_like(parameter, dtype=torch.float32)
        gradient = gradient_of(parameter).float()
        state["momentum"].lerp_(gradient, 1 - group["momentum"])
        ahead = gradient.lerp(state["momentum"], group["momentum"])  # Nesterov's
        rows, columns = parameter.shape[-2:]
        scale = max(1.0, rows / columns) ** 0.5
        shard = local_shard(parameter)
        shard.mul_(1 - group["lr"] * group["weight_decay"])
        shard.add_(_orthogonal(ahead).to(shard.dtype), alpha=-group["lr"] * scale)

    def _update_rest(self, parameter: Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        if not state:
            zeros = torch.zeros_like(parameter, dtype=torch.float32)
            state.update(step=torch.zeros(()), exp_avg=zeros, exp_avg_sq=zeros.clone())
        state["step"] += 1
        shard, gradient = local_shard(parameter), local_shard(gradient_of(parameter))
        moments = local_shard(state["exp_avg"]), local_shard(state["exp_avg_sq"])
        values = shard.float()
        adamw_(values, gradient.float(), *moments, step=int(state["step"]), group=group)
        if values is not shard:
            shard.copy_(values)


def orthogonalize(matrix: Tensor, *, steps: int = 5) -> Tensor:
    """Nearly U Vᵀ of each matrix `[..., rows, columns]`, in its dtype: float32 or bfloat16."""
    a, b, c = COEFFICIENTS
    is_tall = matrix.shape[-2] > matrix.shape[-1]
    x: Tensor = matrix.mT if is_tall else matrix
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    near: Tensor = x.mT if is_tall else x
    return near


def _orthogonal(update: Tensor) -> Tensor:
    """This process's part of the orthogonal matrix; of one that is dealt to several, each computes
    the whole. GPUs multiply in bfloat16, which is near enough."""
    whole = update.full_tensor() if isinstance(update, DTensor) else update
    near = orthogonalize(whole.bfloat16() if whole.is_cuda else whole).float()
    if isinstance(update, DTensor):
        mesh, placements = update.device_mesh, update.placements
        near = distribute_tensor(near, mesh, placements, src_data_rank=None)
    return local_shard(near)
