"""Many requests at a time on a CPU: `pharos serve` beside llama.cpp and transformers' continuous
batching.

    python -m benchmarks.serving_concurrency [--shape 0.5b] [--levels 16 64] [--waves 1]
        [--prompt 64:128] [--output 32] [--sides "ours w8a8" ...] [--llama-server PATH] [--json]

The model of `benchmarks.serving_cpu`: random weights, the same for all. A closed loop of so many
users, each of whom asks `waves` times. Prompts are random tokens, so that no cache of prefixes
helps, and the same for all; so many tokens are written after each, greedily, whatever they are. One
side after the other, each in a process of its own that has all cores.

- ours is the whole server: HTTP, streams, text; asked by the client of `pharos bench serve`;
- llama.cpp is its library with a slot for each user (`benchmarks.llama_cpp_slots`), in-process,
  since the server of llama-cpp-python answers one request at a time; with `--llama-server`, its own
  server, asked by the same client;
- transformers is `generate_batch`, in-process.

In-process sides are spared HTTP and text. The limit is what the machine could do if nothing but
products with weights took time (`benchmarks.limits`): the prompts at the speed of its matrix
products, and each step of decoding at that or at the speed of its memory, whichever is slower.
"""

import argparse
import asyncio
import json
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from benchmarks.gguf_file import random_ids
from benchmarks.hardware import describe, usable_cores
from benchmarks.limits import Machine, machine_of, prefill_s, step_s
from benchmarks.llama_cpp_slots import LlamaCppSlots
from benchmarks.peers import load_peers, versions
from benchmarks.servers import IdsClient, ids_prompt, served, write_tokenizer
from benchmarks.serving_cpu import BITS, SHAPES, Files, write_files

from pharos.serve.bench import LoadReport, Span, closed_loop, summarize

PEERS = ("llama-cpp-python", "gguf", "transformers")
WARM_UP = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class Work:
    """Of one level: what `level` users ask."""

    level: int
    prompts: list[list[int]]
    output: int

    @property
    def longest(self) -> int:
        return max(map(len, self.prompts)) + self.output


@dataclass(frozen=True, kw_only=True, slots=True)
class Done:
    """Times to the first token are told by those that stream."""

    seconds: float
    num_output: int
    ttft_p50_ms: float | None = None
    tpot_p50_ms: float | None = None


Answer = Callable[[Work], Done]
"""Answers all of a level, as fast as it can."""


# The sides


@contextmanager
def ours(files: Files, works: Sequence[Work], *, method: str) -> Iterator[Answer]:
    write_tokenizer(files.folder, files.vocab_size)
    command = [sys.executable, "-m", "pharos", "serve", str(files.folder), "--name", "bench"]
    command += [] if method == "bf16" else ["--quantization", method]
    command += ["--max-model-len", str(max(work.longest for work in works))]
    command += ["--max-num-seqs", str(max(work.level for work in works))]
    with served(command) as url:
        yield partial(asked, url, "bench")


@contextmanager
def llama_cpp(files: Files, works: Sequence[Work], *, kind: str) -> Iterator[Answer]:
    make = partial(
        slots_of,
        getattr(files, kind),
        files.threads,
        num_slots=max(work.level for work in works),
        slot_len=max(work.longest for work in works),
    )
    with alone(make) as answer:
        yield answer


@contextmanager
def llama_server(
    files: Files, works: Sequence[Work], *, kind: str, program: Path
) -> Iterator[Answer]:
    level, threads = max(work.level for work in works), str(files.threads)
    context = level * max(work.longest for work in works)
    command = [str(program), "-m", str(getattr(files, kind)), "-c", str(context)]
    command += ["-np", str(level), "--cont-batching", "-t", threads, "-tb", threads]
    with served(command) as url:
        yield partial(asked, url, "bench")


@contextmanager
def transformers(files: Files, works: Sequence[Work]) -> Iterator[Answer]:
    with alone(partial(continuous_batching, files)) as answer:
        yield answer


SIDES: dict[str, Callable[..., Any]] = {
    "ours w8a8": partial(ours, method="w8a8"),
    "llama.cpp q8_0": partial(llama_cpp, kind="q8_0"),
    "ours bf16": partial(ours, method="bf16"),
    "transformers bf16": transformers,
    "llama.cpp bf16": partial(llama_cpp, kind="bf16"),
}
DEFAULT = ("ours w8a8", "ours bf16", "llama.cpp q8_0", "transformers bf16")
PAIRS = (
    ("ours w8a8", "llama.cpp q8_0"),
    ("ours bf16", "llama.cpp bf16"),
    ("ours bf16", "transformers bf16"),
    ("ours w8a8", "transformers bf16"),
)


