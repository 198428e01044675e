"""How many devices, along which axes, and whether a model can be spread that way.

    world = pipeline × data × shard × expert × tensor

| axis | what its ranks have | what they send |
|---|---|---|
| pipeline | other layers | activations, at the borders |
| data | other rows, all weights | gradients |
| shard | other rows, a part of each weight (FSDP2) | weights and gradients |
| expert | other rows, other experts | tokens |
| tensor | the same rows, a part of each matrix | activations, in every layer |

Ranks that differ in `tensor` only are neighbours, for they talk most. Everything is checked before
anything is loaded.
"""

from dataclasses import dataclass, fields
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from pharos.core.errors import TrainingError

AXES = ("pipeline", "data", "shard", "expert", "tensor")
ROWS = ("data", "shard", "expert")
"""Along which rows differ."""
STAGES_PER_RANK = {"1f1b": 1, "interleaved": 2}

Schedule = Literal["1f1b", "interleaved"]


@dataclass(frozen=True, kw_only=True, slots=True)
class ParallelConfig:
    """Ranks along each axis. `schedule` is the pipeline's: `1f1b` (Narayanan et al. 2019) or
    `interleaved` (Narayanan et al. 2021, arXiv:2104.04473), where each rank has two stages and
    waits half as long."""

    data: int = 1
    shard: int = 1
    tensor: int = 1
    pipeline: int = 1
    expert: int = 1
    schedule: Schedule = "1f1b"

    def __post_init__(self) -> None:
        for axis in AXES:
            if getattr(self, axis) < 1:
                raise ValueError(
                    f"{axis} is {getattr(self, axis)}; it must be at least 1 (1 is off)"
                )
        if self.schedule not in STAGES_PER_RANK:
            known = ", ".join(STAGES_PER_RANK)
            raise ValueError(f"schedule is {self.schedule!r}; choose from {known}")

        if self.data > 1 and self.expert > 1:
            raise ValueError(
                f"data is {self.data} and expert is {self.expert}: beside spread experts, weights "
                f"are sharded, not copied; set shard to {self.data * self.shard} and data to 1"
            )

    @property
    def world(self) -> int:
        return self.pipeline * self.rows * self.tensor

    @property
    def rows(self) -> int:
        """How many ranks, or groups of ranks, have rows of their own."""
        return self.data * self.shard * self.expert

    @property
    def is_sharded(self) -> bool:
        """Whether FSDP2 looks after the gradients. Copies of plain weights are DDP's."""
        return self.rows > 1 and self.shard * self.expert * self.tensor > 1

    @property
    def num_stages(self) -> int:
        return self.pipeline * STAGES_PER_RANK[self.schedule] if self.pipeline > 1 else 1


def check_parallel(
    config: ParallelConfig,
    *,
    world: int,
    model: Any,
    task: str,
    num_micro_batches: int | None = None,
) -> None:
    """Raises TrainingError for a mesh that does not fit the `world`, or a `model` (a config) that
    cannot be spread over it, naming the key, its value and what would do."""
    _check_world(config, world)
    if config.tensor > 1:
        _check_kind(config, "tensor", model, TENSOR_PARALLEL)
        for key in _split_by_tensor(model):
            _check_divides(config.tensor, "tensor", getattr(model, key), _shown(model, key))
    if config.expert > 1:
        _check_kind(config, "expert", model, EXPERT_PARALLEL)
        key = "num_local_experts"
        _check_divides(config.expert, "expert", getattr(model, key), key)
    if config.pipeline > 1:
        _check_pipeline(config, model, task, num_micro_batches)


GPT2 = frozenset({"gpt2"})
LLAMAS = frozenset({"llama", "mistral", "qwen2", "qwen3"})
EXPERT_PARALLEL = frozenset({"mixtral"})
TENSOR_PARALLEL = GPT2 | LLAMAS | EXPERT_PARALLEL
PIPELINE_PARALLEL = TENSOR_PARALLEL


def _check_world(config: ParallelConfig, world: int) -> None:
    if config.world == world:
        return
    used = [(f.name, getattr(config, f.name)) for f in fields(config) if f.name in AXES]
    product = " × ".join(f"{name} {size}" for name, size in used if size > 1) or "1"
    raise TrainingError(
        f"parallel: {product} makes {config.world} processes, but {world} run; start it with "
        f"`torchrun --nproc-per-node {config.world}`, or change an axis so that the product is "
        f"{world}"
    )


def _check_kind(config: ParallelConfig, axis: str, model: Any, known: frozenset[str]) -> None:
    if model.model_type not in known:
        raise TrainingError(
            f"parallel.{axis} is {getattr(config, axis)}: there is no plan to spread a "
            f"{model.model_type} that way, only {', '.join(sorted(known))}; set it to 1 and use "
            "parallel.shard, which every model can"
        )


def _split_by_tensor(model: Any) -> list[str]:
    keys = ["num_attention_heads", "intermediate_size"]
    return keys if model.model_type in GPT2 else [*keys, "num_key_value_heads"]


def _check_divides(size: int, axis: str, number: int, key: str) -> None:
    if number % size:
        choices = [d for d in range(1, number + 1) if number % d == 0 and d <= 64]
        raise TrainingError(
            f"parallel.{axis} is {size}: the model's {key}, {number}, cannot be dealt to that many "
            f"ranks evenly; choose from {', '.join(map(str, choices))}"
        )


def _check_pipeline(
    config: ParallelConfig, model: Any, task: str, num_micro_batches: int | None
) -> None:
    _check_kind(config, "pipeline", model, PIPELINE_PARALLEL)
    if task != "causal_lm":
        raise TrainingError(
            f"parallel.pipeline is {config.pipeline}: only a causal language model is cut into "
            f"stages, and the task is {task}; set it to 1 and use parallel.shard"
        )
    layers, stages = model.num_hidden_layers, config.num_stages
    if layers % stages:
        raise TrainingError(
            f"parallel.pipeline is {config.pipeline} with the {config.schedule} schedule: the "
            f"model's {layers} layers cannot be dealt to {stages} stages evenly; choose a number "
            "of ranks that divides the layers"
            + (", or the schedule 1f1b" if layers % config.pipeline == 0 else "")
        )
    if num_micro_batches is not None and num_micro_batches % config.pipeline:
        raise TrainingError(
            f"parallel.pipeline is {config.pipeline}: a rank has {num_micro_batches} micro-batches "
            "in a step, which must be a multiple of that for no stage to stand idle; change "
            "training.batch_size or training.micro_batch_size"
        )


def _shown(model: Any, key: str) -> str:
    renamed: str = model.RENAMED.get(key, key)
    return renamed


def open_mesh(config: ParallelConfig, device_type: str = "cpu") -> DeviceMesh:
    """The devices by axis. The process group of the world is made if there is none: from the
    variables that torchrun sets."""
    if device_type == "cuda":
        torch.cuda.set_device(dist.get_node_local_rank(fallback_rank=0))
    sizes = tuple(getattr(config, axis) for axis in AXES)
    return init_device_mesh(device_type, sizes, mesh_dim_names=AXES)


def as_one(mesh: DeviceMesh, *axes: str) -> DeviceMesh:
    """Several neighbouring axes as one. Every rank must ask for the same ones."""
    return mesh[axes]._flatten("_".join(axes)) if len(axes) > 1 else mesh[axes]
