"""How fast raw text becomes token shards, by number of workers, and where the time goes.

    python -m benchmarks.corpus [--data DIR] [--megabytes 10] [--workers 1 2] [--vocab-size 8000]
                                [--rounds 3] [--json]

Three parts. The stages one by one, in this process: seconds of the processor, which do not count
waiting. Tokenizing into shards (`tokenize_texts`) with workers, which are processes, beside the
threads of the `tokenizers` library (`encode_batch` of the same batches; its ids are made arrays
and not written). And all of it together, from a file of JSON lines to shards. Wall-clock time, the
sides take turns, the median of the rounds counts. The text is Wikipedia (SQuAD's paragraphs), one
a document.
"""

import argparse
import gzip
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.datasets import add_data_argument
from benchmarks.hardware import describe, usable_cores

from pharos.data.cleaning import clean_text, squeeze_blank_lines
from pharos.data.corpus import CorpusConfig, CorpusReport, corpus_texts
from pharos.data.deduplication import NearDuplicates, content_hash, signature
from pharos.data.quality import QualityConfig, rejection
from pharos.data.text_sources import TextSource
from pharos.data.tokenize_corpus import Boundaries, batches, encode_batch, tokenize_texts
from pharos.data.tokenizer import Tokenizer
from pharos.data.train_tokenizer import TokenizerConfig, train_tokenizer

TEXT = "text_corpora/wikipedia_squad_train_contexts.txt.gz"
THREADS = """
import json, sys, time
from pathlib import Path
from pharos.data.text_sources import TextSource
from pharos.data.tokenize_corpus import Boundaries, batches, encode_batch
from pharos.data.tokenizer import Tokenizer
backend = Tokenizer.load(Path(sys.argv[2])).backend
texts = list(TextSource([sys.argv[1]]))
encode_batch(backend, Boundaries(), texts[:100])
started = time.perf_counter()
for batch in batches(texts):
    encode_batch(backend, Boundaries(), batch)
print(time.perf_counter() - started)
"""


