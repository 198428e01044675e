"""The plan of a training run: its budget, the devices, the mesh, and what each of them holds."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from pharos.train.planner.budget import HOURS_PER_DAY, Budget, Given, Rates, plan_budget
from pharos.train.planner.devices import Device
from pharos.train.planner.memory import (
    STRATEGY_NAMES,
    Checkpointing,
    Job,
    MemoryUse,
    Mesh,
    Optimizer,
    States,
    memory_use,
)
from pharos.train.planner.mesh import Machine, Placement, recommend, smallest_world
from pharos.train.planner.scaling import (
    REFIT,
    Optimum,
    ScalingLaw,
    batch_tokens,
    comparison,
    learning_rate,
)
from pharos.train.planner.shapes import ModelShape, assumed_shape

USUAL_SEQUENCE = 2048
USUAL_MFU = 0.4
PATIENCE_DAYS = 30
LARGEST_WORLD = 2**17


@dataclass(frozen=True, kw_only=True, slots=True)
class Assumptions:
    """What a plan takes for granted. `price`, `sequence_length` and `batch_tokens` of None are the
    device's, the model's (2048 if it has none), and DeepSeek LLM's fit to compute; `checkpointing`
    of None is the cheapest that fits."""

    device: Device
    mfu: float = USUAL_MFU
    price: float | None = None
    law: ScalingLaw = REFIT
    sequence_length: int | None = None
    batch_tokens: float | None = None
    optimizer: Optimizer = "adamw"
    states: States = "fp32"
    checkpointing: Checkpointing | None = None
    node_size: int = 8
    reserve: float = 0.1

    def __post_init__(self) -> None:
        for name in ("sequence_length", "batch_tokens", "node_size"):
            value = getattr(self, name)
            if value is not None and not value >= 1:
                raise ValueError(f"{name} is {value}; it must be at least 1")
        if not 0 <= self.reserve < 1:
            raise ValueError(f"reserve is {self.reserve}; it is a share of memory: 0 to below 1")

    @property
    def rates(self) -> Rates:
        price = self.device.price if self.price is None else self.price
        return Rates(flops=self.device.flops, mfu=self.mfu, price=price)

    @property
    def machine(self) -> Machine:
        return Machine(memory=self.device.memory, node_size=self.node_size, reserve=self.reserve)


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingPlan:
    """`placement` is None where the model does not fit on the devices; `smallest_world` then says
    on how many it would (None: on none). `attention_compute` is what of the compute is attention.
    `strategies` has the memory of each way of sharing, with one sequence at a time."""

    given: Given
    assumptions: Assumptions
    job: Job
    is_shape_known: bool
    budget: Budget
    loss: float
    attention_compute: float
    gpus: int
    days: float
    target_batch_tokens: float
    learning_rate: float
    placement: Placement | None
    smallest_world: int | None
    optima: Mapping[str, Optimum] = field(default_factory=dict)
    strategies: Mapping[str, tuple[Mesh, MemoryUse]] = field(default_factory=dict)

    @property
    def tokens_per_second(self) -> float:
        return self.budget.tokens / (self.days * HOURS_PER_DAY * 3600)

    @property
    def num_steps(self) -> int | None:
        """Optimizer steps with the batch of the placement."""
        if self.placement is None:
            return None
        tokens = self.placement.batch_sequences * self.job.sequence_length
        return math.ceil(self.budget.tokens / tokens)


def plan_training(
    given: Given, assumptions: Assumptions, shape: ModelShape | None = None
) -> TrainingPlan:
    """The rest of a run. With a `shape`, its parameters are given and attention is counted.

    Raises ValueError where what is given says too little, or contradicts itself."""
    if shape is not None and given.params is not None:
        raise ValueError(
            f"params is {given.params:.3g}, and the model {shape.name} has "
            f"{shape.num_parameters:.3g}: the model gives its parameters, leave out params or model"
        )
    rates, law, is_shape_known = assumptions.rates, assumptions.law, shape is not None
    length = assumptions.sequence_length or (shape and shape.context) or USUAL_SEQUENCE
    budget = _budget(given, rates, law, shape, length)
    shape = shape or assumed_shape(budget.params)
    job = Job(
        shape=shape,
        sequence_length=length,
        optimizer=assumptions.optimizer,
        states=assumptions.states,
        checkpointing=assumptions.checkpointing or "selective",
    )
    target = assumptions.batch_tokens or batch_tokens(budget.compute)
    batch = max(1, round(target / length))
    gpus = _num_gpus(given, budget, job, batch, assumptions)
    placement = _place(job, gpus, batch, assumptions)
    fewest = None if placement else smallest_world(job, batch, assumptions.machine)
    six = 6 * budget.params * budget.tokens
    return TrainingPlan(
        given=given,
        assumptions=assumptions,
        job=job,
        is_shape_known=is_shape_known,
        budget=budget,
        loss=law.loss(budget.params, budget.tokens),
        attention_compute=max(0.0, budget.compute - six) if is_shape_known else 0.0,
        gpus=gpus,
        days=budget.gpu_hours / HOURS_PER_DAY / gpus,
        target_batch_tokens=target,
        learning_rate=learning_rate(budget.compute),
        placement=placement,
        smallest_world=fewest,
        optima=comparison(budget.compute, law),
        strategies=_strategies(job, gpus, assumptions),
    )


def _budget(
    given: Given, rates: Rates, law: ScalingLaw, shape: ModelShape | None, length: int
) -> Budget:
    if shape is None:
        return plan_budget(given, rates, law=law)
    flops = shape.training_flops_per_token(length)
    known = {name: getattr(given, name) for name in ("compute", "tokens", "money", "days", "gpus")}
    with_params = Given(params=shape.num_active_parameters, **known)
    return plan_budget(with_params, rates, law=law, flops_per_token=lambda _: flops)


def _num_gpus(given: Given, budget: Budget, job: Job, batch: int, assumptions: Assumptions) -> int:
    """As many as are given, or as the days ask for in whole nodes, or the fewest that hold the
    model and are done within a month."""
    if given.gpus is not None:
        return given.gpus
    hours_each = (given.days or PATIENCE_DAYS) * HOURS_PER_DAY
    needed = budget.gpu_hours / hours_each
    if given.days is not None:
        return _whole_nodes(needed, assumptions.node_size)
    world = 1
    while world < LARGEST_WORLD:
        fits = _place(job, world, batch, assumptions) is not None
        if world >= needed and fits:
            break
        world *= 2
    return world


def _whole_nodes(needed: float, node_size: int) -> int:
    """A power of two within a node, whole nodes beyond."""
    if needed <= node_size:
        return min(node_size, 1 << max(0, math.ceil(math.log2(needed))))
    return math.ceil(needed / node_size) * node_size


def _place(job: Job, gpus: int, batch: int, assumptions: Assumptions) -> Placement | None:
    may_recompute = assumptions.checkpointing is None
    return recommend(job, gpus, batch, assumptions.machine, may_recompute=may_recompute)


def _strategies(job: Job, gpus: int, assumptions: Assumptions) -> dict[str, tuple[Mesh, MemoryUse]]:
    """Each way of sharing by itself, over all devices; tensor parallelism over a node's, the
    pipeline over as many as divide the layers."""
    meshes = {
        title: Mesh(data=gpus, strategy=strategy) for strategy, title in STRATEGY_NAMES.items()
    }
    tensor = math.gcd(gpus, assumptions.node_size, job.shape.num_heads)
    if tensor > 1:
        meshes[f"tensor {tensor}"] = Mesh(data=gpus // tensor, tensor=tensor)
    stages = math.gcd(gpus, job.shape.num_layers)
    if stages > 1:
        meshes[f"pipeline {stages}"] = Mesh(data=gpus // stages, pipeline=stages)
    return {title: (mesh, memory_use(job, mesh, 1)) for title, mesh in meshes.items()}
