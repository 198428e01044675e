"""Attention from 1k to 64k tokens: time and memory of every backend, and time by a mask's density.

    python -m benchmarks.attention [--lengths 1024 4096 ...] [--sparse-length 16384] [--heads 4]
                                   [--threads N] [--cpu-time] [--json]

Dense: causal attention, forward and backward, in float32 (bfloat16 on a GPU), heads of 64. Each
figure comes from a process of its own: the best of several calls, and what the peak of the process
grows by over its state with the inputs made. `plain`, which holds the N x N matrix several times
over, runs up to 8,192 tokens; beyond that only the size of one such matrix is told. On a busy
machine take `--threads 1 --cpu-time`: the processor's seconds, which do not count waiting.

Sparse: the forward pass of the tiled backend (the Triton one on a GPU), the mask's density (allowed
pairs of all pairs), the share of the pairs that lie in blocks which are not empty, and the time
beside that of the full mask.

On a GPU: our Triton kernels beside the kernel that torch chooses, with the share of the rate of one
large bfloat16 matrix product. Operations are counted as FlashAttention does: 4 for each allowed
pair and entry of a head forward, 10 backward.
"""

import argparse
import json
import multiprocessing
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from benchmarks.hardware import describe
from torch import Tensor

from pharos.ops.attention import Backend, attention
from pharos.ops.attention.tiles import EMPTY, KEYS_IN_BLOCK, ROWS, kinds_of_blocks
from pharos.ops.masks import Blocks, BlockTable, Causal, Full, Global, Mask, Strided, Window

WIDTH = 64
LONGEST_PLAIN = 8192
FORWARD, BACKWARD = 4, 10  # operations a pair and entry of a head


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    heads: int
    threads: int
    cpu_time: bool
    device: str
    dtype: torch.dtype

    def clock(self) -> float:
        if self.device == "cuda":
            torch.cuda.synchronize()
        return time.process_time() if self.cpu_time else time.perf_counter()


@dataclass(frozen=True, kw_only=True, slots=True)
class Dense:
    """One backend at one length; None where it would not fit."""

    backend: Backend
    length: int
    forward_s: float | None
    backward_s: float | None
    peak_bytes: float | None
    matrix_bytes: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Sparse:
    mask: str
    length: int
    density: float
    computed: float
    forward_s: float
    share_of_full: float


@dataclass(frozen=True, kw_only=True, slots=True)
class OnGpu:
    kernel: str
    length: int
    forward_tflops: float
    backward_tflops: float
    forward_share: float
    backward_share: float


def main() -> None:
    args = parse_arguments()
    cuda = torch.cuda.is_available()
    settings = Settings(
        heads=args.heads,
        threads=args.threads,
        cpu_time=args.cpu_time,
        device="cuda" if cuda else "cpu",
        dtype=torch.bfloat16 if cuda else torch.float32,
    )
    torch.set_num_threads(settings.threads)
    backends: tuple[Backend, ...] = ("plain", "sdpa", "triton" if cuda else "tiled")
    result = {
        "hardware": describe(),
        "settings": asdict(settings) | {"dtype": str(settings.dtype)},
        "dense": [
            asdict(in_new_process(measure_dense, backend, length, settings))
            for length in args.lengths
            for backend in backends
        ],
        "sparse": [asdict(row) for row in measure_sparse(args.sparse_length, settings)],
        "gpu": [asdict(row) for row in measure_on_gpu(args.lengths)] if cuda else [],
    }
    print(json.dumps(result, indent=2) if args.json else render(result))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    lengths = [1024, 4096, 16384, 65536]
    parser.add_argument("--lengths", type=int, nargs="+", default=lengths, help="[1k to 64k]")
    parser.add_argument("--sparse-length", type=int, default=16384, help="[16384]")
    parser.add_argument("--heads", type=int, default=4, help="[4]")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--cpu-time", action="store_true", help="for a busy machine")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


def in_new_process(measure: Callable[..., Dense], *args: Any) -> Dense:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(measure, args)


