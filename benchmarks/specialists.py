"""The specialists' figures on test splits, each with its interval and beside its baselines.

    python -m benchmarks.specialists [--only reader reranker] [--questions 500] [--cards] [--json]
                                     [--precision int8] [--read-windows 12]

Nothing here was trained, calibrated or chosen on: SQuAD's dev set, HotpotQA, Cranfield, CLINC150's
and BANKING77's test splits, jailbreaks of no kin to the trained ones, MMLU's security questions.
Reader, re-ranker, detector and grounding checker are those in the package; routers, which are the
user's own, those in `--runs`. The records in `--records` are made by `recipes.specialists`.
`--cards` writes the figures into the cards of the package.
"""

import argparse
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from benchmarks.datasets import add_data_argument
from benchmarks.hardware import describe
from benchmarks.intervals import Figure, table
from benchmarks.specialists_classifying import (
    grounding_figures,
    injection_figures,
    router_figures,
)
from benchmarks.specialists_reading import other_figures, squad_figures

from pharos.core.findings import Specialists
from pharos.specialists import load_shared_encoder
from pharos.specialists.cards import ADAPTERS, SPECIALISTS, read_card, write_card
from pharos.specialists.span_reader import SpanReaderConfig
from pharos.specialists.team import load_specialists

GROUPS = ("reader", "reranker", "other", "injection", "grounding", "router")


def figures(arguments: argparse.Namespace) -> Iterable[Figure]:
    shared = load_shared_encoder(precision=arguments.precision)
    reading_config = SpanReaderConfig(max_windows=arguments.read_windows)
    team = load_specialists(shared, arguments.adapters, reading=reading_config)
    wanted, count = set(arguments.only), arguments.questions
    reading = Specialists(
        reranker=team.reranker if {"reader", "reranker", "other"} & wanted else None,
        reader=team.reader if "reader" in wanted else None,
    )
    if {"reader", "reranker"} & wanted and (reading.reader or reading.reranker):
        yield from squad_figures(reading, arguments.data, count)
    if "other" in wanted and reading.reranker:
        yield from other_figures(reading, arguments.data, count)
    if "injection" in wanted and team.guard:
        yield from injection_figures(team, arguments.records)
    if "grounding" in wanted and team.grounding:
        yield from grounding_figures(team, arguments.records, arguments.data, count)
    if "router" in wanted:
        yield from router_figures(arguments.runs, arguments.records, arguments.data)


def into_cards(found: Sequence[Figure], adapters: Path) -> None:
    """What was measured of each, as `set, figure: value (low to high, n)`."""
    for name in SPECIALISTS:
        folder = adapters / name
        own = [each for each in found if each.specialist == name]
        if not own or not folder.is_dir():
            continue
        card = read_card(folder)
        told = {
            f"{each.set}, {each.figure}"
            + ("" if each.system == "ours" else f", {each.system}"): f"{each.value:.4f} "
            f"({each.low:.4f} to {each.high:.4f}, n = {each.n:,})"
            for each in own
        }
        write_card(folder, replace(card, figures={**card.figures, **told}))


def main() -> None:
    parser = argparse.ArgumentParser(description="What the specialists reach.")
    add_data_argument(parser)
    parser.add_argument("--only", nargs="+", choices=GROUPS, default=list(GROUPS))
    parser.add_argument("--questions", type=int, default=2000, help="at most so many of a set")
    parser.add_argument("--adapters", type=Path, default=ADAPTERS)
    parser.add_argument("--runs", type=Path, default=Path("runs/specialists"))
    parser.add_argument("--records", type=Path, default=Path("runs/specialists/data"))
    parser.add_argument("--precision", default="auto", choices=("auto", "fp32", "bf16", "int8"))
    parser.add_argument("--read-windows", type=int, default=SpanReaderConfig().max_windows)
    parser.add_argument("--cards", action="store_true", help="write the figures into the cards")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    found = list(figures(arguments))
    if arguments.cards:
        into_cards(found, arguments.adapters)
    if arguments.json:
        print(json.dumps({"hardware": describe(), "figures": [asdict(one) for one in found]}))
    else:
        print(describe(), table(found), sep="\n")


if __name__ == "__main__":
    main()
