"""A step's module, spread over a mesh from outside, always in this order:

    tensor parallel ─ expert parallel ─ activation checkpointing ─ FSDP2 or DDP

Each wraps what the one before it left: experts are moved whole, a block recomputes with the parts
that the rank has, and FSDP2 gathers a block's weights once around both.

Gradients are *summed* over the ranks with rows of their own, not averaged: the loss is divided by
the number of targets of all ranks already. Make the optimizer afterwards: parameters are replaced.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.futures import Future
from torch.nn.parallel import DistributedDataParallel

from pharos.train.activation_checkpoint import Checkpointing, blocks_of, checkpoint_activations
from pharos.train.parallel.experts import apply_expert_parallel, expert_modules
from pharos.train.parallel.mesh import ROWS, ParallelConfig, as_one
from pharos.train.parallel.tensor import apply_tensor_parallel


class Sharded(nn.Module):
    """A module that FSDP2 shards, with DDP's interface."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.module(*args, **kwargs)

    @contextmanager
    def no_sync(self) -> Iterator[None]:
        """Gradients stay with each rank: for all micro-batches of a step but the last."""
        assert isinstance(self.module, FSDPModule)
        self.module.set_requires_gradient_sync(False)
        try:
            yield
        finally:
            self.module.set_requires_gradient_sync(True)


def parallelize(
    step: nn.Module,
    model: nn.Module,
    config: ParallelConfig,
    mesh: DeviceMesh,
    *,
    activation_checkpointing: Checkpointing = "none",
) -> nn.Module:
    """`step`, whose forward calls `model`, over every axis but the pipeline's. The model is changed
    in place. What is returned has a context `no_sync`, if there is anything to synchronize."""
    if config.tensor > 1:
        apply_tensor_parallel(model, mesh["tensor"])
    if config.expert > 1:
        apply_expert_parallel(model, mesh["expert"])
    checkpoint_activations(model, activation_checkpointing)
    if config.is_sharded:
        _shard(step, model, config, mesh)
        return Sharded(step)
    return _replicate(step, mesh) if config.data > 1 else step


def _shard(step: nn.Module, model: nn.Module, config: ParallelConfig, mesh: DeviceMesh) -> None:
    for expert in expert_modules(model):
        fully_shard(expert, mesh=mesh["shard"])
    for unit in [*blocks_of(model), step]:
        fully_shard(unit, mesh=_sharding_mesh(config, mesh))
    for module in step.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)


def _sharding_mesh(config: ParallelConfig, mesh: DeviceMesh) -> DeviceMesh:
    """Over which weights other than experts are sharded; copies of them, if any, in front."""
    if config.expert > 1:
        return as_one(mesh, "shard", "expert")
    return mesh["data", "shard"] if config.data > 1 else mesh["shard"]


def _replicate(step: nn.Module, mesh: DeviceMesh) -> DistributedDataParallel:
    is_cuda = mesh.device_type == "cuda"
    replicated = DistributedDataParallel(
        step,
        device_ids=[torch.cuda.current_device()] if is_cuda else None,
        process_group=mesh["data"].get_group(),
        find_unused_parameters=True,  # an objective may leave parts of a model aside
        gradient_as_bucket_view=True,
    )
    replicated.register_comm_hook(mesh["data"].get_group(), _sum)
    return replicated


def _sum(group: dist.ProcessGroup, bucket: dist.GradBucket) -> Future[Tensor]:  # type: ignore[name-defined]
    work = dist.all_reduce(bucket.buffer(), group=group, async_op=True)
    assert work is not None
    future: Future[Tensor] = work.get_future().then(lambda done: done.value()[0])
    return future


def unwrapped(module: nn.Module) -> nn.Module:
    """The module that `parallelize` was given."""
    while isinstance(module, Sharded | DistributedDataParallel):
        module = module.module
    return module


def rows_group(mesh: DeviceMesh) -> dist.ProcessGroup:
    """The ranks that together have all rows of a step: losses and counts are summed over it, and a
    rank's place in it says which rows are its own, and seeds its dropout."""
    group: dist.ProcessGroup = as_one(mesh, *ROWS).get_group()
    return group
