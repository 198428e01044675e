"""How long a question takes from end to end in a library of so many passages.

    python -m benchmarks.ask_latency [--data DIR] [--passages 20000] [--questions 200] [--threads N]
                                     [--precision P] [--read-windows N] [--without-specialists]
                                     [--cpu-time] [--json]

Passages are paragraphs of SQuAD's training set, three at a time (about 400 tokens), with vectors
that are made up (`benchmarks.search_scale`); questions are those of its dev set. What is timed is
`Library.ask` as a whole, in a process that has asked a few questions already: 30 candidates are
re-ranked, the best 5 read. A specialist whose adapter is not in the package is replaced by one with
random weights, which takes as long; the table marks it.
"""

import argparse
import json
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from benchmarks.datasets import add_data_argument, squad
from benchmarks.hardware import describe
from benchmarks.search_scale import Forge, build
from benchmarks.specialists_latency import Clock, render, stand_ins, summary

from pharos import Library
from pharos.core.findings import Specialists, Team
from pharos.specialists import SentenceEncoder, load_encoder
from pharos.specialists.span_reader import SpanReaderConfig
from pharos.specialists.team import load_specialists

WARM_UP = 5
PARAGRAPHS = 3
EMBEDDED = 1000


class Paragraphs(Forge):
    """Passages of real paragraphs, drawn anew for each."""

    def __init__(self, texts: Sequence[str], encoder: SentenceEncoder) -> None:
        super().__init__(texts, encoder.embed(texts[:: max(1, len(texts) // EMBEDDED)]))
        self._texts = texts

    def texts(self, size: int) -> list[str]:
        picks = self._random.integers(0, len(self._texts), (size, PARAGRAPHS))
        return ["\n\n".join(self._texts[i] for i in row) for row in picks]


def main() -> None:
    args = parse_arguments()
    torch.set_num_threads(args.threads)
    clock = time.process_time if args.cpu_time else time.perf_counter
    encoder = load_encoder(precision=args.precision, threads=args.threads)
    with tempfile.TemporaryDirectory(prefix="pharos-ask-") as scratch:
        team, random = specialists(encoder, Path(scratch) / "adapters", args)
        folder = Path(scratch) / "library"
        texts = [text.body for text in squad(args.data, "train").texts]
        build(folder, args.passages, Paragraphs(texts, encoder), encoder)
        library = Library.open(folder, create=False, embedder=encoder, specialists=team)
        asked = squad(args.data).queries
        step = max(1, len(asked) // (args.questions + WARM_UP))
        times = measure(library, asked[::step][: args.questions + WARM_UP], clock)
    result = {
        "hardware": describe(),
        "threads": args.threads,
        "clock": clock.__name__,
        "precision": encoder.precision,
        "rounds": args.questions,
        "passages": args.passages,
        "random": random,
        "ms": {stage: summary(found) for stage, found in times.items()},
    }
    print(json.dumps(result, indent=2) if args.json else render(result))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    add_data_argument(parser)
    parser.add_argument("--passages", type=int, default=20_000)
    parser.add_argument("--questions", type=int, default=200)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--precision", default="auto", choices=("auto", "fp32", "bf16", "int8"))
    parser.add_argument("--read-windows", type=int, default=SpanReaderConfig().max_windows)
    parser.add_argument("--without-specialists", action="store_true")
    parser.add_argument("--cpu-time", action="store_true", help="for a busy machine")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


def specialists(encoder: SentenceEncoder, adapters: Path, args: Any) -> tuple[Team, list[str]]:
    """Those that are asked, and which of them have random weights."""
    if args.without_specialists:
        return Specialists(), []
    adapters.mkdir()
    random = stand_ins(encoder, adapters)
    reading = SpanReaderConfig(max_windows=args.read_windows)
    return load_specialists(encoder.shared, adapters, reading=reading), random


def measure(library: Library, questions: Sequence[str], clock: Clock) -> dict[str, list[float]]:
    """Milliseconds of each stage, and of the whole by `clock`."""
    times: dict[str, list[float]] = defaultdict(list)
    for number, question in enumerate(questions):
        started = clock()
        answer = library.ask(question)
        whole = 1000 * (clock() - started)
        if number >= WARM_UP:
            for stage in ("search", "rerank", "read"):
                times[f"{stage} (by the clock)"].append(answer.timings_ms.get(stage, 0.0))
            times["question to answer"].append(whole)
    return dict(times)


if __name__ == "__main__":
    main()
