"""What happens to gradients between the backward pass and the optimizer: they are divided by the
scale of the loss, measured, and clipped.

(Where a model's parameters lie in pieces on many processes, `parallel.clip` measures and clips.)
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from pharos.core.errors import TrainingError
from pharos.train.shards import local_shard


@torch.no_grad()
def clip_gradients(parameters: Iterable[Tensor], max_norm: float | None) -> float:
    """Scale the gradients so that their norm, as one vector, is at most `max_norm` (None: leave
    them); the norm before that. Gradients that are not finite are left as they are."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    norm = _norm(gradients)
    if max_norm is not None and max_norm < norm < math.inf:
        torch._foreach_mul_(gradients, max_norm / norm)
    return norm


def _norm(gradients: list[Tensor]) -> float:
    if not gradients:
        return 0.0
    norms = torch._foreach_norm(gradients, dtype=torch.float32)
    return float(torch.stack(list(norms)).double().norm())


class GradientScaler:
    """Training in float16, whose smallest number is 6e-8: the loss is multiplied by a scale, so
    that small gradients are not lost, and the gradients are divided by it before they are used
    (Micikevicius et al. 2018, arXiv:1710.03740).

    A step whose gradients overflowed is left out, and the scale halved; after `growth_interval`
    steps without that it is doubled. If they did in one process, all leave the step out. Where it
    is not enabled, nothing is scaled and no step left out.
    """

    def __init__(
        self, *, is_enabled: bool, scale: float = 2.0**16, growth_interval: int = 2000
    ) -> None:
        self.is_enabled, self.growth_interval = is_enabled, growth_interval
        self.factor = scale if is_enabled else 1.0
        self.num_good = 0
        self.is_finite = True

    def scale(self, loss: Tensor) -> Tensor:
        return loss * self.factor if self.is_enabled else loss

    @torch.no_grad()
    def unscale(self, optimizer: torch.optim.Optimizer) -> None:
        """Divide the gradients by the scale, before they are clipped. Every process calls it."""
        if not self.is_enabled:
            return
        parameters = (p for group in optimizer.param_groups for p in group["params"])
        gradients = [local_shard(p.grad) for p in parameters if p.grad is not None]
        if gradients:
            torch._foreach_mul_(gradients, 1 / self.factor)
        self.is_finite = _is_true_of_all(math.isfinite(_norm(gradients)), gradients)

    def step(self, optimizer: torch.optim.Optimizer) -> bool:
        """Take the optimizer's step unless the gradients overflowed; whether it was taken. Raises
        TrainingError if they do at every scale."""
        if self.is_finite:
            optimizer.step()
        if self.is_enabled:
            self._adjust()
        return self.is_finite

    def _adjust(self) -> None:
        self.num_good = self.num_good + 1 if self.is_finite else 0
        if not self.is_finite:
            self.factor /= 2
        elif self.num_good == self.growth_interval:
            self.factor, self.num_good = self.factor * 2, 0
        if self.factor < 1:
            raise TrainingError(
                "the gradients overflow float16 even where the loss is not scaled up; train with "
                "precision bf16 or fp32, or a lower learning rate"
            )

    def state_dict(self) -> dict[str, Any]:
        return {"factor": self.factor, "num_good": self.num_good}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.factor, self.num_good = state["factor"], state["num_good"]


def _is_true_of_all(value: bool, tensors: Sequence[Tensor]) -> bool:
    """Of all processes, asked where their tensors are."""
    if not (dist.is_available() and dist.is_initialized()):
        return value
    device = tensors[0].device if tensors else torch.device("cpu")
    agreed = torch.tensor(int(value), device=device)
    dist.all_reduce(agreed, op=dist.ReduceOp.MIN)
    return bool(agreed)
