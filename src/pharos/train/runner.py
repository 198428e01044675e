"""Who computes the gradients of a step, and in which form its weights are kept.

The loop is the same for one process and for a mesh of thousands: it asks a `Runner` for gradients
that are summed over all rows of the step, wherever they were computed.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh

from pharos.train.checkpoint import load_module, save_module
from pharos.train.gradients import clip_gradients
from pharos.train.objective import Batch
from pharos.train.parallel import PipelineRunner, clip_grad_norm, load_sharded, save_sharded

SHARDED_INDEX = ".metadata"


@dataclass(frozen=True, kw_only=True, slots=True)
class Shares:
    """What the sum of each term is multiplied by in the loss: its weight over its global count, and
    in float16 the scale of the loss. `seed(i)` is of what is random in micro-batch i."""

    scales: Mapping[str, float]
    loss_scale: float
    seed: Callable[[int], int]

    def loss(self, sums: Mapping[str, Tensor]) -> Tensor:
        parts = [scale * sums[name] for name, scale in self.scales.items()]
        return torch.stack(parts).sum() * self.loss_scale


class Runner(Protocol):
    """`module` has the parameters that this process trains. Where `is_sharded`, it has pieces of
    them, every rank writes its own, and `save` puts the folder in place by itself."""

    module: nn.Module
    is_sharded: bool

    def gradients(self, batches: Sequence[Batch], shares: Shares) -> dict[str, Tensor]:
        """Adds the gradients of this rank's micro-batches, summed over the ranks; the sums of the
        losses over the micro-batches alone."""

    def evaluate(self, batches: Sequence[Batch]) -> Mapping[str, Tensor]:
        """The sums alone. A pipeline needs as many micro-batches as it has ranks, or a multiple."""

    def clip(self, max_norm: float | None) -> float:
        """The norm of the whole gradient, before it is scaled to be `max_norm` at most."""

    def save(
        self, folder: Path, optimizer: torch.optim.Optimizer, beside: Callable[[Path], None]
    ) -> None:
        """The weights (and where they lie in pieces, the optimizer's state). `beside` adds files
        to the folder before it counts as complete."""

    def load(self, folder: Path, optimizer: torch.optim.Optimizer) -> None: ...


class StepRunner:
    """Forward and backward, micro-batch by micro-batch. `module` is a `Step`, perhaps wrapped by
    DDP."""

    is_sharded = False

    def __init__(
        self, module: nn.Module, model: nn.Module, *, dtype: torch.dtype, is_compiled: bool = False
    ) -> None:
        self.module, self.model, self.dtype = module, model, dtype
        self._call = torch.compile(module) if is_compiled else module

    def gradients(self, batches: Sequence[Batch], shares: Shares) -> dict[str, Tensor]:
        totals: dict[str, Tensor] = {}
        for i, batch in enumerate(batches):
            torch.manual_seed(shares.seed(i))
            with self._synced(i == len(batches) - 1):
                with self._autocast():
                    sums = self._call(batch)
                shares.loss(sums).backward()  # type: ignore[no-untyped-call]
            for name, value in sums.items():
                totals[name] = totals.get(name, 0) + value.detach()
        return totals

    @torch.no_grad()
    def evaluate(self, batches: Sequence[Batch]) -> Mapping[str, Tensor]:
        totals: dict[str, Tensor] = {}
        for batch in batches:
            with self._autocast():
                sums = self.module(batch)
            for name, value in sums.items():
                totals[name] = totals.get(name, 0) + value
        return totals

    def clip(self, max_norm: float | None) -> float:
        return clip_gradients(self.module.parameters(), max_norm)

    def save(
        self, folder: Path, optimizer: torch.optim.Optimizer, beside: Callable[[Path], None]
    ) -> None:
        save_module(self.model, folder)
        beside(folder)

    def load(self, folder: Path, optimizer: torch.optim.Optimizer) -> None:
        load_module(self.model, folder)

    def _synced(self, is_last: bool) -> AbstractContextManager[object]:
        """Gradients are summed over the ranks with the last micro-batch only."""
        no_sync = getattr(self.module, "no_sync", None)
        return nullcontext() if is_last or no_sync is None else no_sync()

    def _autocast(self) -> AbstractContextManager[object]:
        if self.dtype == torch.float32:
            return nullcontext()
        device = next(self.module.parameters()).device
        return torch.autocast(device.type, dtype=self.dtype)


class ShardedRunner(StepRunner):
    """The same where weights lie in pieces (FSDP2, tensor and expert parallel)."""

    is_sharded = True

    def __init__(
        self, module: nn.Module, model: nn.Module, mesh: DeviceMesh, *, dtype: torch.dtype
    ) -> None:
        super().__init__(module, model, dtype=dtype)
        self.mesh = mesh

    def clip(self, max_norm: float | None) -> float:
        return clip_grad_norm(self.module, max_norm, self.mesh)

    def save(
        self, folder: Path, optimizer: torch.optim.Optimizer, beside: Callable[[Path], None]
    ) -> None:
        save_sharded(folder, self.module, optimizer, beside=beside)

    def load(self, folder: Path, optimizer: torch.optim.Optimizer) -> None:
        load_sharded(folder, self.module, optimizer)


class PipelinedRunner:
    """All micro-batches of a step at once, through the stages of several ranks."""

    is_sharded = True

    def __init__(self, module: PipelineRunner, mesh: DeviceMesh) -> None:
        self.module: nn.Module = module
        self.pipeline, self.mesh = module, mesh

    def gradients(self, batches: Sequence[Batch], shares: Shares) -> dict[str, Tensor]:
        torch.manual_seed(shares.seed(0))
        return self.pipeline.step(batches, shares.scales)

    def evaluate(self, batches: Sequence[Batch]) -> Mapping[str, Tensor]:
        return self.pipeline.evaluate(batches)

    def clip(self, max_norm: float | None) -> float:
        return clip_grad_norm(self.module, max_norm, self.mesh)

    def save(
        self, folder: Path, optimizer: torch.optim.Optimizer, beside: Callable[[Path], None]
    ) -> None:
        save_sharded(folder, self.module, optimizer, beside=beside)

    def load(self, folder: Path, optimizer: torch.optim.Optimizer) -> None:
        load_sharded(folder, self.module, optimizer)


def is_sharded_checkpoint(folder: Path) -> bool:
    return (folder / SHARDED_INDEX).is_file()
