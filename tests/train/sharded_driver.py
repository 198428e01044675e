"""One of several processes that share parameters: scales and updates them, and writes what came
out. Run by test_gradients.py."""

import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Placement, Replicate, Shard, distribute_tensor

from pharos.train.gradients import GradientScaler
from pharos.train.optimizers import AdamW8bit, Muon

SHAPES = {"even": (8, 6), "uneven": (5, 6), "columns": (4, 7), "whole": (3, 3), "tiny": (1, 4)}
LARGE = (64, 256)
"""Of which each of two processes holds as many blocks as it can."""


def full(name: str, purpose: str, shape: tuple[int, ...]) -> Tensor:
    """The same numbers in every process."""
    generator = torch.Generator().manual_seed(sum(f"{name}/{purpose}".encode()))
    return torch.randn(*shape, generator=generator)


def parameters(deal: Callable[[str, Tensor], Tensor]) -> dict[str, nn.Parameter]:
    """With their gradients."""
    made = {}
    for name, shape in SHAPES.items():
        made[name] = nn.Parameter(deal(name, full(name, "value", shape)))
        made[name].grad = deal(name, full(name, "gradient", shape))
    return made


def gathered(tensors: Iterable[tuple[str, Tensor]]) -> dict[str, Tensor]:
    return {
        name: (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).detach().clone()
        for name, tensor in tensors
    }


def results(deal: Callable[[str, Tensor], Tensor]) -> dict[str, Any]:
    """Everything that must not depend on how the parameters are dealt."""
    torch.set_num_threads(1)
    stepped = parameters(deal)
    muon = Muon([{"params": list(stepped.values()), "orthogonal": True, "weight_decay": 0.1}])
    rest = parameters(deal)
    adam = Muon([{"params": list(rest.values())}], lr=1e-2)
    large = nn.Parameter(deal("even", full("large", "value", LARGE)))
    large.grad = deal("even", full("large", "gradient", LARGE))
    eight = AdamW8bit([large], lr=1e-2)
    for _ in range(3):
        for optimizer in (muon, adam, eight):
            optimizer.step()
    return {
        "muon": gathered(stepped.items()),
        "adamw": gathered(rest.items()),
        "adamw8bit": gathered([("large", large)]),
    }


def overflow(deal: Callable[[str, Tensor], Tensor], rank: int) -> tuple[bool, float, bool]:
    """An infinity in the gradients of one process: whether the step was taken, the scale after it,
    and whether the parameters are as they were."""
    weights = parameters(deal)
    before = gathered(weights.items())
    if rank == 1:
        gradient = weights["even"].grad
        (gradient.to_local() if isinstance(gradient, DTensor) else gradient)[0, 0] = float("inf")  # type: ignore[index]
    scaler = GradientScaler(is_enabled=True, scale=1024.0)
    optimizer = torch.optim.SGD(weights.values(), lr=1.0)
    scaler.unscale(optimizer)
    is_taken = scaler.step(optimizer)
    after = gathered(weights.items())
    is_same = all(torch.equal(before[name], after[name]) for name in before)
    return is_taken, scaler.factor, is_same


def main(rank: int, world: int, folder: Path) -> None:
    meeting = f"file://{folder}/meeting"
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=world)
    mesh = init_device_mesh("cpu", (world,))
    placements: dict[str, list[Placement]] = {"columns": [Shard(1)], "whole": [Replicate()]}

    def deal(name: str, tensor: Tensor) -> Tensor:
        return distribute_tensor(tensor, mesh, placements.get(name, [Shard(0)]))

    found = {**results(deal), "overflow": overflow(deal, rank)}
    torch.save(found, folder / f"rank-{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
