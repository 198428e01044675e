"""Which mesh, and which micro-batch, a world of devices should train with.

Of all meshes that fit, the one that is expected to lose the least time. Tensor parallelism stays
within a node, the pipeline has whole layers, and a step has at least as many micro-batches as the
pipeline has stages. What each way of sharing costs is a rough rank, not a measurement: see
`expected_loss`.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from pharos.train.planner.memory import Checkpointing, Job, MemoryUse, Mesh, Strategy, memory_use

RECOMMENDED: tuple[Strategy, ...] = ("ddp", "fsdp")
LARGEST_MICRO_BATCH = 64
LARGEST_WORLD = 2**17


@dataclass(frozen=True, kw_only=True, slots=True)
class Machine:
    """A world: its devices' memory, of which `reserve` is left to the driver, to communication and
    to fragmentation, and how many of them share a fast link."""

    memory: float
    node_size: int = 8
    reserve: float = 0.1

    @property
    def usable(self) -> float:
        return self.memory * (1 - self.reserve)


@dataclass(frozen=True, kw_only=True, slots=True)
class Placement:
    """A mesh with what runs on it; a step is `micro_batch × mesh.data × accumulation` sequences."""

    mesh: Mesh
    checkpointing: Checkpointing
    micro_batch: int
    accumulation: int
    memory: MemoryUse

    @property
    def batch_sequences(self) -> int:
        return self.micro_batch * self.mesh.data * self.accumulation

    @property
    def expected_loss(self) -> float:
        """The share of time that this way of sharing is thought to cost, for ranking: each halving
        by tensor parallelism 6%, the pipeline 6% and its bubble, FSDP 3%, each doubling of
        data-parallel devices beyond a node's 8 1%, full checkpointing a second forward pass."""
        mesh = self.mesh
        loss = 0.06 * math.log2(mesh.tensor) + 0.01 * max(0.0, math.log2(mesh.data / 8))
        if mesh.strategy == "fsdp":
            loss += 0.03
        if mesh.pipeline > 1:
            loss += 0.06 + (mesh.pipeline - 1) / self.accumulation
        return loss + (1 / 3 if self.checkpointing == "full" else 0.0)


def recommend(
    job: Job, world: int, batch_sequences: int, machine: Machine, *, may_recompute: bool = True
) -> Placement | None:
    """The best placement, or None where none fits. A step may become up to twice as large as
    `batch_sequences`, which is where data parallelism ends. With `may_recompute`, full
    checkpointing is tried beside the job's own."""
    ways: tuple[Checkpointing, ...] = (job.checkpointing,)
    if may_recompute and job.checkpointing != "full":
        ways = (job.checkpointing, "full")
    placements = (
        placement
        for mesh in meshes(job, world, machine)
        for way in ways
        if (placement := _place(job, mesh, way, batch_sequences, machine)) is not None
    )
    return min(placements, key=_rank, default=None)


def smallest_world(job: Job, batch_sequences: int, machine: Machine) -> int | None:
    """The fewest devices, a power of two, on which the job fits at all."""
    world = 1
    while world <= LARGEST_WORLD:
        if recommend(job, world, batch_sequences, machine) is not None:
            return world
        world *= 2
    return None


def meshes(job: Job, world: int, machine: Machine) -> Iterator[Mesh]:
    node, heads = math.gcd(world, machine.node_size), job.shape.num_heads
    for tensor in _divisors(math.gcd(node, heads)):
        for pipeline in _divisors(math.gcd(world // tensor, job.shape.num_layers)):
            data = world // (tensor * pipeline)
            for strategy in RECOMMENDED if data > 1 else RECOMMENDED[:1]:
                yield Mesh(data=data, tensor=tensor, pipeline=pipeline, strategy=strategy)


def _place(
    job: Job, mesh: Mesh, checkpointing: Checkpointing, batch_sequences: int, machine: Machine
) -> Placement | None:
    """With the largest micro-batch that fits and leaves the pipeline enough of them."""
    job = replace(job, checkpointing=checkpointing)
    best = None
    micro_batch = 1
    while micro_batch <= LARGEST_MICRO_BATCH:
        rows = mesh.data * micro_batch
        accumulation = max(round(batch_sequences / rows), mesh.pipeline, 1)
        if best is not None and accumulation < 4 * (mesh.pipeline - 1):
            break
        memory = memory_use(job, mesh, micro_batch)
        is_too_many = rows * accumulation > max(2 * batch_sequences, 1)
        if memory.total > machine.usable or is_too_many:
            break
        best = Placement(
            mesh=mesh,
            checkpointing=checkpointing,
            micro_batch=micro_batch,
            accumulation=accumulation,
            memory=memory,
        )
        micro_batch *= 2
    return best


def _rank(placement: Placement) -> tuple[float, int, int]:
    mesh = placement.mesh
    return placement.expected_loss, mesh.pipeline, -placement.micro_batch


def _divisors(number: int) -> list[int]:
    return [divisor for divisor in range(1, number + 1) if number % divisor == 0]
