"""One request at a time on a CPU: a Llama of half a billion parameters in our engine, in llama.cpp
and in transformers.

    python -m benchmarks.serving_cpu [--shape 0.5b] [--sides "ours w8a8" ...] [--json]

Random weights, the same for all: as a folder for us and for transformers, as GGUF files (BF16 and
Q8_0) for llama.cpp. Each side is a process of its own, on as many threads as there are cores; they
are timed in turn, and the best of several rounds counts. Prefill is a prompt of 512 tokens and the
first token after it. Decode is the time per token after a prompt of 16. Prompts are drawn anew for
each round, so no cache of prefixes helps. llama.cpp is fed tokens and samples none; ours go through
the scheduler, the paged cache and the sampler.

A token reads every weight once: bytes a second beside what the memory gives is the share of what
can be had. That the weights are the same is checked first: the cosine of llama.cpp's logits (BF16)
to ours is told with the figures.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from benchmarks.gguf_file import random_ids, write_gguf
from benchmarks.hardware import describe, memory_bandwidth, usable_cores
from benchmarks.in_turn import Measure, in_turn
from benchmarks.peers import load_peers, versions

from pharos.core import SamplingParams
from pharos.models.heads import CausalLM
from pharos.models.load import build_model, load_model, save_model
from pharos.quant import convert
from pharos.serve.engine.build import EngineConfig, engine_over
from pharos.serve.engine.request import Request

PEERS = ("llama-cpp-python", "gguf", "transformers")
SHAPES: dict[str, dict[str, Any]] = {
    "0.5b": {
        "model_type": "llama",
        "vocab_size": 151936,
        "hidden_size": 896,
        "intermediate_size": 4864,
        "num_hidden_layers": 24,
        "num_attention_heads": 14,
        "num_key_value_heads": 2,
        "max_position_embeddings": 2048,
        "tie_word_embeddings": True,
    },
    "tiny": {
        "model_type": "llama",
        "vocab_size": 1024,
        "hidden_size": 128,
        "intermediate_size": 256,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 2048,
        "tie_word_embeddings": True,
    },
}
PROMPT_TOKENS, SHORT_PROMPT_TOKENS, NEW_TOKENS = 512, 16, 64
ROUNDS = 5
Generate = Callable[[list[int], int], list[int]]
"""Reads a prompt and writes so many tokens after it, greedily if it can."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Files:
    folder: Path
    bf16: Path
    q8_0: Path
    vocab_size: int
    threads: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Speed:
    """`bytes_per_token` are those of the weights."""

    side: str
    prefill_tokens_per_s: float
    decode_tokens_per_s: float
    bytes_per_token: int
    share_of_bandwidth: float


def ours(files: Files, method: str) -> Generate:
    model = convert(loaded(files), method)
    engine = engine_over(model, None, EngineConfig(num_blocks=256, prefix_cache=False))

    def generate(prompt: list[int], count: int) -> list[int]:
        params = SamplingParams(max_tokens=count)
        engine.add(Request(id="0", prompt=prompt, params=params))
        news = [new for _ in iter(lambda: engine.has_work, False) for new in engine.step()]
        return [token.id for new in news for token in getattr(new, "tokens", ())]

    return generate


def llama_cpp(files: Files, kind: str) -> Generate:
    module = import_module("llama_cpp")
    llama = module.Llama(
        model_path=str(getattr(files, kind)),
        n_ctx=1024,
        n_batch=PROMPT_TOKENS,
        n_threads=files.threads,
        n_threads_batch=files.threads,
        verbose=False,
    )

    def generate(prompt: list[int], count: int) -> list[int]:
        llama.reset()
        llama.eval(prompt)
        for i in range(count - 1):
            llama.eval([prompt[i % len(prompt)]])
        return []

    return generate


def transformers(files: Files) -> Generate:
    module = import_module("transformers")
    module.logging.set_verbosity_error()
    model = module.AutoModelForCausalLM.from_pretrained(files.folder, dtype=torch.bfloat16).eval()
    fixed = {"do_sample": False, "eos_token_id": None, "pad_token_id": 0}

    @torch.inference_mode()
    def generate(prompt: list[int], count: int) -> list[int]:
        ids_1T = torch.tensor([prompt])
        options = {"attention_mask": torch.ones_like(ids_1T), "max_new_tokens": count, **fixed}
        written: list[int] = model.generate(ids_1T, **options)[0, len(prompt) :].tolist()
        return written

    return generate


SIDES: dict[str, Callable[[Files], Generate]] = {
    "ours bf16": partial(ours, method="bf16"),
    "llama.cpp bf16": partial(llama_cpp, kind="bf16"),
    "transformers bf16": transformers,
    "ours w8a8": partial(ours, method="w8a8"),
    "ours w8a16": partial(ours, method="w8a16"),
    "llama.cpp q8_0": partial(llama_cpp, kind="q8_0"),
}
BITS = {"bf16": 16.0, "w8a8": 8.0, "w8a16": 8.0, "q8_0": 8.5}


def loaded(files: Files) -> CausalLM:
    model = load_model(files.folder)
    assert isinstance(model, CausalLM)
    return model


