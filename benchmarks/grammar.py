"""Outputs held to JSON schemas: two libraries on the schemas of JSONSchemaBench.

    python -m benchmarks.grammar [--data DIR] [--schemas 1000] [--vocab-size 32000]
                                 [--tokenizer FOLDER] [--tokens 400] [--json]

Each library compiles each schema and then writes one output of random legal tokens, in a worker
process with a limit on its time. Told are the share of schemas that are taken, of the finished
outputs those that parse and that jsonschema accepts (formats checked too), and the processor's
seconds for compiling and for each mask. Ours is llguidance behind `GrammarCompiler`; xgrammar is
called directly, with compact JSON and one thread, and is measured where it is installed.

The vocabulary is trained on Wikipedia's text (SQuAD's paragraphs), unless the folder of a tokenizer
is named. Random outputs leave no trodden path: they meet rarer states than a model does.
"""

import argparse
import gzip
import json
import random
import tarfile
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks.datasets import add_data_argument
from benchmarks.grammar_walks import Library, Task, Walk, walk
from benchmarks.hardware import describe
from benchmarks.peers import load_peers, versions

from pharos.data.tokenizer import Tokenizer
from pharos.data.train_tokenizer import TokenizerConfig, train_tokenizer
from pharos.data.workers import WorkerLimits, run_isolated

TEXT = "text_corpora/wikipedia_squad_train_contexts.txt.gz"
SCHEMAS = "jsonschemabench/schemas.tar.gz"
LIMITS = WorkerLimits(seconds=60.0, memory_mb=4096)


def main() -> None:
    args = parse_arguments()
    schemas = sampled(existing(args.data / SCHEMAS), args.schemas)
    libraries: list[Library] = ["llguidance"]
    if load_peers(("xgrammar",)):
        libraries.append("xgrammar")
    with tempfile.TemporaryDirectory() as scratch:
        folder = args.tokenizer or trained(args.data / TEXT, args.vocab_size, Path(scratch))
        result = {
            "hardware": describe(),
            "versions": versions(("llguidance", "xgrammar", "jsonschema")),
            "schemas": len(schemas),
            "vocab_size": Tokenizer.load(folder).vocab_size,
            "tokens": args.tokens,
            "libraries": {
                library: summary(walks(library, folder, schemas, args.tokens))
                for library in libraries
            },
        }
    print(json.dumps(result, indent=2) if args.json else render(result))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    add_data_argument(parser)
    parser.add_argument("--schemas", type=int, default=1000, help="drawn from all [1000]")
    parser.add_argument("--vocab-size", type=int, default=32_000, help="of the tokens [32000]")
    parser.add_argument("--tokenizer", type=Path, help="a model's folder, instead of training one")
    parser.add_argument("--tokens", type=int, default=400, help="of an output, at most [400]")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


def existing(path: Path) -> Path:
    if not path.is_file():
        raise SystemExit(f"{path} is not there: say where the data sets are with --data DIR")
    return path


def sampled(archive: Path, count: int) -> list[tuple[str, str]]:
    """Names and schemas, the same ones each time."""
    with tarfile.open(archive) as files:
        names = sorted(name for name in files.getnames() if name.endswith(".json"))
        chosen = random.Random(0).sample(names, min(count, len(names)))
        read = [(name, files.extractfile(name)) for name in chosen]
        return [(name, file.read().decode()) for name, file in read if file is not None]


def trained(text: Path, vocab_size: int, folder: Path) -> Path:
    with gzip.open(existing(text), "rt", encoding="utf-8") as lines:
        tokenizer = train_tokenizer(lines, TokenizerConfig(vocab_size=vocab_size))
    tokenizer.save(folder)
    return folder


def walks(
    library: Library, folder: Path, schemas: Sequence[tuple[str, str]], most: int
) -> list[tuple[str, Walk]]:
    tasks = [
        Task(library=library, tokenizer=folder, name=name, schema=schema, most=most)
        for name, schema in schemas
    ]
    outcomes = run_isolated(walk, tasks, workers=1, limits=LIMITS)
    return [
        (outcome.item.name, outcome.value or Walk(ending="failed", why=outcome.error or ""))
        for outcome in outcomes
    ]


def summary(found: Sequence[tuple[str, Walk]]) -> dict[str, Any]:
    endings = Counter(walk.ending for _, walk in found)
    taken = [walk for _, walk in found if walk.mask_s]
    finished = endings["valid"] + endings["invalid"]
    return {
        "endings": dict(endings),
        "taken": 1.0 - endings["refused"] / len(found),
        "valid of finished": endings["valid"] / max(1, finished),
        "compile ms": quantiles([1e3 * walk.compile_s for walk in taken]),
        "mask us": quantiles([1e6 * seconds for walk in taken for seconds in walk.mask_s]),
        "wrong": {name: walk.why for name, walk in found if walk.ending in ("invalid", "failed")},
    }


def quantiles(values: Sequence[float]) -> dict[str, float]:
    if not values:
        return {}
    p50, p95, p99 = np.percentile(values, [50, 95, 99]).tolist()
    return {"mean": float(np.mean(values)), "p50": p50, "p95": p95, "p99": p99, "max": max(values)}


def render(result: dict[str, Any]) -> str:
    lines = [
        result["hardware"],
        f"{result['versions']}; {result['schemas']:,} schemas, {result['vocab_size']:,} tokens, "
        f"outputs of at most {result['tokens']}",
    ]
    for library, told in result["libraries"].items():
        lines += ["", library, f"  {told['endings']}"]
        lines.append(
            f"  taken {told['taken']:.1%}, valid of finished {told['valid of finished']:.2%}"
        )
        for name in ("compile ms", "mask us"):
            row = ", ".join(f"{key} {value:,.2f}" for key, value in told[name].items())
            lines.append(f"  {name}: {row}")
        reasons = Counter(why[:70] for why in told["wrong"].values())
        lines += [f"  {count} x {why}" for why, count in reasons.most_common(8)]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
