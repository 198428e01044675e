"""What drafts and grammars add to the engine's steps, and what drafts save.

    python -m benchmarks.speculation [--tokenizer FOLDER] [--vocab-size 32000] [--layers 12]
                                     [--width 1024] [--tokens 96] [--rounds 5] [--json]

A Llama of random weights in bfloat16, one thread, seconds of the processor (so other work on the
machine counts little). With and without take turns; the medians of the rounds are compared.

- cost of a draft: steps that check `k` drafts, over steps that check none;
- texts: one that repeats its prompt (the weights are set to go round: all drafts are right, the
  best there can be), one of random tokens (nothing to find), and one of random tokens out of thirty
  (n-grams are found everywhere and tell nothing), each with n-gram drafts of adaptive length;
- grammar: tokens under a JSON schema that never ends, over the same number of free ones.

The vocabulary is trained on Wikipedia's text (SQuAD's paragraphs), unless a tokenizer is named.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from benchmarks.datasets import add_data_argument
from benchmarks.grammar import TEXT, trained
from benchmarks.hardware import describe

from pharos.core import SamplingParams
from pharos.data.tokenizer import Tokenizer
from pharos.models.heads import CausalLM
from pharos.models.load import new_model
from pharos.quant.bf16 import pack_linears
from pharos.serve.engine.block_pool import BlockPool
from pharos.serve.engine.engine import Engine
from pharos.serve.engine.grammar import GrammarCompiler
from pharos.serve.engine.paged_kv import PagedKV
from pharos.serve.engine.request import Grammar, Request
from pharos.serve.engine.request import Sequence as Written
from pharos.serve.engine.runner import Runner
from pharos.serve.engine.scheduler import Scheduler, SchedulerConfig
from pharos.serve.engine.speculation import AdaptiveLength, NgramProposer, Speculation

CYCLE = 48
"""Tokens after which a text that repeats itself begins anew."""
DRAFTS = (0, 1, 2, 4, 8)
FEW = 30
BLOCK = 32
ENDLESS = {"type": "array", "items": {"type": "string", "maxLength": 20}, "minItems": 10_000}


def main() -> None:
    args = parse_arguments()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        folder = args.tokenizer or trained(args.data / TEXT, args.vocab_size, Path(scratch))
        bench = Bench(Tokenizer.load(folder), args)
        result = {
            "hardware": describe(),
            "parameters": sum(p.numel() for p in bench.random.parameters()),
            "vocab_size": bench.vocab_size,
            "tokens": args.tokens,
            "rounds": args.rounds,
            "cost of drafts": bench.costs(),
            "texts": bench.texts(),
            "grammar": bench.grammars(),
        }
    print(json.dumps(result, indent=2) if args.json else render(result))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    add_data_argument(parser)
    parser.add_argument("--tokenizer", type=Path, help="a model's folder, instead of training one")
    parser.add_argument("--vocab-size", type=int, default=32_000, help="of the tokens [32000]")
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--tokens", type=int, default=96, help="that each request writes [96]")
    parser.add_argument("--rounds", type=int, default=5)
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
    stubborn = AdaptiveLength(most=count, cost=0.01, first_share=1.0, rate=0.0)
    return Speculation(WrongDrafts(), stubborn)


class Bench:
    def __init__(self, tokenizer: Tokenizer, args: argparse.Namespace) -> None:
        self.vocab_size = tokenizer.vocab_size
        self._tokenizer = tokenizer
        self._tokens: int = args.tokens
        self._rounds: int = args.rounds
        self._compiler = GrammarCompiler(tokenizer)
        self.random = packed(random_model(self.vocab_size, args))
        self._circling = packed(circling(random_model(self.vocab_size, args)))
        warm = SamplingParams(max_tokens=self._tokens, temperature=1.0)
        self._warm = warm

    def costs(self) -> dict[str, float]:
        """The time of a step with so many drafts, over that of one without."""
        sides = {str(count): partial(self._wrong_step_s, count) for count in DRAFTS}
        seconds = medians(sides, self._rounds)
        return {count: value / seconds["0"] for count, value in seconds.items()}

    def texts(self) -> dict[str, float]:
        """How many times as fast a text is written with drafts as without."""
        few = dict.fromkeys(range(1000, 1000 + FEW), 100.0)
        misleading = SamplingParams(max_tokens=self._tokens, temperature=1.0, logit_bias=few)
        greedy = SamplingParams(max_tokens=self._tokens)
        return {
            "repeats its prompt": self._speed_up(self._circling, greedy),
            "random": self._speed_up(self.random, self._warm),
            "random, of few tokens": self._speed_up(self.random, misleading),
        }

    def grammars(self) -> dict[str, float]:
        """The time of a step under a grammar, over that of one without, by batch size."""
        grammar = Grammar(kind="json_schema", text=json.dumps(ENDLESS))
        self._compiler.compile(grammar).result()
        ratios = {}
        for batch in (1, 8):
            step_s = partial(self._step_s, self.random, batch=batch)
            sides = {"free": step_s, "grammar": partial(step_s, grammar=grammar)}
            seconds = medians(sides, self._rounds)
            ratios[f"batch {batch}"] = seconds["grammar"] / seconds["free"]
        return ratios

    def _wrong_step_s(self, count: int) -> float:
        return self._step_s(self.random, wrong(count))

    def _speed_up(self, model: CausalLM, params: SamplingParams) -> float:
        step_s = partial(self._step_s, model, params=params)
        sides: dict[str, Callable[[], float]] = {
            "plain": step_s,
            "drafts": lambda: step_s(Speculation(NgramProposer())),
        }
        seconds = medians(sides, self._rounds)
        return seconds["plain"] / seconds["drafts"]

    def _step_s(
        self,
        model: CausalLM,
        speculation: Speculation | None = None,
        *,
        params: SamplingParams | None = None,
        grammar: Grammar | None = None,
        batch: int = 1,
    ) -> float:
        """Seconds for each token, after the first: the sum over the steps, whatever they wrote."""
        engine = self._engine(model, speculation)
        params = params or self._warm
        for i in range(batch):
            prompt = [(i + j) % CYCLE for j in range(2 * CYCLE)]
            engine.add(Request(id=str(i), prompt=prompt, params=params, seed=i, grammar=grammar))
        while not engine.step():  # the prompt is read, and the grammar is there
            pass
        started = time.process_time()
        while engine.has_work:
            engine.step()
        return (time.process_time() - started) / (self._tokens - 1)

    def _engine(self, model: CausalLM, speculation: Speculation | None) -> Engine:
        num_blocks = 8 * (2 * CYCLE + self._tokens + 2 * BLOCK) // BLOCK
        shapes = model.body.attention_shapes()
        kv = PagedKV(
            shapes, num_blocks=num_blocks, block_size=BLOCK, dtype=model.body.embedding.weight.dtype
        )
        pool = BlockPool(num_blocks, BLOCK)
        return Engine(
            Scheduler(SchedulerConfig(), pool),
            Runner(model, kv),
            tokenizer=self._tokenizer,
            compiler=self._compiler,
            speculation=speculation,
        )


def random_model(vocab_size: int, args: argparse.Namespace) -> CausalLM:
    raw = {
        "model_type": "llama",
        "vocab_size": vocab_size,
        "hidden_size": args.width,
        "intermediate_size": 11 * args.width // 4,
        "num_hidden_layers": args.layers,
        "num_attention_heads": args.width // 64,
        "num_key_value_heads": max(1, args.width // 256),
        "max_position_embeddings": 8192,
    }
    model = new_model(raw, "causal_lm")
    assert isinstance(model, CausalLM)
    return model.requires_grad_(False)


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


def packed(model: CausalLM) -> CausalLM:
    model = model.to(torch.bfloat16).eval()
    pack_linears(model)
    return model


def medians(sides: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, float]:
    """Of each side; they take turns, and a first round is for warming up."""
    found: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds + 1):
        for name, measure in sides.items():
            found[name].append(measure())
    return {name: statistics.median(values[1:]) for name, values in found.items()}


def render(result: dict[str, Any]) -> str:
    costs = ", ".join(f"{count}: {ratio:.2f}" for count, ratio in result["cost of drafts"].items())
    lines = [
        result["hardware"],
        f"{result['parameters'] / 1e6:.0f}M parameters, {result['vocab_size']:,} tokens, bf16, one "
        f"thread; {result['tokens']} tokens written, median of {result['rounds']}",
        "",
        f"time of a step with so many drafts: {costs}",
        *(f"{name}: {ratio:.2f} times as fast" for name, ratio in result["texts"].items()),
        *(f"grammar, {name}: {ratio:.3f}" for name, ratio in result["grammar"].items()),
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
