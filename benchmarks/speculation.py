"""What drafts and grammars add to the engine's steps, and what drafts save.

    python -m benchmarks.speculation [--shape 0.5b] [--method bf16] [--tokenizer FOLDER]
        [--parts costs texts grammar] [--tokens 64] [--rounds 5] [--threads 1 --cpu-time] [--json]

The engine by itself, over a Llama of random weights in a shape of `benchmarks.serving_cpu`, its
head untied (what a step reads is the same). An engine with and one without take turns, step by
step; each round gives a ratio, of which the middle one is told, with the middle half of them
(`benchmarks.paired`). `--cpu-time` takes the processor's seconds, for a machine that has other
things to do.

- costs: steps that check `k` drafts, over steps that check none;
- texts: one that repeats its prompt (the weights are set to go round: all drafts are right, the
  best there can be), one of random tokens (nothing to find), and one of random tokens out of thirty
  (n-grams are found everywhere and tell nothing), each with n-gram drafts of adaptive length. Where
  nothing repeats, the aim is to lose at most 2%;
- grammar: tokens under JSON schemas that never end, over the same number of free ones: records of
  several fields, and strings of at most 20 characters, whose masks are costly, since nearly every
  token of the vocabulary has to be looked at for its length. The aim is at most 5%.

The vocabulary is trained on Wikipedia's text (SQuAD's paragraphs), unless a tokenizer is named.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from benchmarks.datasets import add_data_argument
from benchmarks.grammar import TEXT, trained
from benchmarks.hardware import describe, usable_cores
from benchmarks.paired import Ratio, ratio_of
from benchmarks.serving_cpu import SHAPES

from pharos.core import SamplingParams
from pharos.data.tokenizer import Tokenizer
from pharos.models.heads import CausalLM
from pharos.models.load import new_model
from pharos.quant import METHODS, convert
from pharos.serve.engine.block_pool import BlockPool
from pharos.serve.engine.engine import Engine
from pharos.serve.engine.grammar import GrammarCompiler
from pharos.serve.engine.paged_kv import PagedKV
from pharos.serve.engine.request import Grammar, Output, Request
from pharos.serve.engine.request import Sequence as Written
from pharos.serve.engine.runner import Runner
from pharos.serve.engine.scheduler import Scheduler, SchedulerConfig
from pharos.serve.engine.speculation import AdaptiveLength, NgramProposer, Speculation

CYCLE = 48
"""Tokens after which a text that repeats itself begins anew."""
DRAFTS = (1, 2, 4, 8)
PARTS = ("costs", "texts", "grammar")
FIRST, FEW = 100, 30
"""The tokens of a text that misleads."""
BLOCK = 32
RECORD = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "age": {"type": "integer"},
        "email": {"type": "string"},
        "tags": {"type": "array", "items": {"enum": ["new", "old", "friend"]}},
        "active": {"type": "boolean"},
    },
    "required": ["name", "age", "email", "tags", "active"],
    "additionalProperties": False,
}
ITEMS: dict[str, dict[str, Any]] = {
    "records": RECORD,
    "strings of 20": {"type": "string", "maxLength": 20},
}


def main() -> None:
    args = parse_arguments()
    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as scratch:
        folder = args.tokenizer or trained(args.data / TEXT, args.vocab_size, Path(scratch))
        bench = Bench(Tokenizer.load(folder), args)
        measures = {"costs": bench.costs, "texts": bench.texts, "grammar": bench.grammars}
        found = {part: measures[part]() for part in args.parts}
    result = {
        "hardware": describe(),
        "shape": args.shape,
        "method": args.method,
        "threads": args.threads,
        "clock": "processor" if args.cpu_time else "wall",
        "tokens": args.tokens,
        **{part: {name: asdict(each) for name, each in of.items()} for part, of in found.items()},
    }
    print(json.dumps(result, indent=2) if args.json else render(result, found))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    add_data_argument(parser)
    parser.add_argument("--tokenizer", type=Path, help="a model's folder, instead of training one")
    parser.add_argument("--vocab-size", type=int, default=32_000, help="of the tokens [32000]")
    parser.add_argument("--shape", choices=list(SHAPES), default="0.5b")
    parser.add_argument("--method", choices=list(METHODS), default="bf16")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--tokens", type=int, default=64, help="that each request writes [64]")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=usable_cores())
    parser.add_argument("--cpu-time", action="store_true", help="seconds of the processor")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


class WrongDrafts:
    """The same token again and again: a model of random weights draws it about never."""

    def propose(self, sequences: Sequence[Written], room: Sequence[int]) -> list[list[int]]:
        return [[1] * count for count in room]

    def forget(self, sequence: Written) -> None: ...


def wrong(count: int) -> Speculation | None:
    """So many drafts in each step, whatever becomes of them."""
    if count == 0:
        return None
    stubborn = AdaptiveLength(most=count, cost=0.01, first_share=1.0, rate=0.0, first_rate=0.0)
    return Speculation(WrongDrafts(), stubborn)


class Bench:
    def __init__(self, tokenizer: Tokenizer, args: argparse.Namespace) -> None:
        self._tokenizer = tokenizer
        self._args = args
        self._tokens: int = args.tokens
        self._clock: Callable[[], float]
        self._clock = time.process_time if args.cpu_time else time.perf_counter
        self._random = convert(random_model(args.shape), args.method)
        self._compiler = GrammarCompiler(tokenizer, vocab_size=self._random.config.vocab_size)
        self._warm = SamplingParams(max_tokens=self._tokens, temperature=1.0)

    def costs(self) -> dict[str, Ratio]:
        """The time of a step with so many drafts, over that of one without."""
        return {
            f"{count} drafts": self._ratio(
                partial(self._begun_wrong, count), partial(self._begun, self._random)
            )
            for count in DRAFTS
        }

    def texts(self) -> dict[str, Ratio]:
        """How many times as fast a text is written with drafts as without."""
        few = dict.fromkeys(range(FIRST, FIRST + FEW), 100.0)
        misleading = replace(self._warm, logit_bias=few)
        greedy = replace(self._warm, temperature=0.0)
        found = {
            "random": self._speed_up(self._random, self._warm),
            "random, of few tokens": self._speed_up(self._random, misleading),
        }
        circle = convert(circling(random_model(self._args.shape)), self._args.method)
        return found | {"repeats its prompt": self._speed_up(circle, greedy)}

    def grammars(self) -> dict[str, Ratio]:
        """The time of a step under a grammar, over that of one without, by batch size."""
        ratios = {}
        for name, item in ITEMS.items():
            endless = {"type": "array", "items": item, "minItems": 10_000}
            grammar = Grammar(kind="json_schema", text=json.dumps(endless))
            self._compiler.compile(grammar).result()
            for batch in (1, 8):
                begun = partial(self._begun, self._random, batch=batch)
                ratios[f"{name}, batch {batch}"] = self._ratio(
                    partial(begun, grammar=grammar), begun
                )
        return ratios

    def _begun_wrong(self, count: int) -> Engine:
        return self._begun(self._random, wrong(count))

    def _speed_up(self, model: CausalLM, params: SamplingParams) -> Ratio:
        begun = partial(self._begun, model, params=params)
        return self._ratio(begun, lambda: begun(Speculation(NgramProposer())))

    def _ratio(self, ours: Callable[[], Engine], base: Callable[[], Engine]) -> Ratio:
        """The time of the one over that of the other, for the same tokens. A first round is for
        warming up."""
        return ratio_of([self._one_ratio(ours(), base()) for _ in range(self._args.rounds + 1)][1:])

    def _one_ratio(self, ours: Engine, base: Engine) -> float:
        """Whichever has written less is next, so that both are at the same place of their text."""
        seconds = {ours: 0.0, base: 0.0}
        written = {ours: 0, base: 0}
        while working := [engine for engine in seconds if engine.has_work]:
            engine = min(working, key=lambda engine: written[engine])
            started = self._clock()
            news = engine.step()
            seconds[engine] += self._clock() - started
            written[engine] += sum(len(each.tokens) for each in news if isinstance(each, Output))
        return seconds[ours] / seconds[base]

    def _begun(
        self,
        model: CausalLM,
        speculation: Speculation | None = None,
        *,
        params: SamplingParams | None = None,
        grammar: Grammar | None = None,
        batch: int = 1,
    ) -> Engine:
        """It has read the prompts of a batch, and is to write all tokens after their first."""
        engine = self._engine(model, speculation)
        params = params or self._warm
        for i in range(batch):
            prompt = [(i + j) % CYCLE for j in range(2 * CYCLE)]
            engine.add(Request(id=str(i), prompt=prompt, params=params, seed=i, grammar=grammar))
        while not engine.step():  # the prompt is read, and the grammar is there
            pass
        return engine

    def _engine(self, model: CausalLM, speculation: Speculation | None) -> Engine:
        num_blocks = 8 * (2 * CYCLE + self._tokens + 2 * BLOCK) // BLOCK
        shapes = model.body.attention_shapes()
        kv = PagedKV(shapes, num_blocks=num_blocks, block_size=BLOCK, dtype=model.dtype)
        pool = BlockPool(num_blocks, BLOCK)
        return Engine(
            Scheduler(SchedulerConfig(), pool),
            Runner(model, kv),
            tokenizer=self._tokenizer,
            compiler=self._compiler,
            speculation=speculation,
        )


def random_model(shape: str) -> CausalLM:
    model = new_model(SHAPES[shape] | {"tie_word_embeddings": False}, "causal_lm")
    assert isinstance(model, CausalLM)
    return model.to(torch.bfloat16).requires_grad_(False).eval()


def circling(model: CausalLM) -> CausalLM:
    """It computes as much as before, but what its blocks find is multiplied by zero, and after each
    token comes the next of its cycle."""
    for name, weight in model.named_parameters():
        if name.endswith(("attention.out.weight", "mlp.down.weight")):
            weight.zero_()
    embedding_VD = model.body.embedding.weight
    assert model.lm_head is not None
    ids_V = torch.arange(len(embedding_VD))
    starts = range(0, len(ids_V), CYCLE)
    following = torch.cat([ids_V[start : start + CYCLE].roll(-1) for start in starts])
    model.lm_head.weight[following] = embedding_VD
    return model


def render(result: dict[str, Any], found: dict[str, dict[str, Ratio]]) -> str:
    said = {"costs": "of the time", "texts": "times as fast", "grammar": "of the time"}
    lines = [
        result["hardware"],
        f"{result['shape']}, {result['method']}, {result['threads']} threads, {result['clock']} "
        f"time; {result['tokens']} tokens written",
    ]
    for part, ratios in found.items():
        lines += [f"{part}, {name}: {ratio}, {said[part]}" for name, ratio in ratios.items()]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
