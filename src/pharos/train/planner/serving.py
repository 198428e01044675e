"""What a language model costs to serve.

Decoding reads all weights and the cache of every sequence for each token: bandwidth bounds it.
Reading a prompt multiplies: FLOP/s bound it. A replica of `G` devices that holds `B` sequences
takes, for a request of `P` prompt and `O` output tokens,

    prefill = P · FLOPs per token / (G · peak · MFU)
    step    = max(bytes read / (G · bandwidth · efficiency), FLOPs / (G · peak · MFU))
    seconds of the replica = prefill + O · step / B

and serves `1 / (prefill + O · step / B)` requests a second. Communication between devices is in the
two efficiencies; queues, and batches that are not full, are not in it.
"""

import math
from dataclasses import dataclass, replace
from typing import Literal, get_args

from pharos.train.planner.devices import Device
from pharos.train.planner.shapes import ModelShape

WeightPrecision = Literal["fp32", "bf16", "fp16", "fp8", "int8", "int4"]
CachePrecision = Literal["fp32", "bf16", "fp16", "fp8", "int8"]
WEIGHT_BYTES: dict[WeightPrecision, float] = {
    "fp32": 4,
    "bf16": 2,
    "fp16": 2,
    "fp8": 1,
    "int8": 1,
    "int4": 0.5 + 4 / 128,
}
"""Per weight; in int4, groups of 128 have a scale and a zero point of 16 bits."""
CACHE_BYTES: dict[CachePrecision, int] = {"fp32": 4, "bf16": 2, "fp16": 2, "fp8": 1, "int8": 1}
WEIGHT_PRECISIONS: tuple[WeightPrecision, ...] = get_args(WeightPrecision)
MOST_GPUS = 1024
NODE_SIZE = 8
USUAL_MOST_SEQUENCES = 256
TOKENS_QUOTED = 1e6


@dataclass(frozen=True, kw_only=True, slots=True)
class Load:
    """What is asked: requests of `prompt_tokens` and `output_tokens`, `requests_per_second` of them
    if a fleet is to be sized. `batch` is how many are decoded together; None: as many as fit,
    up to the 256 that engines take by default."""

    prompt_tokens: int = 1024
    output_tokens: int = 256
    batch: int | None = None
    requests_per_second: float | None = None

    def __post_init__(self) -> None:
        for name in ("prompt_tokens", "output_tokens", "batch", "requests_per_second"):
            value = getattr(self, name)
            if value is not None and not (value > 0 and math.isfinite(value)):
                raise ValueError(f"{name} is {value}; it must be above 0")

    @property
    def sequence_length(self) -> int:
        return self.prompt_tokens + self.output_tokens


@dataclass(frozen=True, kw_only=True, slots=True)
class ServingSetup:
    """On what, and how. `gpus` are those of one replica; None: the fewest that hold the model.
    `bandwidth_efficiency` and `mfu` are the shares of the peaks that are reached."""

    device: Device
    weights: WeightPrecision = "bf16"
    cache: CachePrecision = "bf16"
    gpus: int | None = None
    price: float | None = None
    mfu: float = 0.5
    bandwidth_efficiency: float = 0.7
    reserve: float = 0.1

    def __post_init__(self) -> None:
        for name in ("mfu", "bandwidth_efficiency"):
            if not 0 < getattr(self, name) <= 1:
                raise ValueError(
                    f"{name} is {getattr(self, name)}; it is the share of the peak that is "
                    "reached: above 0, at most 1"
                )
        if not 0 <= self.reserve < 1:
            raise ValueError(f"reserve is {self.reserve}; it is a share of memory: 0 to below 1")
        if self.gpus is not None and self.gpus < 1:
            raise ValueError(f"gpus is {self.gpus}; a replica has at least 1")
        if self.price is not None and not (self.price > 0 and math.isfinite(self.price)):
            raise ValueError(f"price is {self.price}; it must be dollars per hour, above 0")
        if self.weights == "fp8" and self.device.fp8_flops is None:
            raise ValueError(
                f"weights are fp8, and a {self.device.name} does not multiply fp8; take int8, or "
                "another GPU"
            )

    @property
    def usable_memory(self) -> float:
        """Of each device."""
        return self.device.memory * (1 - self.reserve)

    @property
    def flops(self) -> float:
        """That a device reaches; only weights in fp8 are multiplied in fp8."""
        peak = self.device.fp8_flops if self.weights == "fp8" else self.device.flops
        assert peak is not None
        return peak * self.mfu

    @property
    def price_per_second(self) -> float:
        return (self.device.price if self.price is None else self.price) / 3600


