"""The processes that share a step's rows: who this one is, and sums over all of them.

Without `torch.distributed` there is one process and nothing is sent.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
import torch.distributed as dist


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """`group` is of the processes with rows of their own: those that share a row (by tensor or
    pipeline parallelism) have the same `rank`. `is_first` is true of one process in the world."""

    rank: int = 0
    world: int = 1
    is_first: bool = True
    group: dist.ProcessGroup | None = None
    device: torch.device = torch.device("cpu")  # noqa: RUF009 (immutable)

    @classmethod
    def of_world(cls, device: torch.device | None = None) -> Self:
        """All processes, if `torch.distributed` is up; else this one."""
        if not (dist.is_available() and dist.is_initialized()):
            return cls(device=device or torch.device("cpu"))
        rank = dist.get_rank()
        device = device or torch.device("cpu")
        group = dist.group.WORLD
        return cls(
            rank=rank, world=dist.get_world_size(), is_first=rank == 0, group=group, device=device
        )

    @property
    def processes(self) -> int:
        """Of the whole world, those that share rows included."""
        return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1

    def sums(self, values: Sequence[float]) -> list[float]:
        """Each value summed over the group, in float64: counts stay exact."""
        if self.world == 1:
            return list(values)
        total = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(total, group=self.group)
        return [float(value) for value in total]

    def any_of_world(self, flag: bool) -> bool:
        """Is it true of some process, those that share rows included?"""
        if self.processes == 1:
            return flag
        count = torch.tensor(float(flag), device=self.device)
        dist.all_reduce(count)
        return bool(count)

    def barrier(self) -> None:
        """Wait for every process of the world."""
        if dist.is_available() and dist.is_initialized():
            dist.barrier()