def measure_dense(backend: Backend, length: int, settings: Settings) -> Dense:
    torch.set_num_threads(settings.threads)
    matrix = 4.0 * length**2 * settings.heads
    if backend == "plain" and length > LONGEST_PLAIN:
        return Dense(
            backend=backend,
            length=length,
            forward_s=None,
            backward_s=None,
            peak_bytes=None,
            matrix_bytes=matrix,
        )
    q, k, v = inputs(length, settings)
    warm_up = attention(q[:, :, :64], k[:, :, :64], v[:, :, :64], backend=backend)
    torch.autograd.grad(warm_up.sum(), q)
    watch = Peak(settings.device)
    forward, backward = [], []
    for _ in range(1 if length > 16_384 else 3):
        started = settings.clock()
        out = attention(q, k, v, mask=Causal(), backend=backend)
        forward.append(settings.clock() - started)
        towards = torch.ones_like(out)
        started = settings.clock()
        torch.autograd.grad(out, (q, k, v), towards)
        backward.append(settings.clock() - started)
    return Dense(
        backend=backend,
        length=length,
        forward_s=min(forward),
        backward_s=min(backward),
        peak_bytes=watch.growth(),
        matrix_bytes=matrix,
    )


def inputs(length: int, settings: Settings) -> tuple[Tensor, ...]:
    shape = (1, settings.heads, length, WIDTH)
    return tuple(
        torch.randn(shape, device=settings.device, dtype=settings.dtype, requires_grad=True)
        for _ in range(3)
    )


class Peak:
    """What the most memory in use grows by, in bytes."""

    def __init__(self, device: str) -> None:
        self.on_gpu = device == "cuda"
        if self.on_gpu:
            torch.cuda.reset_peak_memory_stats()
        else:
            Path("/proc/self/clear_refs").write_text("5")  # the peak is now what is in use
        self.before = self._now()

    def growth(self) -> float:
        return self._now() - self.before

    def _now(self) -> float:
        if self.on_gpu:
            return float(torch.cuda.max_memory_allocated())
        status = Path("/proc/self/status").read_text()
        return float(status.partition("VmHWM:")[2].split()[0]) * 1024


def sparse_masks(length: int, device: str) -> dict[str, Mask]:
    """Of the papers' shapes; their settings are for thousands of tokens."""
    first_BT = torch.arange(length, device=device)[None] < 16
    return {
        "full": Full(),
        "causal": Causal(),
        "window of 2048": Causal() & Window(2047),
        "window of 256": Causal() & Window(255),
        "Longformer: 512 around, 16 global": Window(256, 256) | Global(first_BT),
        "BigBird: blocks of 64, 3 near, 2 global, 3 random": bigbird(
            length, block=64, device=device
        ),
        "strided: 128 near, every 128th": Causal() & (Window(128) | Strided(128)),
        "strided: 1024 near, every 1024th": Causal() & (Window(1024) | Strided(1024)),
    }


