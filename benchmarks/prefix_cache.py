"""What the prefix cache saves where prompts begin alike, and what it costs where they do not.

    python -m benchmarks.prefix_cache [--shape 0.5b] [--method w8a8] [--prefix 2000] [--own 32]
                                      [--hits 3] [--rounds 11] [--requests 4] [--json]

The engine by itself, over the model of `benchmarks.serving_cpu` (random weights), on all cores.

- hits: a prompt of a prefix that is new and some tokens of its own, then one of the same prefix and
  other tokens; the time to the first token of each, and their medians. The aim is five times less;
- cost: a batch of prompts of random tokens, which have nothing in common, with the cache and
  without, in turn (`benchmarks.paired`). The cache is small enough that all of what it keeps has to
  make room again. The aim is less than 1%.
"""

import argparse
import json
import statistics
import time
from dataclasses import asdict
from functools import partial
from typing import Any

import numpy as np
import torch
from benchmarks.gguf_file import random_ids
from benchmarks.hardware import describe, usable_cores
from benchmarks.paired import Ratio, paired_ratio
from benchmarks.serving_cpu import SHAPES, random_model

from pharos.core import SamplingParams
from pharos.models.heads import CausalLM
from pharos.quant import METHODS, convert
from pharos.serve.engine.build import EngineConfig, engine_over
from pharos.serve.engine.engine import Engine
from pharos.serve.engine.request import Output, Request

BLOCK = 16
PROMPT, OUTPUT = 128, 16
"""Tokens of a request that finds nothing."""


def main() -> None:
    args = parse_arguments()
    torch.set_num_threads(args.threads)
    bench = Bench(convert(random_model(args.shape), args.method), args)
    hits, cost = bench.hits(), bench.cost()
    result = {
        "hardware": describe(),
        "shape": args.shape,
        "method": args.method,
        "threads": args.threads,
        "prefix": args.prefix,
        "own": args.own,
        "hits": hits,
        "cost": asdict(cost),
    }
    print(json.dumps(result, indent=2) if args.json else render(result, cost))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--shape", choices=list(SHAPES), default="0.5b")
    parser.add_argument("--method", choices=list(METHODS), default="w8a8")
    parser.add_argument("--threads", type=int, default=usable_cores())
    parser.add_argument("--prefix", type=int, default=2000, help="tokens that are shared [2000]")
    parser.add_argument("--own", type=int, default=32, help="tokens of each prompt's own [32]")
    parser.add_argument("--hits", type=int, default=3, help="prefixes that are read twice [3]")
    parser.add_argument("--rounds", type=int, default=11, help="with the cache and without [11]")
    parser.add_argument("--requests", type=int, default=4, help="of a round, at a time [4]")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


class Bench:
    def __init__(self, model: CausalLM, args: argparse.Namespace) -> None:
        self._model = model
        self._vocab_size: int = model.config.vocab_size
        self._args = args
        self._generator = np.random.default_rng(0)

    def hits(self) -> dict[str, float]:
        """Medians of milliseconds to the first token, and how many times longer a miss takes."""
        engine = self._engine(self._args.prefix + 2 * self._args.own, prefix_cache=True)
        self._first_token(engine, self._tokens(self._args.own))  # to warm up
        misses_s: list[float] = []
        hits_s: list[float] = []
        for _ in range(self._args.hits):
            prefix = self._tokens(self._args.prefix)
            for seconds in (misses_s, hits_s):
                output, taken_s = self._first_token(engine, prefix + self._tokens(self._args.own))
                expected = self._args.prefix // BLOCK * BLOCK if seconds is hits_s else 0
                assert output.num_cached == expected, f"{output.num_cached} tokens were found"
                seconds.append(taken_s)
        miss_s, hit_s = statistics.median(misses_s), statistics.median(hits_s)
        return {"miss_ms": 1e3 * miss_s, "hit_ms": 1e3 * hit_s, "times": miss_s / hit_s}

    def cost(self) -> Ratio:
        """What a round takes with the cache, over what it takes without."""
        room = 2 * self._args.requests * (PROMPT + OUTPUT)
        sides = (self._engine(room, prefix_cache=True), self._engine(room, prefix_cache=False))
        with_cache, without = (partial(self._round_s, engine) for engine in sides)
        return paired_ratio(with_cache, without, rounds=self._args.rounds)

    def _round_s(self, engine: Engine) -> float:
        params = SamplingParams(max_tokens=OUTPUT, ignore_eos=True)
        prompts = [self._tokens(PROMPT) for _ in range(self._args.requests)]
        started = time.perf_counter()
        for number, prompt in enumerate(prompts):
            engine.add(Request(id=str(number), prompt=prompt, params=params))
        outputs = run(engine)
        taken_s = time.perf_counter() - started
        assert not any(output.num_cached for output in outputs)
        return taken_s

    def _first_token(self, engine: Engine, prompt: list[int]) -> tuple[Output, float]:
        started = time.perf_counter()
        engine.add(Request(id="0", prompt=prompt, params=SamplingParams(max_tokens=1)))
        (output,) = run(engine)
        return output, time.perf_counter() - started

    def _tokens(self, count: int) -> list[int]:
        return random_ids(count, self._vocab_size, self._generator)

    def _engine(self, num_tokens: int, *, prefix_cache: bool) -> Engine:
        """With room for about so many tokens."""
        num_blocks = num_tokens // BLOCK + 2 * self._args.requests
        config = EngineConfig(block_size=BLOCK, num_blocks=num_blocks, prefix_cache=prefix_cache)
        return engine_over(self._model, None, config)


def run(engine: Engine) -> list[Output]:
    """Steps until there is nothing left to do; the last output of each request."""
    ended = []
    while engine.has_work:
        news = [each for each in engine.step() if isinstance(each, Output)]
        ended += [output for output in news if output.finish_reason is not None]
    return ended


def render(result: dict[str, Any], cost: Ratio) -> str:
    hits = result["hits"]
    return "\n".join(
        [
            f"{result['shape']}, {result['method']}, {result['threads']} threads",
            f"a prefix of {result['prefix']:,} tokens and {result['own']} more: the first token "
            f"after {hits['miss_ms']:,.0f} ms where it is new, {hits['hit_ms']:,.0f} ms where it "
            f"is known: {hits['times']:.1f} times less",
            f"where nothing is found, with the cache over without: {cost}",
            result["hardware"],
        ]
    )


if __name__ == "__main__":
    main()