def measure_of(make: Callable[[Files], Generate], files: Files) -> Measure:
    """Seconds to read the long prompt, and for each token after the short one."""
    torch.set_num_threads(files.threads)
    generate, generator = make(files), np.random.default_rng(0)

    def timed(prompt_tokens: int, count: int) -> float:
        prompt = random_ids(max(prompt_tokens, count), files.vocab_size, generator)
        started = time.perf_counter()
        generate(prompt[:prompt_tokens], count)
        return time.perf_counter() - started

    def measure() -> tuple[float, float]:
        prefill_s = timed(PROMPT_TOKENS, 1)
        first_s, all_s = timed(SHORT_PROMPT_TOKENS, 1), timed(SHORT_PROMPT_TOKENS, 1 + NEW_TOKENS)
        return prefill_s, (all_s - first_s) / NEW_TOKENS

    return measure


def memory_of(files: Files) -> Callable[[], float]:
    """The memory's speed, in turn too: other work on the machine comes and goes."""
    torch.set_num_threads(files.threads)
    return memory_bandwidth


def random_model(shape: str) -> CausalLM:
    """Of a shape, in bfloat16; the same one each time."""
    torch.manual_seed(0)
    model = build_model(SHAPES[shape], "causal_lm").to(torch.bfloat16).requires_grad_(False)
    assert isinstance(model, CausalLM)
    for parameter in model.parameters():
        parameter.copy_(torch.randn(parameter.shape) * 0.05 + (parameter.ndim == 1))
    return model


def write_files(shape: str, folder: Path, threads: int) -> tuple[Files, int]:
    """The weights in all formats, and how many of them a token reads."""
    model = random_model(shape)
    vocab_size = model.config.vocab_size
    paths = {kind: folder / f"{kind}.gguf" for kind in ("bf16", "q8_0")}
    files = Files(folder=folder / "model", **paths, vocab_size=vocab_size, threads=threads)
    save_model(model, files.folder)
    for kind, path in paths.items():
        write_gguf(model, path, kind.upper())
    return files, sum(p.numel() for p in model.parameters() if p.ndim == 2)


def check_same(files: Files) -> float:
    """The cosine of llama.cpp's logits to ours, both in bfloat16, after a prompt."""
    module = import_module("llama_cpp")
    prompt = random_ids(32, files.vocab_size, np.random.default_rng(1))
    llama = module.Llama(
        model_path=str(files.bf16), n_ctx=64, logits_all=True, n_threads=1, verbose=False
    )
    llama.eval(prompt)
    theirs_V = torch.tensor(np.array(llama.scores[len(prompt) - 1]))
    with torch.inference_mode():
        ours_V = loaded(files)(torch.tensor([prompt]))[0, -1].float()
    return float(torch.cosine_similarity(ours_V, theirs_V, dim=0))


def compare(shape: str, sides: Sequence[str], rounds: int, threads: int) -> dict[str, Any]:
    torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory(prefix="pharos-serving-") as name:
        files, num_weights = write_files(shape, Path(name), threads)
        cosine = check_same(files) if any("llama" in side for side in sides) else None
        makers: dict[str, Callable[..., Any]]
        makers = {side: partial(measure_of, SIDES[side]) for side in sides}
        measured = in_turn(makers | {"memory": memory_of}, (files,), rounds=rounds)
    bandwidth = max(measured.pop("memory"))
    speeds = [speed_of(side, taken, num_weights, bandwidth) for side, taken in measured.items()]
    return {
        "shape": shape,
        "bandwidth_gb_per_s": bandwidth / 1e9,
        "cosine_to_llama_cpp": cosine,
        "speeds": [asdict(speed) for speed in speeds],
    }


def speed_of(
    side: str, taken: Sequence[tuple[float, float]], num_weights: int, bandwidth: float
) -> Speed:
    prefill_s, step_s = (min(seconds) for seconds in zip(*taken, strict=True))
    num_bytes = int(num_weights * BITS[side.split()[-1]] / 8)
    return Speed(
        side=side,
        prefill_tokens_per_s=PROMPT_TOKENS / prefill_s,
        decode_tokens_per_s=1 / step_s,
        bytes_per_token=num_bytes,
        share_of_bandwidth=num_bytes / step_s / bandwidth,
    )


def report(found: dict[str, Any]) -> str:
    bandwidth = found["bandwidth_gb_per_s"]
    lines = [f"{found['shape']}: memory reads at {bandwidth:.1f} GB/s"]
    if found["cosine_to_llama_cpp"] is not None:
        lines.append(f"logits in bf16, cosine to llama.cpp's: {found['cosine_to_llama_cpp']:.4f}")
    lines += [
        f"{row['side']:18} prefill {row['prefill_tokens_per_s']:8.1f} tokens/s   decode "
        f"{row['decode_tokens_per_s']:7.2f} tokens/s, {row['share_of_bandwidth']:4.0%} of the "
        f"bandwidth"
        for row in found["speeds"]
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description="One request at a time, beside llama.cpp.")
    parser.add_argument("--shape", choices=list(SHAPES), default="0.5b")
    parser.add_argument("--sides", nargs="+", choices=list(SIDES), default=list(SIDES))
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--threads", type=int, default=usable_cores())
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    if load_peers(PEERS) is None and any("ours" not in side for side in arguments.sides):
        sys.exit(1)
    used = {"hardware": describe(), "versions": versions(PEERS)}
    found = compare(arguments.shape, arguments.sides, arguments.rounds, arguments.threads)
    print(json.dumps(used | found) if arguments.json else report(found))
    if not arguments.json:
        print(*used.values(), sep="\n")


if __name__ == "__main__":
    main()