def asked(url: str, model: str, work: Work) -> Done:
    report = asyncio.run(report_of(url, model, work))
    if report.num_failed:
        raise RuntimeError(f"{report.num_failed} requests failed: {report.failures}")
    return Done(
        seconds=report.duration_s,
        num_output=report.num_output_tokens,
        ttft_p50_ms=None if report.ttft_ms is None else report.ttft_ms.p50,
        tpot_p50_ms=None if report.tpot_ms is None else report.tpot_ms.p50,
    )


async def report_of(url: str, model: str, work: Work) -> LoadReport:
    prompts = (ids_prompt(prompt, work.output) for prompt in work.prompts)
    async with IdsClient(url, model=model, api="completions") as client:
        timings = await closed_loop(
            client, prompts, num_requests=len(work.prompts), concurrency=work.level
        )
    return summarize(timings, concurrency=work.level)


# In processes of their own

answers: list[Answer] = []
"""In a process of one side: what answers."""


@contextmanager
def alone(make: Callable[[], Answer]) -> Iterator[Answer]:
    """What `make` makes, in a process of its own."""
    with multiprocessing.get_context("spawn").Pool(1, load, (make,)) as pool:
        yield lambda work: pool.apply(answer_one, (work,))


def load(make: Callable[[], Answer]) -> None:
    answers.append(make())


def answer_one(work: Work) -> Done:
    return answers[0](work)


def slots_of(path: Path, threads: int, *, num_slots: int, slot_len: int) -> Answer:
    slots = LlamaCppSlots(path, num_slots=num_slots, slot_len=slot_len, threads=threads)

    def answer(work: Work) -> Done:
        return timed(lambda: slots.run(work.prompts, work.output, at_a_time=work.level))

    return answer


def continuous_batching(files: Files) -> Answer:
    module = import_module("transformers")
    module.logging.set_verbosity_error()
    torch.set_num_threads(files.threads)
    model = module.AutoModelForCausalLM.from_pretrained(files.folder, dtype=torch.bfloat16).eval()

    def answer(work: Work) -> Done:
        config = module.GenerationConfig(
            max_new_tokens=work.output, do_sample=False, eos_token_id=-1, pad_token_id=0
        )
        batching = module.ContinuousBatchingConfig(
            max_requests_per_batch=work.level, max_batch_tokens=2048, num_blocks=2 * work.level
        )

        def write() -> list[list[int]]:
            found = model.generate_batch(
                work.prompts, generation_config=config, continuous_batching_config=batching
            )
            return [output.generated_tokens for output in found.values()]

        return timed(write)

    return answer


def timed(write: Callable[[], list[list[int]]]) -> Done:
    started = time.perf_counter()
    written = write()
    return Done(seconds=time.perf_counter() - started, num_output=sum(map(len, written)))


# Measuring


def works_of(levels: Sequence[int], args: argparse.Namespace, vocab_size: int) -> list[Work]:
    found = []
    for level in levels:
        generator = np.random.default_rng(level)
        lengths = generator.integers(args.prompt.low, args.prompt.high + 1, args.waves * level)
        prompts = [random_ids(int(count), vocab_size, generator) for count in lengths]
        found.append(Work(level=level, prompts=prompts, output=args.output))
    return found


def warm_up(work: Work) -> Work:
    """Other prompts, of which nothing is left to be found again."""
    prompts = [prompt[::-1] for prompt in work.prompts[:WARM_UP]]
    return Work(level=work.level, prompts=prompts, output=2)


def measure(side: Callable[..., Any], files: Files, works: Sequence[Work]) -> list[Done]:
    found = []
    with side(files, works) as answer:
        answer(warm_up(works[0]))
        for work in works:
            done = answer(work)
            expected = len(work.prompts) * work.output
            assert done.num_output == expected, f"{done.num_output} tokens, not {expected}"
            found.append(done)
    return found


def limit_s(work: Work, shape: dict[str, Any], machine: Machine, bits: float) -> float:
    """Seconds that a level takes at the least."""
    num_tokens, num_prompts = sum(map(len, work.prompts)), len(work.prompts)
    reading_s = prefill_s(shape, machine, bits=bits, num_tokens=num_tokens, num_prompts=num_prompts)
    num_steps = (work.output - 1) * num_prompts / work.level
    return reading_s + num_steps * step_s(shape, machine, bits=bits, batch=work.level)


