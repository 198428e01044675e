"""What attention over blocks costs in a step of the engine, beside the linears of the same layer.

    python -m benchmarks.paged_attention [--threads N] [--wall-time] [--json]

The layer is that of a 0.5B Llama (width 896, 14 heads that share 2, inner width 4,864) in bfloat16.
Each figure is the best of several calls in milliseconds: by the processor's seconds, which do not
count waiting, or by the wall clock; on a GPU always by the GPU's.

Writing: one token each for many sequences of some length, with tables of neighbouring blocks and
with shuffled ones; and how fast keys and values are read. Reading: a chunk of a prompt that goes on
after a past, by each way that there is.
"""

import argparse
import json
import random
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from benchmarks.hardware import describe
from torch import Tensor, nn

from pharos.ops.attention import attention
from pharos.ops.attention.chunk import chunk_attention
from pharos.ops.masks import Causal
from pharos.ops.paged_attention import FlatBatch, Segment, paged_attention, store
from pharos.quant.bf16 import pack_linears

WIDTH, HEADS, GROUPS, HEAD_WIDTH, INNER, BLOCK = 896, 14, 2, 64, 4864, 16
LAYERS = 4  # each has blocks of its own, as in a model: none stays in the processor's cache
WRITING = [(1, 256), (1, 4096), (16, 256), (16, 2048), (64, 64), (64, 256), (64, 1024)]
READING = [(512, 0), (512, 512), (512, 1536), (512, 7680)]
CALLS = 10
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
Clock = Callable[[], float]


@dataclass(frozen=True, kw_only=True, slots=True)
class Writing:
    sequences: int
    length: int
    linears_ms: float
    store_ms: float
    attention_ms: float
    fragmented_ms: float
    read_gb_per_s: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Reading:
    chunk: int
    past: int
    linears_ms: float
    chunk_ms: float
    matrix_ms: float
    tiled_ms: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--threads", type=int)
    parser.add_argument("--wall-time", action="store_true")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    clock = time.perf_counter if args.wall_time else time.process_time
    with torch.inference_mode():
        writing = [measure_writing(*sizes, clock) for sizes in WRITING]
        reading = [measure_reading(*sizes, clock) for sizes in READING]
    result = {
        "machine": describe(),
        "threads": torch.get_num_threads(),
        "writing": [asdict(row) for row in writing],
        "reading": [asdict(row) for row in reading],
    }
    print(json.dumps(result, indent=2) if args.json else render(result))


def measure_writing(sequences: int, length: int, clock: Clock) -> Writing:
    per_sequence = -(-length // BLOCK)
    ids = list(range(sequences * per_sequence))
    layers = [noise(2, GROUPS, len(ids), BLOCK, HEAD_WIDTH) for _ in range(LAYERS)]
    neighbours = batch_of(ids, per_sequence, length)
    fragmented = batch_of(random.Random(0).sample(ids, len(ids)), per_sequence, length)
    q, k = noise(sequences, HEADS, HEAD_WIDTH), noise(GROUPS, sequences, HEAD_WIDTH)

    def attend(batch: FlatBatch) -> float:
        return each_layer(lambda kv: paged_attention(q, kv, batch, mask=Causal()), layers, clock)

    attention_ms = attend(neighbours)
    read_bytes = layers[0].nbytes * length / (per_sequence * BLOCK)
    return Writing(
        sequences=sequences,
        length=length,
        linears_ms=measure_linears(sequences, clock),
        store_ms=each_layer(lambda kv: store(kv, k, k, neighbours), layers, clock),
        attention_ms=attention_ms,
        fragmented_ms=attend(fragmented),
        read_gb_per_s=read_bytes / attention_ms / 1e6,
    )


def measure_reading(chunk: int, past: int, clock: Clock) -> Reading:
    q = noise(1, HEADS, chunk, HEAD_WIDTH)
    k, v = noise(2, 1, GROUPS, past + chunk, HEAD_WIDTH)
    ways = {
        "chunk_ms": lambda: chunk_attention(q, k, v),
        "matrix_ms": lambda: attention(q, k, v, mask=Causal(), backend="sdpa"),
        "tiled_ms": lambda: attention(q, k, v, mask=Causal(), backend="tiled"),
    }
    times = {name: best_ms(way, clock) for name, way in ways.items()}
    return Reading(chunk=chunk, past=past, linears_ms=measure_linears(chunk, clock), **times)


def measure_linears(num_tokens: int, clock: Clock) -> float:
    """Those of one layer, one after another."""
    heads, keys = HEADS * HEAD_WIDTH, GROUPS * HEAD_WIDTH
    shapes = [(WIDTH, heads), (WIDTH, keys), (WIDTH, keys), (heads, WIDTH)]
    shapes += [(WIDTH, INNER), (WIDTH, INNER), (INNER, WIDTH)]
    layers = [
        nn.ModuleList(nn.Linear(*shape, bias=False, dtype=torch.bfloat16) for shape in shapes)
        for _ in range(LAYERS)
    ]
    for layer in layers:
        pack_linears(layer.to(DEVICE))
    inputs = [noise(1, num_tokens, shape[0]) for shape in shapes]

    def multiply(layer: nn.ModuleList) -> None:
        for linear, x in zip(layer, inputs, strict=True):
            linear(x)

    return each_layer(multiply, layers, clock)


def batch_of(ids: list[int], per_sequence: int, length: int) -> FlatBatch:
    tables = [ids[i : i + per_sequence] for i in range(0, len(ids), per_sequence)]
    segments = [Segment(table, length - 1, 1) for table in tables]
    return FlatBatch(segments, block_size=BLOCK, device=DEVICE)


def noise(*shape: int) -> Tensor:
    return torch.randn(shape, device=DEVICE).to(torch.bfloat16)


def each_layer(call: Callable[[Any], object], layers: list[Any], clock: Clock) -> float:
    return best_ms(lambda: [call(layer) for layer in layers], clock) / len(layers)


def best_ms(call: Callable[[], object], clock: Clock) -> float:
    call()
    seconds = []
    for _ in range(CALLS):
        if DEVICE.type == "cuda":
            torch.cuda.synchronize()
            started = time.perf_counter()
            call()
            torch.cuda.synchronize()
            seconds.append(time.perf_counter() - started)
        else:
            started = clock()
            call()
            seconds.append(clock() - started)
    return min(seconds) * 1e3


def render(result: dict[str, Any]) -> str:
    lines = [result["machine"], f"{result['threads']} threads; milliseconds a layer", ""]
    for name in ("writing", "reading"):
        rows = result[name]
        lines += [name, " ".join(f"{key.removesuffix('_ms'):>18}" for key in rows[0])]
        lines += [" ".join(f"{value:18.3g}" for value in row.values()) for row in rows]
        lines.append("")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
