"""How long a question takes, end to end, over a library of 20,000 paragraphs.

    python -m benchmarks.ask_latency [--data DIR] [--library DIR] [--questions 100] [--json]

The paragraphs of SQuAD, train and dev, are the library, a document an article; with `--library` it
is kept, and only asked the next time. Asked are questions of the dev set, drawn with a seed, one
after another, as `pharos ask` does, by an open library; the first ten warm up. The stages are those
that an answer tells of.
"""

import argparse
import json
import random
import re
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch
from benchmarks.datasets import add_data_argument, squad_articles
from benchmarks.hardware import describe

from pharos import Library

WARM_UP = 10


def write_articles(data: Path, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for split in ("train", "dev"):
        for article in squad_articles(data, split):
            title = article["title"].replace("_", " ")
            texts = [paragraph["context"] for paragraph in article["paragraphs"]]
            path = folder / f"{re.sub(r'[^A-Za-z0-9]+', '-', title)}.md"
            path.write_text("\n\n".join([f"# {title}", *texts]) + "\n", encoding="utf-8")


def library_in(folder: Path, data: Path) -> Library:
    """As it was left, or made: an interrupted ingest goes on."""
    library = Library.open(folder / "library")
    if not (folder / "complete").exists():
        write_articles(data, folder / "articles")
        report = library.ingest([folder / "articles"])
        print(f"{report.passages} passages in {report.seconds:.0f} s", file=sys.stderr)
        (folder / "complete").touch()
    return library


def questions_of(data: Path, count: int) -> list[str]:
    asked = [
        question["question"]
        for article in squad_articles(data)
        for paragraph in article["paragraphs"]
        for question in paragraph["qas"]
    ]
    return random.Random(0).sample(asked, count)


def times_of(library: Library, questions: list[str]) -> Iterator[dict[str, float]]:
    """Milliseconds by stage, and of the whole as the caller sees it."""
    for question in questions:
        began = time.perf_counter()
        answer = library.ask(question)
        yield {**answer.timings_ms, "ask": (time.perf_counter() - began) * 1e3}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    add_data_argument(parser)
    parser.add_argument("--library", type=Path, help="a folder to keep it in")
    parser.add_argument("--questions", type=int, default=100)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    with ExitStack() as stack:
        folder = arguments.library or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        library = library_in(folder, arguments.data)
        asked = questions_of(arguments.data, arguments.questions + WARM_UP)
        stages = defaultdict(list)
        for number, times in enumerate(times_of(library, asked)):
            for stage, milliseconds in times.items():
                if number >= WARM_UP:
                    stages[stage].append(milliseconds)
        passages = library.stats().passages
    report: dict[str, Any] = {
        stage: dict(zip(("p50", "p95"), map(float, np.percentile(found, (50, 95))), strict=True))
        for stage, found in stages.items()
    }
    if arguments.json:
        print(json.dumps({"machine": describe(), "passages": passages, "milliseconds": report}))
        return
    print(f"{describe()}; {torch.get_num_threads()} threads")
    print(f"{passages:,} passages, {arguments.questions} questions; milliseconds")
    print(f"{'':14}{'p50':>8}{'p95':>8}")
    for stage, row in report.items():
        print(f"{stage:14}{row['p50']:8.0f}{row['p95']:8.0f}")


if __name__ == "__main__":
    main()