def bigbird(length: int, *, block: int, device: str) -> Mask:
    across = -(-length // block)
    here = torch.arange(across)
    table_NN = (here[:, None] - here).abs() <= 1
    table_NN[:2] = table_NN[:, :2] = True
    random = torch.rand(across, across, generator=torch.Generator().manual_seed(0))
    table_NN.scatter_(1, random.topk(3).indices, True)
    return BlockTable(block, table_NN[None].to(device))


def measure_sparse(length: int, settings: Settings) -> list[Sparse]:
    backend: Backend = "triton" if settings.device == "cuda" else "tiled"
    rows: list[Sparse] = []
    full_s = 0.0
    for name, mask in sparse_masks(length, settings.device).items():
        with torch.no_grad():
            q, k, v = inputs(length, settings)
            seconds = []
            for _ in range(3):
                started = settings.clock()
                attention(q, k, v, mask=mask, backend=backend)
                seconds.append(settings.clock() - started)
        full_s = full_s or min(seconds)
        q_M, k_N = (Blocks.of(0, length, size, q.device) for size in (ROWS, KEYS_IN_BLOCK))
        computed = (kinds_of_blocks(mask, q_M, k_N) != EMPTY).float().mean().item()
        rows.append(
            Sparse(
                mask=name,
                length=length,
                density=density(mask, length, settings.device),
                computed=computed,
                forward_s=min(seconds),
                share_of_full=min(seconds) / full_s,
            )
        )
    return rows


def density(mask: Mask, length: int, device: str) -> float:
    k_S = torch.arange(length, device=device)
    rows = (mask.allows(k_S[i : i + 1024], k_S) for i in range(0, length, 1024))
    return sum(int(allowed.sum()) for allowed in rows) / length**2


def measure_on_gpu(lengths: list[int]) -> list[OnGpu]:
    """Causal, bfloat16, about 16k tokens in all, 16 heads of 64 and of 128."""
    peak = matrix_product_tflops()
    rows = []
    for width in (64, 128):
        for length in lengths:
            shape = (max(16_384 // length, 1), 16, length, width)
            qkv = [
                torch.randn(shape, device="cuda", dtype=torch.bfloat16, requires_grad=True)
                for _ in range(3)
            ]
            pairs = shape[0] * shape[1] * length * (length + 1) / 2
            names: tuple[Backend, ...] = ("triton", "sdpa")
            for backend in names:
                forward_s, backward_s = gpu_seconds(backend, qkv)
                forward = FORWARD * width * pairs / forward_s / 1e12
                backward = BACKWARD * width * pairs / backward_s / 1e12
                rows.append(
                    OnGpu(
                        kernel=f"{backend}, heads of {width}",
                        length=length,
                        forward_tflops=forward,
                        backward_tflops=backward,
                        forward_share=forward / peak,
                        backward_share=backward / peak,
                    )
                )
    return rows


def gpu_seconds(backend: Backend, qkv: list[Tensor]) -> tuple[float, float]:
    def forward() -> Tensor:
        return attention(*qkv, mask=Causal(), backend=backend)

    out = forward()
    towards = torch.randn_like(out)
    return (
        on_gpu_clock(forward),
        on_gpu_clock(lambda: torch.autograd.grad(out, qkv, towards, retain_graph=True)),
    )


def on_gpu_clock(call: Callable[[], object], rounds: int = 20) -> float:
    """Median seconds a call, by the device's own clock."""
    call()
    seconds = []
    for _ in range(rounds):
        start, end = (
            torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
            for _ in range(2)
        )
        start.record()
        call()
        end.record()
        torch.cuda.synchronize()
        seconds.append(start.elapsed_time(end) / 1000)
    return float(sorted(seconds)[rounds // 2])


def matrix_product_tflops(size: int = 8192) -> float:
    a = torch.randn(size, size, device="cuda", dtype=torch.bfloat16)
    return 2 * size**3 / on_gpu_clock(lambda: a @ a) / 1e12


def render(result: dict[str, Any]) -> str:
    settings = result["settings"]
    lines = [
        result["hardware"],
        f"{settings['heads']} head(s) of {WIDTH}, {settings['dtype']}, {settings['threads']} "
        f"threads, {'CPU' if settings['cpu_time'] else 'wall'} time",
        "",
        f"{'causal':10}{'tokens':>8}{'forward s':>12}{'backward s':>12}{'peak MiB':>10}"
        f"{'N x N MiB':>11}",
    ]
    for row in result["dense"]:
        figures = (row["forward_s"], row["backward_s"])
        seconds = "".join(f"{s:12.3f}" if s is not None else f"{'-':>12}" for s in figures)
        peak = (
            f"{row['peak_bytes'] / 2**20:10.0f}" if row["peak_bytes"] is not None else f"{'-':>10}"
        )
        matrix = f"{row['matrix_bytes'] / 2**20:11.0f}"
        lines.append(f"{row['backend']:10}{row['length']:8}{seconds}{peak}{matrix}")
    lines += ["", f"{'mask':52}{'density':>9}{'computed':>10}{'forward s':>11}{'of full':>9}"]
    lines += [
        f"{row['mask']:52}{row['density']:9.2%}{row['computed']:10.2%}{row['forward_s']:11.3f}"
        f"{row['share_of_full']:9.1%}"
        for row in result["sparse"]
    ]
    if result["gpu"]:
        lines += ["", f"{'kernel':24}{'tokens':>8}{'TFLOP/s fwd, bwd':>20}{'of peak':>16}"]
    lines += [
        f"{row['kernel']:24}{row['length']:8}{row['forward_tflops']:10.0f}"
        f"{row['backward_tflops']:10.0f}{row['forward_share']:8.0%}{row['backward_share']:8.0%}"
        for row in result["gpu"]
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
