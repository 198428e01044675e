"""The norm of a gradient that lies in pieces on many ranks."""

import math
from collections.abc import Mapping

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor

from pharos.train.parallel.experts import expert_modules
from pharos.train.parallel.pipeline import PipelineRunner
from pharos.train.shards import gradient_of, local_shard


@torch.no_grad()
def clip_grad_norm(module: nn.Module, max_norm: float | None, mesh: DeviceMesh) -> float:
    """Scale all gradients of `module` (as `parallelize` made it, or a pipeline) so that their norm
    is at most `max_norm` (None: leave them); the norm before that, the same on every rank. What is
    not finite is left as it is.

    Each rank counts what it has, divided by how many ranks have the same: one sum over the world
    then has each piece once, however it is spread. Every rank must call it.
    """
    copies = _num_copies(module, mesh)
    gradients = {p: _laid_out(p) for p in module.parameters() if p.grad is not None}
    total = torch.zeros((), dtype=torch.float64, device=next(module.parameters()).device)
    for parameter, gradient in gradients.items():
        total += gradient.norm(dtype=torch.float32).double().square() / copies[parameter]
    dist.all_reduce(total)
    norm = math.sqrt(float(total))
    if max_norm is not None and max_norm < norm < math.inf:
        torch._foreach_mul_(list(gradients.values()), max_norm / norm)
    return norm


def _laid_out(parameter: Tensor) -> Tensor:
    """This rank's part of a gradient, which is made to lie as its parameter does: that of a matrix
    split by the vocabulary may come whole."""
    parameter.grad = gradient_of(parameter)
    return local_shard(parameter.grad)


def _num_copies(module: nn.Module, mesh: DeviceMesh) -> Mapping[Tensor, int]:
    """For each parameter, how many ranks of the world have the very piece of it that this one
    has."""
    of_experts = {p for expert in expert_modules(module) for p in expert.parameters()}
    tied = module.tied if isinstance(module, PipelineRunner) else None
    copies: dict[Tensor, int] = {}
    for parameter in module.parameters():
        num = mesh.size() // mesh["pipeline"].size() // _num_shards(parameter)
        if parameter in of_experts:
            num //= mesh["expert"].size()
        copies[parameter] = num * 2 if parameter is tied else num
    return copies


def _num_shards(parameter: Tensor) -> int:
    if not isinstance(parameter, DTensor):
        return 1
    sizes = parameter.device_mesh.shape
    split = (n for n, p in zip(sizes, parameter.placements, strict=True) if not p.is_replicate())
    return math.prod(split)
