"""Reading a prompt and writing a reply: a GPT-2 of 125M and a Llama of 1B parameters, on a CPU.

    python -m benchmarks.generation [--shapes gpt2-125m] [--dtypes bfloat16] [--json]

Random weights of the real shapes, the same file for both sides; `transformers` is the peer, with
its default attention, in the same run and precision. Each side is a process of its own; they are
timed in turn. Prefill is the time to the first token of a prompt, decode the time per step after
it. Each is the best of several runs.

The limits: a step of decoding reads every weight once, so it takes at least their bytes over the
memory's bandwidth (measured here); prefill computes two operations per weight and token, at most at
the rate of one large matrix product (measured here).
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from benchmarks.hardware import describe, memory_bandwidth
from benchmarks.in_turn import Measure, in_turn
from benchmarks.peers import versions

from pharos.core import SamplingParams
from pharos.models.generation import Generation
from pharos.models.heads import CausalLM
from pharos.models.load import build_model, load_model, save_model
from pharos.quant.bf16 import pack_linears

PEERS = ("transformers",)
SHAPES: dict[str, dict[str, Any]] = {
    "gpt2-125m": {
        "model_type": "gpt2",
        "vocab_size": 50257,
        "n_embd": 768,
        "n_layer": 12,
        "n_head": 12,
        "n_positions": 1024,
    },
    "llama-1b": {
        "model_type": "llama",
        "vocab_size": 128256,
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 64,
        "rope_theta": 500000.0,
        "max_position_embeddings": 8192,
        "tie_word_embeddings": True,
    },
}
PROMPT_TOKENS = {"gpt2-125m": 512, "llama-1b": 128}
NEW_TOKENS = 24
RUNS = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Speed:
    """Seconds to read the prompts of a batch, and per step of writing."""

    prefill_s: float
    step_s: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    shape: str
    dtype: str
    batch: int
    prompt_tokens: int
    ours: Speed
    peer: Speed
    prefill_limit_s: float
    step_limit_s: float


def write_random_model(shape: str, folder: Path, dtype: torch.dtype) -> int:
    """A checkpoint of the shape, and how many parameters it has."""
    torch.manual_seed(0)
    model = build_model(SHAPES[shape], "causal_lm")
    for parameter in model.parameters():
        parameter.data = torch.randn(parameter.shape, dtype=torch.float32).mul_(0.02).to(dtype)
    save_model(model, folder)
    return sum(parameter.numel() for parameter in model.parameters())


def ours(folder: Path, prompts: list[list[int]]) -> Measure:
    model = load_model(folder)
    assert isinstance(model, CausalLM)
    pack_linears(model)
    return timed_lengths(lambda n: list(Generation(model, prompts, SamplingParams(max_tokens=n))))


def peer(folder: Path, prompts: list[list[int]]) -> Measure:
    transformers = import_module("transformers")
    transformers.logging.set_verbosity_error()
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype="auto").eval()
    ids = torch.tensor(prompts)
    fixed = {"do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    return timed_lengths(
        lambda n: model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=n, **fixed
        )
    )


SIDES = {"ours": ours, "peer": peer}


def timed_lengths(generate: Callable[[int], object]) -> Measure:
    """Seconds for the first token alone, and with all new tokens."""

    def measure() -> tuple[float, float]:
        with torch.inference_mode():
            return timed(lambda: generate(1)), timed(lambda: generate(1 + NEW_TOKENS))

    return measure


def best_of(taken: Sequence[tuple[float, float]]) -> Speed:
    prefill_s, whole_s = (min(seconds) for seconds in zip(*taken, strict=True))
    return Speed(prefill_s=prefill_s, step_s=(whole_s - prefill_s) / NEW_TOKENS)


def timed(run: Callable[[], object]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def flops_per_second(dtype: torch.dtype) -> float:
    """Of one large matrix product, at best."""
    n = 2048
    a, b = torch.randn(n, n).to(dtype), torch.randn(n, n).to(dtype)
    return 2 * n**3 / min(timed(lambda: a @ b) for _ in range(5))


def compare(shape: str, dtype_name: str, batches: Sequence[int]) -> list[Comparison]:
    dtype: torch.dtype = getattr(torch, dtype_name)
    rate, bandwidth = flops_per_second(dtype), memory_bandwidth()
    length, vocab = PROMPT_TOKENS[shape], SHAPES[shape]["vocab_size"]
    rows = []
    with tempfile.TemporaryDirectory(prefix="pharos-generation-") as name:
        folder = Path(name)
        parameters = write_random_model(shape, folder, dtype)
        for batch in batches:
            prompts = torch.randint(0, vocab, (batch, length)).tolist()
            measured = in_turn(SIDES, (folder, prompts), rounds=RUNS)
            speeds = {side: best_of(taken) for side, taken in measured.items()}
            rows.append(
                Comparison(
                    shape=shape,
                    dtype=dtype_name,
                    batch=batch,
                    prompt_tokens=length,
                    ours=speeds["ours"],
                    peer=speeds["peer"],
                    prefill_limit_s=2 * parameters * batch * length / rate,
                    step_limit_s=parameters * dtype.itemsize / bandwidth,
                )
            )
            print(report(rows[-1]), file=sys.stderr, flush=True)
    return rows


def report(row: Comparison) -> str:
    return "\n".join(
        f"{row.shape:10} {row.dtype:9} batch {row.batch}  {what:8} "
        f"ours {ours_s * 1000:8.1f} ms  transformers {peer_s * 1000:8.1f} ms  "
        f"{peer_s / ours_s:5.2f}x  limit {limit_s * 1000:8.1f} ms ({limit_s / ours_s:4.0%} of it)"
        for what, ours_s, peer_s, limit_s in (
            ("prefill", row.ours.prefill_s, row.peer.prefill_s, row.prefill_limit_s),
            ("step", row.ours.step_s, row.peer.step_s, row.step_limit_s),
        )
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Prefill and decode speed beside transformers.")
    parser.add_argument("--shapes", nargs="+", choices=list(SHAPES), default=list(SHAPES))
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8])
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    used = {"hardware": describe(), "versions": versions(PEERS)}
    rows = [
        row
        for shape in arguments.shapes
        for dtype in arguments.dtypes
        for row in compare(shape, dtype, arguments.batches)
    ]
    if arguments.json:
        print(json.dumps({**used, "rows": [asdict(row) for row in rows]}))
    else:
        print(*[report(row) for row in rows], *used.values(), sep="\n")


if __name__ == "__main__":
    main()
