"""The loss of a language model with and without all of its logits: time and memory.

    python -m benchmarks.cross_entropy [--tokens 4096] [--vocab 50257] [--width 768]
                                       [--chunks 128 512 2048] [--threads N] [--cpu-time] [--json]

Forward and backward from hidden states, of `plain` (all logits), `chunked` in chunks of so many
tokens, `recomputed` in the default chunks, and `chunked` with a frozen weight; in float32 and under
autocast to bfloat16. Each figure comes from a process of its own: the best of two calls, and what
the peak of the process grows by over its state with the inputs made.
"""

import argparse
import json
import multiprocessing
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Literal, get_args

import torch
from benchmarks.attention import Peak
from benchmarks.hardware import describe
from torch.nn.functional import linear

from pharos.ops.cross_entropy import (
    TokenLoss,
    chunk_for,
    chunked_cross_entropy,
    plain_cross_entropy,
    recomputed_cross_entropy,
)

Precision = Literal["fp32", "bf16"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    way: Literal["plain", "chunked", "recomputed"]
    precision: Precision
    tokens: int
    vocab: int
    width: int
    chunk: int
    threads: int
    cpu_time: bool
    is_frozen: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    case: Case
    seconds: float
    peak_bytes: float


def main() -> None:
    args = parse_arguments()
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        results = [pool.apply(measure, (case,)) for case in cases(args)]
    if args.json:
        rows = [asdict(result) for result in results]
        print(json.dumps({"hardware": describe(), "rows": rows}, indent=2))
    else:
        print(render(results))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--tokens", type=int, default=4096, help="[4096]")
    parser.add_argument("--vocab", type=int, default=50257, help="[50257]")
    parser.add_argument("--width", type=int, default=768, help="[768]")
    parser.add_argument("--chunks", type=int, nargs="+", default=[128, 512, 2048])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--cpu-time", action="store_true", help="for a busy machine")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


def cases(args: argparse.Namespace) -> Iterator[Case]:
    plain = Case(
        way="plain",
        precision="fp32",
        tokens=args.tokens,
        vocab=args.vocab,
        width=args.width,
        chunk=args.tokens,
        threads=args.threads,
        cpu_time=args.cpu_time,
    )
    usual = replace(plain, way="chunked", chunk=chunk_for(args.vocab))
    ways = [plain, *(replace(usual, chunk=chunk) for chunk in args.chunks)]
    ways += [replace(usual, way="recomputed"), replace(usual, is_frozen=True)]
    for precision in get_args(Precision):
        yield from (replace(case, precision=precision) for case in ways)


def measure(case: Case) -> Result:
    torch.set_num_threads(case.threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    x_ND = torch.randn(case.tokens, case.width, device=device, requires_grad=True)
    weight_VD = 0.02 * torch.randn(case.vocab, case.width, device=device)
    weight_VD.requires_grad_(not case.is_frozen)
    labels_N = torch.randint(case.vocab, (case.tokens,), device=device)

    def loss() -> TokenLoss:
        if case.way == "plain":
            return plain_cross_entropy(x_ND, weight_VD, labels_N)
        if case.way == "chunked":
            return chunked_cross_entropy(x_ND, weight_VD, labels_N, chunk=case.chunk)
        return recomputed_cross_entropy(
            lambda x_CD: linear(x_CD, weight_VD), x_ND, labels_N, chunk=case.chunk
        )

    def clock() -> float:
        if device == "cuda":
            torch.cuda.synchronize()
        return time.process_time() if case.cpu_time else time.perf_counter()

    wanted = [x_ND] if case.is_frozen else [x_ND, weight_VD]
    watch, seconds = Peak(device), []
    for _ in range(2):
        started = clock()
        with torch.autocast(device, dtype=torch.bfloat16, enabled=case.precision == "bf16"):
            loss_sum = loss().loss_sum
        torch.autograd.grad(loss_sum, wanted)
        seconds.append(clock() - started)
    return Result(case=case, seconds=min(seconds), peak_bytes=watch.growth())


def render(results: list[Result]) -> str:
    case = results[0].case
    lines = [
        describe(),
        f"{case.tokens} tokens of width {case.width}, vocabulary {case.vocab}, {case.threads} "
        f"threads, {'CPU' if case.cpu_time else 'wall'} time",
        "",
        f"{'':6}{'':28}{'chunk':>7}{'seconds':>10}{'peak MiB':>10}",
    ]
    for result in results:
        case = result.case
        way = f"{case.way}, frozen weight" if case.is_frozen else case.way
        figures = f"{case.chunk:7}{result.seconds:10.2f}{result.peak_bytes / 2**20:10.0f}"
        lines.append(f"{case.precision:6}{way:28}{figures}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