def main() -> None:
    args = parse_arguments()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        texts = read_texts(args.data / TEXT, args.megabytes)
        tokenizer = train_tokenizer(texts, TokenizerConfig(vocab_size=args.vocab_size))
        tokenizer.save(folder / "tokenizer")
        lines = folder / "texts.jsonl"
        lines.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
        result = {
            "hardware": describe(),
            "megabytes": sum(len(text.encode()) for text in texts) / 1e6,
            "documents": len(texts),
            "tokens": sum(map(len, tokenizer.encode_batch(texts))) + len(texts),
            "rounds": args.rounds,
            "stage_seconds": stage_seconds(texts, tokenizer, lines),
            **scaling(args, folder, texts, lines, tokenizer),
        }
    print(json.dumps(result, indent=2) if args.json else render(result))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    add_data_argument(parser)
    parser.add_argument("--megabytes", type=float, default=10.0, help="of the text [10]")
    default = sorted({1, usable_cores()})
    parser.add_argument("--workers", type=int, nargs="+", default=default, help=f"[{default}]")
    parser.add_argument("--vocab-size", type=int, default=8000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


def read_texts(path: Path, megabytes: float) -> list[str]:
    if not path.is_file():
        raise SystemExit(f"{path} is not there: say where the data sets are with --data DIR")
    texts, size = [], 0
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            if size >= megabytes * 1e6:
                break
            if not line.isspace():
                texts.append(line)
                size += len(line.encode())
    return texts


def stage_seconds(texts: Sequence[str], tokenizer: Tokenizer, lines: Path) -> dict[str, float]:
    seconds: dict[str, float] = {}

    def timed(name: str, call: Callable[[], Any]) -> Any:
        started = time.process_time()
        result = call()
        seconds[name] = time.process_time() - started
        return result

    timed("read JSON lines", lambda: list(TextSource([lines])))
    clean = timed("clean", lambda: [squeeze_blank_lines(clean_text(text)) for text in texts])
    timed("hash", lambda: [content_hash(text) for text in clean])
    signatures = timed("sign (MinHash)", lambda: [signature(text) for text in clean])
    timed("compare signatures", partial(compare, signatures))
    timed("quality", lambda: [rejection(text, QualityConfig()) for text in clean])
    encode = partial(encode_batch, tokenizer.backend, Boundaries.of(tokenizer))
    timed("tokenize", lambda: [encode(batch) for batch in batches(clean)])
    return seconds


def compare(signatures: Sequence[bytes]) -> None:
    near = NearDuplicates(CorpusConfig().near_threshold or 1.0)
    for one in signatures:
        if near.find(one) is None:
            near.add("", one)


def scaling(
    args: argparse.Namespace, folder: Path, texts: list[str], lines: Path, tokenizer: Tokenizer
) -> dict[str, Any]:
    """Median seconds by part and number of workers."""
    times: dict[str, dict[int, list[float]]] = {"processes": {}, "threads": {}, "everything": {}}
    for number in range(args.rounds):
        for workers in args.workers:
            out = folder / f"{workers}-{number}"
            calls: dict[str, Callable[[], float]] = {
                "processes": partial(tokenizing, texts, tokenizer, out / "tokens", workers),
                "threads": partial(threads, lines, folder / "tokenizer", workers),
                "everything": partial(everything, lines, tokenizer, out / "all", workers),
            }
            for name, call in calls.items():
                times[name].setdefault(workers, []).append(call())
    return {
        name: {str(workers): statistics.median(found) for workers, found in by_workers.items()}
        for name, by_workers in times.items()
    }


def tokenizing(texts: list[str], tokenizer: Tokenizer, out: Path, workers: int) -> float:
    started = time.perf_counter()
    tokenize_texts(texts, tokenizer, out, workers=workers)
    return time.perf_counter() - started


def everything(lines: Path, tokenizer: Tokenizer, out: Path, workers: int) -> float:
    started = time.perf_counter()
    kept = corpus_texts(TextSource([lines]), CorpusConfig(), CorpusReport(), workers=workers)
    tokenize_texts(kept, tokenizer, out, workers=workers)
    return time.perf_counter() - started


def threads(lines: Path, tokenizer: Path, count: int) -> float:
    """In a process of its own: the library's pool of threads is made once."""
    environment = {"RAYON_NUM_THREADS": str(count), "TOKENIZERS_PARALLELISM": "true"}
    command = [sys.executable, "-c", THREADS, str(lines), str(tokenizer)]
    done = subprocess.run(
        command, env=os.environ | environment, stdout=subprocess.PIPE, check=True, text=True
    )
    return float(done.stdout)


def render(result: dict[str, Any]) -> str:
    total = sum(result["stage_seconds"].values())
    lines = [
        result["hardware"],
        f"{result['megabytes']:.1f} MB in {result['documents']:,} documents, "
        f"{result['tokens']:,} tokens; median of {result['rounds']}",
        "",
        f"{'stage, one process':24}{'MB/s':>8}{'share':>8}",
    ]
    for name, seconds in result["stage_seconds"].items():
        rate = result["megabytes"] / max(seconds, 1e-9)
        lines.append(f"{name:24}{rate:8.1f}{seconds / total:8.0%}")
    lines += ["", f"{'thousand tokens/s':24}" + "".join(f"{w:>8}" for w in result["processes"])]
    for part, name in (
        ("processes", "tokenize, processes"),
        ("threads", "tokenize, threads"),
        ("everything", "all stages, processes"),
    ):
        rates = (result["tokens"] / seconds / 1e3 for seconds in result[part].values())
        lines.append(f"{name:24}" + "".join(f"{rate:8,.0f}" for rate in rates))
    return "\n".join(lines)


if __name__ == "__main__":
    main()
