"""What training keeps on each device.

States, in bytes per parameter, as Pharos trains (parameters in float32, multiplied in bf16 under
autocast): 4 weight + 4 gradient + 8 AdamW = 16. ZeRO and Megatron count 2 + 2 + 12, the weights in
bf16 and a float32 copy beside the optimizer's two moments (`states="bf16"`); the sum is the same,
but sharding divides other parts of it (Rajbhandari et al. 2020, arXiv:1910.02054):

    ddp      all on each device
    zero1    the optimizer's state divided by the data-parallel devices
    zero2    its gradients too
    fsdp     its weights too (ZeRO-3): layers are gathered when they are used

Activations by Korthikanti et al. 2022 (arXiv:2205.05198), in bytes of a layer with sequences of s,
b of them, width h, a heads, tensor parallel over t without sequence parallelism:

    none         s b (10 h + (8 h + 2 m) / t + 5 a s / t)
    selective    s b (10 h + (8 h + 2 m) / t)    attention's scores are computed again
    full         s b · 2 h                       but for a layer's input, all is computed again

The paper's m, the numbers that the feed-forward keeps, is 8 h; it is more where it is gated.

A fused attention never keeps its scores: with it, `none` needs what `selective` does.
"""

from dataclasses import dataclass
from typing import Literal

from pharos.train.planner.shapes import ModelShape

Strategy = Literal["ddp", "zero1", "zero2", "fsdp"]
Checkpointing = Literal["none", "selective", "full"]
Optimizer = Literal["adamw", "adamw8bit", "muon"]
States = Literal["fp32", "bf16"]

STRATEGY_NAMES: dict[Strategy, str] = {
    "ddp": "DDP",
    "zero1": "ZeRO-1",
    "zero2": "ZeRO-2",
    "fsdp": "FSDP (ZeRO-3)",
}
BLOCK_8BIT = 256
MATRIX_STATE: dict[Optimizer, float] = {"adamw": 8, "adamw8bit": 2 + 8 / BLOCK_8BIT, "muon": 4}
"""Bytes for each weight of a matrix; two moments, or Muon's one."""
EMBEDDING_STATE: dict[Optimizer, float] = MATRIX_STATE | {"muon": MATRIX_STATE["adamw"]}
"""Muon leaves embeddings to AdamW."""
LAYERS_GATHERED = 2
"""FSDP computes one layer while it fetches the next."""
BF16 = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class Mesh:
    """Devices in three dimensions; `strategy` is what the data-parallel ones share."""

    data: int
    tensor: int = 1
    pipeline: int = 1
    strategy: Strategy = "ddp"

    @property
    def size(self) -> int:
        return self.data * self.tensor * self.pipeline


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """What is trained, and how its numbers are kept."""

    shape: ModelShape
    sequence_length: int
    optimizer: Optimizer = "adamw"
    states: States = "fp32"
    checkpointing: Checkpointing = "selective"


@dataclass(frozen=True, kw_only=True, slots=True)
class MemoryUse:
    """Bytes on the fullest device. `working` are the bf16 copies of weights that are multiplied
    with: under autocast of all, under FSDP of the layers that are gathered."""

    weights: float
    gradients: float
    optimizer: float
    working: float
    activations: float

    @property
    def states(self) -> float:
        return self.weights + self.gradients + self.optimizer

    @property
    def total(self) -> float:
        return self.states + self.working + self.activations


def memory_use(job: Job, mesh: Mesh, micro_batch: int) -> MemoryUse:
    weight, master = (4, 0) if job.states == "fp32" else (2, 4)
    layers, embedding = _parameters_per_device(job.shape, mesh)
    parameters = layers + embedding
    moments = layers * MATRIX_STATE[job.optimizer] + embedding * EMBEDDING_STATE[job.optimizer]
    shards: dict[Strategy, tuple[int, int, int]] = {
        "ddp": (1, 1, 1),
        "zero1": (1, 1, mesh.data),
        "zero2": (1, mesh.data, mesh.data),
        "fsdp": (mesh.data, mesh.data, mesh.data),
    }
    of_weights, of_gradients, of_optimizer = shards[mesh.strategy]
    return MemoryUse(
        weights=weight * parameters / of_weights,
        gradients=weight * parameters / of_gradients,
        optimizer=(moments + master * parameters) / of_optimizer,
        working=_working_bytes(job, mesh, layers, embedding),
        activations=activation_bytes(job, mesh, micro_batch),
    )


def layer_activation_bytes(
    shape: ModelShape,
    sequence_length: int,
    micro_batch: int,
    checkpointing: Checkpointing,
    tensor: int = 1,
) -> float:
    tokens = sequence_length * micro_batch
    if checkpointing == "full":
        return 2.0 * tokens * shape.hidden_size
    kept = 10 * shape.hidden_size + (8 * shape.hidden_size + 2 * shape.mlp_kept) / tensor
    if checkpointing == "none":
        kept += 5 * shape.num_heads * sequence_length / tensor
    return tokens * kept


def activation_bytes(job: Job, mesh: Mesh, micro_batch: int) -> float:
    """On the first pipeline stage, which under 1F1B keeps as many micro-batches as there are
    stages: so many layers' worth as the model has, however it is divided."""
    shape, length = job.shape, job.sequence_length
    layer = layer_activation_bytes(shape, length, micro_batch, job.checkpointing, mesh.tensor)
    if job.checkpointing == "full":  # the layer that is being computed again
        again = layer_activation_bytes(shape, length, micro_batch, "selective", mesh.tensor)
    else:
        again = 0.0
    tokens = length * micro_batch
    ends = tokens * shape.hidden_size * mesh.pipeline / mesh.tensor
    if mesh.pipeline == 1:  # the last norm, the output's input, and logits in float32
        ends += 4 * tokens * (shape.hidden_size + shape.vocab_size) / mesh.tensor
    return layer * shape.num_layers + again + ends


def _parameters_per_device(shape: ModelShape, mesh: Mesh) -> tuple[float, float]:
    """In layers, and in embeddings; with a pipeline, of the first stage."""
    layers = shape.num_layer_parameters * -(-shape.num_layers // mesh.pipeline)
    embedding = shape.num_embedding_parameters
    if mesh.pipeline > 1:
        embedding = min(embedding, shape.vocab_size * shape.hidden_size)
    return layers / mesh.tensor, embedding / mesh.tensor


def _working_bytes(job: Job, mesh: Mesh, layers: float, embedding: float) -> float:
    if mesh.strategy == "fsdp":
        layer = job.shape.num_layer_parameters / mesh.tensor
        gradient = layer * (4 if job.states == "fp32" else 2)
        return BF16 * (LAYERS_GATHERED * layer + embedding) + gradient
    return BF16 * (layers + embedding) if job.states == "fp32" else 0.0