@dataclass(frozen=True, kw_only=True, slots=True)
class ServingPlan:
    """Of one replica, unless it says otherwise; bytes of the whole replica. `seconds_per_request`
    is the time that a request spends in a full batch, by Little's law; `first_token_seconds` the
    time of its prompt alone."""

    shape: ModelShape
    load: Load
    setup: ServingSetup
    weight_bytes: dict[str, float]
    kv_bytes_per_token: int
    kv_bytes_per_sequence: int
    gpus: int
    batch: int
    largest_batch: int
    first_token_seconds: float
    step_seconds: float
    is_bound_by_bandwidth: bool
    requests_per_second: float
    dollars_per_million_input: float
    dollars_per_million_output: float
    replicas: int

    @property
    def decode_tokens_per_second(self) -> float:
        """Of all sequences together, while nothing else is done."""
        return self.batch / self.step_seconds

    @property
    def seconds_per_request(self) -> float:
        return self.batch / self.requests_per_second

    @property
    def total_gpus(self) -> int:
        return self.gpus * self.replicas

    @property
    def dollars_per_day(self) -> float:
        """Of all replicas."""
        return self.total_gpus * self.setup.price_per_second * 86_400


def plan_serving(shape: ModelShape, load: Load, setup: ServingSetup) -> ServingPlan:
    """Raises ValueError where the model is no decoder, or where it, or the batch that was asked
    for, does not fit."""
    if not shape.is_decoder:
        raise ValueError(
            f"{shape.name} is no decoder, which writes text token by token; only those are planned"
        )
    if shape.context is not None and load.sequence_length > shape.context:
        raise ValueError(
            f"prompt_tokens {load.prompt_tokens} and output_tokens {load.output_tokens} are "
            f"{load.sequence_length} together; {shape.name} was made for {shape.context}: ask for "
            "fewer"
        )
    gpus = setup.gpus or fewest_gpus(shape, load, setup)
    largest = largest_batch(shape, load, setup, gpus)
    if largest < 1:
        raise ValueError(_too_small(shape, load, setup, gpus))
    batch = min(largest, USUAL_MOST_SEQUENCES) if load.batch is None else load.batch
    if batch > largest:
        raise ValueError(
            f"batch is {batch}; {gpus} {setup.device.name} hold at most {largest} sequences of "
            f"{load.sequence_length} tokens beside the weights: take a smaller batch, more gpus, "
            "or a smaller cache precision"
        )
    prefill = prefill_seconds(shape, load, setup, gpus)
    by_bandwidth, by_flops = step_seconds(shape, load, setup, gpus, batch)
    step = max(by_bandwidth, by_flops)
    rate = 1 / (prefill + load.output_tokens * step / batch)
    dollars = gpus * setup.price_per_second * TOKENS_QUOTED
    return ServingPlan(
        shape=shape,
        load=load,
        setup=setup,
        weight_bytes={name: weight_bytes(shape, name) for name in WEIGHT_PRECISIONS},
        kv_bytes_per_token=kv_bytes_per_token(shape, setup.cache),
        kv_bytes_per_sequence=kv_bytes_per_sequence(shape, load, setup),
        gpus=gpus,
        batch=batch,
        largest_batch=largest,
        first_token_seconds=prefill,
        step_seconds=step,
        is_bound_by_bandwidth=by_bandwidth >= by_flops,
        requests_per_second=rate,
        dollars_per_million_input=dollars * prefill / load.prompt_tokens,
        dollars_per_million_output=dollars * step / batch,
        replicas=math.ceil((load.requests_per_second or 0) / rate) or 1,
    )


