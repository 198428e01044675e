"""How long the specialists take for one question.

    python -m benchmarks.specialists_latency [--data DIR] [--threads N] [--precision P]
                                             [--rounds 20] [--cpu-time] [--json]

SQuAD's dev questions, one a round, each with 30 passages of about 384 tokens (neighbouring
paragraphs): the question is embedded, the passages are re-ranked by as many windows of 128 tokens,
the best 5 are read in all of their windows, the question is routed (`recipes/support_router.yaml`),
and so on. A specialist whose adapter is not in the
package is replaced by one with random weights, which takes as long; the table marks it.

Passages are new to the specialists in each round, so their tokens are not yet remembered: `again`
is the whole once more, with them.
"""

import argparse
import json
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import yaml
from benchmarks.datasets import add_data_argument, squad_articles
from benchmarks.hardware import describe

from pharos.adapt import Adapters, LoraConfig, save_adapter
from pharos.core import Hit, Passage
from pharos.core.findings import Specialists
from pharos.models.load import load_under_new_head
from pharos.rag.consult import reranked
from pharos.specialists import SentenceEncoder, load_encoder
from pharos.specialists.cards import (
    SPECIALISTS,
    Card,
    HeadTask,
    specialist_folder,
    weights_digest,
    write_card,
)
from pharos.specialists.router import Router
from pharos.specialists.team import load_specialists

CANDIDATES, READ = 30, 5
ROUTER = Path(__file__).parents[1] / "recipes" / "support_router.yaml"
PARAGRAPHS_PER_PASSAGE = 3
HEADS: Mapping[str, tuple[HeadTask, tuple[str, ...]]] = {
    "reranker": ("sequence_classification", ("irrelevant", "relevant")),
    "reader": ("question_answering", ()),
    "injection": ("sequence_classification", ("benign", "attack")),
    "grounding": ("sequence_classification", ("supported", "contradicted", "unsupported")),
}
Clock = Callable[[], float]


class Round(NamedTuple):
    question: str
    hits: list[Hit]


def main() -> None:
    args = parse_arguments()
    torch.set_num_threads(args.threads)
    clock = time.process_time if args.cpu_time else time.perf_counter
    encoder = load_encoder(precision=args.precision, threads=args.threads)
    with tempfile.TemporaryDirectory() as scratch:
        random = stand_ins(encoder, Path(scratch))
        team = load_specialists(encoder.shared, Path(scratch))
    rounds = questions_of(args.data, args.rounds + 1)
    times = measure(team, encoder, router_over(encoder), rounds, clock)
    result = {
        "hardware": describe(),
        "threads": args.threads,
        "clock": clock.__name__,
        "precision": encoder.precision,
        "rounds": args.rounds,
        "random": random,
        "ms": {stage: summary(found) for stage, found in times.items()},
    }
    print(json.dumps(result, indent=2) if args.json else render(result))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    add_data_argument(parser)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--precision", default="auto", choices=("auto", "fp32", "bf16", "int8"))
    parser.add_argument("--cpu-time", action="store_true", help="for a busy machine")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


def stand_ins(encoder: SentenceEncoder, adapters: Path) -> list[str]:
    """Links to the adapters that there are, and random ones for the others, whose names are
    returned."""
    made = []
    for name in SPECIALISTS:
        folder = specialist_folder(name)
        if folder is not None:
            (adapters / name).symlink_to(folder, target_is_directory=True)
        else:
            made.append(name)
            write_random(encoder, name, adapters / name)
    return made


def write_random(encoder: SentenceEncoder, name: str, folder: Path) -> None:
    task, labels = HEADS[name]
    shared = encoder.shared
    model, _ = load_under_new_head(shared.folder.path, task, labels=labels or None)
    adapters = Adapters(model)
    adapters.add(LoraConfig(r=16))
    save_adapter(adapters, folder)
    card = Card(
        name=name,
        task=task,
        base=shared.folder.name,
        base_sha256=shared.digest,
        sha256=weights_digest(folder),
        labels=labels,
    )
    write_card(folder, card)