def compare(args: argparse.Namespace) -> dict[str, Any]:
    threads, shape = usable_cores(), SHAPES[args.shape]
    torch.set_num_threads(threads)
    machine = machine_of(shape)
    rows = []
    with tempfile.TemporaryDirectory(prefix="pharos-concurrency-") as name:
        files, _ = write_files(args.shape, Path(name), threads)
        works = works_of(args.levels, args, files.vocab_size)
        for side in args.sides:
            for work, done in zip(works, measure(chosen(side, args), files, works), strict=True):
                bits = BITS[side.split()[-1]]
                rows.append(row_of(side, work, done, limit_s(work, shape, machine, bits)))
                print(line_of(rows[-1]), file=sys.stderr, flush=True)
    return {
        "shape": args.shape,
        "prompt": args.prompt,
        "output": args.output,
        "waves": args.waves,
        "threads": threads,
        "llama_server": None if args.llama_server is None else str(args.llama_server),
        "bandwidth_gb_per_s": machine.bandwidth / 1e9,
        "products_gops": {bits: speed / 1e9 for bits, speed in machine.operations.items()},
        "rows": rows,
        "ratios": list(ratios(rows)),
    }


def chosen(side: str, args: argparse.Namespace) -> Callable[..., Any]:
    if side.startswith("llama.cpp") and args.llama_server is not None:
        return partial(llama_server, kind=side.split()[-1], program=args.llama_server)
    return SIDES[side]


def row_of(side: str, work: Work, done: Done, limit: float) -> dict[str, Any]:
    num_prompt = sum(map(len, work.prompts))
    return {
        "side": side,
        "users": work.level,
        "requests": len(work.prompts),
        "tokens_per_s": done.num_output / done.seconds,
        "total_tokens_per_s": (num_prompt + done.num_output) / done.seconds,
        "limit_tokens_per_s": done.num_output / limit,
        "share_of_limit": limit / done.seconds,
        **asdict(done),
    }


def ratios(rows: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    speeds = {(row["side"], row["users"]): row["tokens_per_s"] for row in rows}
    for our_side, peer in PAIRS:
        for side, users in speeds:
            if side == our_side and (peer, users) in speeds:
                ratio = speeds[side, users] / speeds[peer, users]
                yield {"ours": our_side, "peer": peer, "users": users, "ratio": ratio}


def line_of(row: dict[str, Any]) -> str:
    times, ttft, tpot = "", row["ttft_p50_ms"], row["tpot_p50_ms"]
    if ttft is not None:
        times = f"; P50 of TTFT {ttft:,.0f} ms, of TPOT {tpot or 0.0:,.0f} ms"
    return (
        f"{row['side']:18} {row['users']:3} users: {row['tokens_per_s']:7.1f} tokens/s written "
        f"({row['total_tokens_per_s']:.1f} with those read), {row['share_of_limit']:4.0%} of "
        f"{row['limit_tokens_per_s']:.1f}; {row['seconds']:.1f} s{times}"
    )


def report(found: dict[str, Any]) -> str:
    products = found["products_gops"].items()
    speeds = " and ".join(f"{speed:.0f} GOP/s in {bits} bits" for bits, speed in products)
    low, high = found["prompt"]
    lines = [
        f"{found['shape']}: prompts of {low} to {high} tokens, {found['output']} written, "
        f"{found['waves']} by each user; {found['threads']} threads",
        f"memory reads at {found['bandwidth_gb_per_s']:.1f} GB/s, matrices multiply at {speeds}",
        *map(line_of, found["rows"]),
    ]
    for row in found["ratios"]:
        faster = f"{row['ratio']:.2f} times as fast as {row['peer']}"
        lines.append(f"{row['users']:3} users: {row['ours']} is {faster}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description="Many requests at a time, beside two peers.")
    parser.add_argument("--shape", choices=list(SHAPES), default="0.5b")
    parser.add_argument("--levels", nargs="+", type=int, default=[16, 64], help="users [16 64]")
    parser.add_argument("--waves", type=int, default=1, help="requests of each user [1]")
    parser.add_argument("--prompt", type=Span.parse, default=Span(64, 128), help="[64:128]")
    parser.add_argument("--output", type=int, default=32, help="tokens written [32]")
    parser.add_argument("--sides", nargs="+", choices=list(SIDES), default=list(DEFAULT))
    parser.add_argument("--llama-server", type=Path, help="llama.cpp's own server")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    if load_peers(PEERS) is None:
        sys.exit(1)
    used = {"hardware": describe(), "versions": versions(PEERS)}
    found = compare(arguments)
    print(json.dumps(used | found) if arguments.json else report(found))
    if not arguments.json:
        print(*used.values(), sep="\n")


if __name__ == "__main__":
    main()