def plans_by_gpus(shape: ModelShape, load: Load, setup: ServingSetup) -> list[ServingPlan]:
    """The same on replicas of more and more devices, up to a node: what costs least is rarely the
    replica that just holds the model, since its batches are small."""
    gpus = fewest_gpus(shape, load, setup)
    plans = [plan_serving(shape, load, replace(setup, gpus=gpus))]
    while gpus < NODE_SIZE:
        gpus *= 2
        plans.append(plan_serving(shape, load, replace(setup, gpus=gpus)))
    return plans


def weight_bytes(shape: ModelShape, precision: WeightPrecision) -> float:
    return WEIGHT_BYTES[precision] * shape.num_parameters


def kv_bytes_per_token(shape: ModelShape, precision: CachePrecision) -> int:
    return CACHE_BYTES[precision] * shape.kv_elements()


def kv_bytes_per_sequence(shape: ModelShape, load: Load, setup: ServingSetup) -> int:
    """When its last token is written; a window keeps no more than it sees."""
    return kv_bytes_per_token(shape, setup.cache) * shape.seen(load.sequence_length)


def largest_batch(shape: ModelShape, load: Load, setup: ServingSetup, gpus: int) -> int:
    """How many whole sequences fit beside the weights; 0 where not even those do. Keys and values
    are divided by heads: on more devices than there are, they are kept more than once."""
    free = setup.usable_memory - weight_bytes(shape, setup.weights) / gpus
    of_sequence = kv_bytes_per_sequence(shape, load, setup) / min(gpus, shape.num_kv_heads)
    return max(0, int(free / of_sequence))


def fewest_gpus(shape: ModelShape, load: Load, setup: ServingSetup) -> int:
    """The smallest power of two of devices that hold the weights and one sequence, or the batch."""
    gpus = 1
    while largest_batch(shape, load, setup, gpus) < (load.batch or 1):
        if gpus >= MOST_GPUS:
            raise ValueError(_too_small(shape, load, setup, gpus))
        gpus *= 2
    return gpus


def prefill_seconds(shape: ModelShape, load: Load, setup: ServingSetup, gpus: int) -> float:
    """Of one prompt by itself; its tokens see half of it on average."""
    seen = min(load.prompt_tokens / 2, shape.seen(load.prompt_tokens))
    flops = load.prompt_tokens * (2 * shape.num_active_parameters + shape.attention_flops(seen))
    return flops / (gpus * setup.flops)


def step_seconds(
    shape: ModelShape, load: Load, setup: ServingSetup, gpus: int, batch: int
) -> tuple[float, float]:
    """Of a token for each of `batch` sequences, half written: by bandwidth, and by FLOP/s."""
    seen = shape.seen(load.prompt_tokens + load.output_tokens // 2)
    weights = weight_bytes(shape, setup.weights) * read_share(shape, batch) / gpus
    copies = min(gpus, shape.num_kv_heads)
    cache = batch * seen * kv_bytes_per_token(shape, setup.cache) / copies
    by_bandwidth = (weights + cache) / (setup.device.bandwidth * setup.bandwidth_efficiency)
    flops = batch * (2 * shape.num_active_parameters + shape.attention_flops(seen))
    return by_bandwidth, flops / (gpus * setup.flops)


def read_share(shape: ModelShape, batch: int) -> float:
    """The share of all weights that a step reads: of a mixture, the experts that at least one of
    `batch` tokens meets, if each meets any of them alike."""
    if shape.num_experts == 1:
        return 1.0
    idle = 1 - shape.experts_per_token / shape.num_experts
    in_experts = (shape.num_parameters - shape.num_active_parameters) / idle
    return 1 - in_experts * idle**batch / shape.num_parameters


def _too_small(shape: ModelShape, load: Load, setup: ServingSetup, gpus: int) -> str:
    weights = weight_bytes(shape, setup.weights) / 1e9
    sequence = kv_bytes_per_sequence(shape, load, setup) / 1e9
    return (
        f"{gpus} {setup.device.name} have {gpus * setup.usable_memory / 1e9:.0f} GB to use; "
        f"{shape.name} takes {weights:.0f} GB in {setup.weights}, and a sequence of "
        f"{load.sequence_length} tokens {sequence:.1f} GB: take more gpus, or a smaller precision"
    )
