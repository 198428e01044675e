"""Training on many devices with `torch.distributed`, applied from outside the model.

check_parallel(config, world=8, model=model_config, task="causal_lm")    before anything loads
mesh = open_mesh(config)
module = parallelize(Step(model, objective), model, config, mesh)        no pipeline
module = PipelineRunner(model, objective, config, mesh)                  a pipeline
optimizer = AdamW(module.parameters())
"""

from pharos.train.parallel.apply import parallelize, rows_group
from pharos.train.parallel.checkpoint import (
    load_sharded,
    load_whole,
    named_parameters,
    save_sharded,
)
from pharos.train.parallel.clip import clip_grad_norm
from pharos.train.parallel.mesh import ParallelConfig, check_parallel, open_mesh
from pharos.train.parallel.pipeline import PipelineRunner

__all__ = [
    "ParallelConfig",
    "PipelineRunner",
    "check_parallel",
    "clip_grad_norm",
    "load_sharded",
    "load_whole",
    "named_parameters",
    "open_mesh",
    "parallelize",
    "rows_group",
    "save_sharded",
]
