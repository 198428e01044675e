"""Who computes the gradients of a recipe's run: this process alone, or those of a mesh."""

from dataclasses import replace

import torch.distributed as dist
from torch import nn

from pharos.adapt import Adapters
from pharos.train.activation_checkpoint import checkpoint_activations
from pharos.train.adaptation import AdapterRunner
from pharos.train.loop_config import DTYPES
from pharos.train.objective import Objective
from pharos.train.parallel import (
    ParallelConfig,
    PipelineRunner,
    open_mesh,
    parallelize,
    rows_group,
)
from pharos.train.ranks import Ranks
from pharos.train.recipe import Recipe
from pharos.train.runner import PipelinedRunner, Runner, ShardedRunner, StepRunner
from pharos.train.step import Step


def make_runner(
    recipe: Recipe,
    model: nn.Module,
    objective: Objective,
    parallel: ParallelConfig,
    ranks: Ranks,
    adapters: Adapters | None,
) -> tuple[Runner, Ranks]:
    """The runner, and this process's place among those that have rows of their own."""
    config = recipe.training
    dtype, how = DTYPES[config.precision], config.activation_checkpointing
    step = Step(model, objective)
    if ranks.processes == 1:
        checkpoint_activations(model, how)
        return _whole_runner(recipe, step, model, adapters), ranks
    mesh = open_mesh(parallel, ranks.device.type)
    group = rows_group(mesh)
    rows = replace(ranks, rank=dist.get_rank(group), world=dist.get_world_size(group), group=group)
    if parallel.pipeline > 1:
        pipeline = PipelineRunner(
            model, objective, parallel, mesh, activation_checkpointing=how, dtype=dtype
        )
        return PipelinedRunner(pipeline, mesh), rows
    module = parallelize(step, model, parallel, mesh, activation_checkpointing=how)
    if parallel.world == parallel.data:
        return _whole_runner(recipe, module, model, adapters), rows
    return ShardedRunner(module, model, mesh, dtype=dtype), rows


def _whole_runner(
    recipe: Recipe, module: nn.Module, model: nn.Module, adapters: Adapters | None
) -> Runner:
    """Where each process has all weights."""
    config = recipe.training
    dtype, is_compiled = DTYPES[config.precision], config.compile
    if adapters is None:
        return StepRunner(module, model, dtype=dtype, is_compiled=is_compiled)
    base = str(recipe.model.load)
    return AdapterRunner(module, model, adapters, base=base, dtype=dtype, is_compiled=is_compiled)