def router_over(encoder: SentenceEncoder) -> Router:
    """That of the recipe, without what is out of its scope."""
    routes = yaml.safe_load(ROUTER.read_text(encoding="utf-8"))["routes"]
    return Router.train([(text, name) for name, texts in routes.items() for text in texts], encoder)


def questions_of(data: Path, rounds: int) -> list[Round]:
    """No paragraph comes up in two rounds until all have."""
    paragraphs = [p for article in squad_articles(data) for p in article["paragraphs"]]
    needed = CANDIDATES * PARAGRAPHS_PER_PASSAGE
    made = []
    for number in range(rounds):
        at = number * needed % max(1, len(paragraphs) - needed)
        texts = [p["context"] for p in paragraphs[at : at + needed]]
        passages = [
            "\n\n".join(texts[i : i + PARAGRAPHS_PER_PASSAGE])
            for i in range(0, needed, PARAGRAPHS_PER_PASSAGE)
        ]
        question = paragraphs[at]["qas"][0]["question"]
        made.append(Round(question, [hit_of(i, text) for i, text in enumerate(passages)]))
    return made


def hit_of(number: int, text: str) -> Hit:
    passage = Passage(
        id=str(number),
        document_id=str(number),
        source=str(number),
        title="",
        headings=(),
        page=None,
        start=0,
        end=len(text),
        text=text,
    )
    return Hit(passage=passage, score=1.0 / (number + 1))


def measure(
    team: Specialists,
    encoder: SentenceEncoder,
    router: Router,
    rounds: Sequence[Round],
    clock: Clock,
) -> dict[str, list[float]]:
    """Milliseconds of each stage in each round; the first round is to warm up."""
    times: dict[str, list[float]] = defaultdict(list)
    for number, one in enumerate(rounds):
        found = timed(team, encoder, router, one, clock)
        again = timed(team, encoder, router, one, clock)
        if number:
            for stage, ms in {**found, "re-rank and read, again": whole(again)}.items():
                times[stage].append(ms)
    return dict(times)


def whole(found: Mapping[str, float]) -> float:
    return found["re-rank 30 passages"] + found["read 5 passages"]


def timed(
    team: Specialists, encoder: SentenceEncoder, router: Router, one: Round, clock: Clock
) -> dict[str, float]:
    assert team.reranker and team.reader and team.guard and team.grounding
    marks = [clock()]
    encoder.embed([one.question])
    marks.append(clock())
    hits = reranked(one.question, one.hits, team.reranker)
    marks.append(clock())
    team.reader.find(one.question, hits[:READ])
    marks.append(clock())
    team.guard.risks([one.question])
    marks.append(clock())
    team.grounding.check([(one.question, hits[0].passage.text[:500])])
    marks.append(clock())
    router.route(one.question)
    marks.append(clock())
    stages = (
        "embed the question",
        "re-rank 30 passages",
        "read 5 passages",
        "question an attack?",
        "one sentence borne out?",
        "route the question",
    )
    ms = (1000 * float(end - start) for start, end in pairwise(marks))
    found = dict(zip(stages, ms, strict=True))
    return {**found, "re-rank and read": whole(found)}


def summary(found: Sequence[float]) -> dict[str, float]:
    return {"median": float(np.median(found)), "p95": float(np.percentile(found, 95))}


def render(result: Mapping[str, Any]) -> str:
    lines = [
        result["hardware"],
        f"{result['precision']}, {result['threads']} threads, {result['rounds']} rounds, "
        f"{result['clock']}",
        f"with random weights: {', '.join(result['random']) or 'none'}",
        "",
        "| stage | median | P95 |",
        "|---|---|---|",
    ]
    for stage, found in result["ms"].items():
        lines.append(f"| {stage} | {found['median']:.1f} ms | {found['p95']:.1f} ms |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
