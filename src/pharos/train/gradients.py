"""What happens to gradients between the backward pass and the optimizer, in one place: they are
divided by the scale of the loss, measured, and clipped.

The norm is that of the whole gradient, wherever its parts are: a gradient that is dealt to several
processes (a DTensor) is summed over those among which it is dealt, and counted once where they hold
copies. So all processes know the same norm, and clip, or skip a step, alike.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor, Placement
from torch.distributed.tensor.device_mesh import DeviceMesh

from pharos.core.errors import TrainingError
from pharos.train.shards import local_shard

Layout = tuple[DeviceMesh, tuple[Placement, ...]] | None
"""How a gradient is dealt to processes; None for one that each has whole."""


def clip_gradients(
    parameters: Iterable[Tensor],
    max_norm: float | None,
    *,
    stages: dist.ProcessGroup | None = None,
) -> float:
    """Scale the gradients so that their norm is at most `max_norm` (None: leave them); the norm
    before that. Gradients that are not finite are left as they are, and so is the norm: infinite or
    NaN. `stages` are the processes that hold other parameters of the model (a pipeline)."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    norm = global_norm(gradients, stages=stages)
    if max_norm is not None and max_norm < norm < float("inf"):
        torch._foreach_mul_(_shards(gradients), max_norm / norm)
    return norm


@torch.no_grad()
def global_norm(gradients: Sequence[Tensor], *, stages: dist.ProcessGroup | None = None) -> float:
    """The Euclidean norm of all gradients as one vector."""
    by_layout: dict[Layout, list[Tensor]] = defaultdict(list)
    for gradient in gradients:
        by_layout[_layout(gradient)].append(gradient)
    squares = [_sum_of_squares(layout, of_it) for layout, of_it in by_layout.items()]
    device = squares[0].device if squares else torch.device("cpu")
    total = torch.stack(squares).sum() if squares else torch.zeros((), dtype=torch.float64)
    if stages is not None:
        total = total.to(_device_of(stages, device))
        dist.all_reduce(total, group=stages)
    return float(total.sqrt())


def _sum_of_squares(layout: Layout, gradients: Sequence[Tensor]) -> Tensor:
    """In float64, so that it hardly depends on how the gradients are dealt."""
    norms = torch._foreach_norm(_shards(gradients), dtype=torch.float32)
    total = torch.stack(list(norms)).double().square().sum()
    if layout is not None:
        mesh, placements = layout
        for dim, placement in enumerate(placements):
            assert not placement.is_partial(), "a gradient is measured before it is summed"
            if not placement.is_replicate():
                dist.all_reduce(total, group=mesh.get_group(dim))
    return total


def _layout(gradient: Tensor) -> Layout:
    if not isinstance(gradient, DTensor):
        return None
    return gradient.device_mesh, tuple(gradient.placements)


def _shards(gradients: Sequence[Tensor]) -> list[Tensor]:
    return [local_shard(gradient) for gradient in gradients]


def _device_of(group: dist.ProcessGroup, device: torch.device) -> torch.device:
    """Where a group sends from; a stage without gradients does not know."""
    return torch.device("cuda") if dist.get_backend(group) == "nccl" else device


class GradientScaler:
    """Training in float16, whose smallest number is 6e-8: the loss is multiplied by a scale, so
    that small gradients are not lost, and the gradients are divided by it before they are used
    (Micikevicius et al. 2018, arXiv:1710.03740).

    A step whose gradients overflowed is left out, and the scale halved; after `growth_interval`
    steps without that it is doubled. Whether they did is asked of the whole gradient, wherever its
    parts are, so all processes agree. Where it is not enabled, nothing is scaled and no step left
    out.
    """

    def __init__(
        self,
        *,
        is_enabled: bool,
        scale: float = 2.0**16,
        growth_interval: int = 2000,
        stages: dist.ProcessGroup | None = None,
    ) -> None:
        self.is_enabled, self.growth_interval, self.stages = is_enabled, growth_interval, stages
        self.factor = scale if is_enabled else 1.0
        self.num_good = 0
        self.is_finite = True

    def scale(self, loss: Tensor) -> Tensor:
        return loss * self.factor if self.is_enabled else loss

    def unscale(self, optimizer: torch.optim.Optimizer) -> None:
        """Divide the gradients by the scale, before they are clipped."""
        if not self.is_enabled:
            return
        parameters = (p for group in optimizer.param_groups for p in group["params"])
        gradients = [p.grad for p in parameters if p.grad is not None]
        torch._foreach_mul_(_shards(gradients), 1 / self.factor)
        self.is_finite = math.isfinite(global_norm(gradients, stages=self.stages))

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
