"""How fast tokenizers are trained, encode and decode, in MB of text a second.

    python -m benchmarks.tokenization [--data DIR | --text FILE] [--megabytes 5] [--vocab-size 8000]
                                      [--threads N] [--cpu-time] [--rounds 3] [--json]

Training: the same text file through ours and through the bare `tokenizers` library, which ours is
built on, with the same settings: what determinism, holding text to be UTF-8 and telling progress
cost. Encoding and decoding: the same vocabulary, lines of text, ours and `transformers`' (with it
in the interpreter), all at once and one by one. A stream is decoded id by id, beside the library's
own DecodeStream. Sides take turns, the median of the rounds counts.

On a machine that is busy with other things take `--threads 1 --cpu-time`: the seconds of the
processor, which do not count waiting. The text is Wikipedia (SQuAD's paragraphs) unless named.
"""

import argparse
import gzip
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.datasets import add_data_argument
from benchmarks.hardware import describe, usable_cores
from benchmarks.peers import load_peers, versions
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers, trainers
from tokenizers import Tokenizer as Library

from pharos.data.detokenize import StreamDecoder
from pharos.data.tokenizer import Tokenizer
from pharos.data.tokenizer_report import measure
from pharos.data.train_tokenizer import (
    NUM_BYTES,
    SPECIAL_TOKENS,
    WORDS,
    Kind,
    TextFiles,
    TokenizerConfig,
    train_tokenizer,
)

Clock = Callable[[], float]
Calls = Mapping[str, Callable[[], object]]

KINDS: tuple[Kind, ...] = ("bpe", "wordpiece", "unigram")
TEXT = "text_corpora/wikipedia_squad_train_contexts.txt.gz"
STREAMED = 2000
"""Lines that are decoded id by id."""


def main() -> None:
    args = parse_arguments()
    os.environ |= {"RAYON_NUM_THREADS": str(args.threads), "TOKENIZERS_PARALLELISM": "true"}
    clock = time.process_time if args.cpu_time else time.perf_counter
    with tempfile.TemporaryDirectory() as scratch:
        text = Path(scratch) / "text.txt"
        num_bytes = write_text(args, text)
        result = {
            "hardware": describe(),
            "versions": versions(("tokenizers", "transformers")),
            "threads": args.threads,
            "clock": clock.__name__,
            "rounds": args.rounds,
            "megabytes": num_bytes / 1e6,
            "vocab_size": args.vocab_size,
            "kinds": {kind: measured(kind, text, args, clock) for kind in KINDS},
        }
    print(json.dumps(result, indent=2) if args.json else render(result))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    add_data_argument(parser)
    parser.add_argument("--text", type=Path, help=f"a file of text, .gz or not [{TEXT}]")
    parser.add_argument("--megabytes", type=float, default=5.0, help="of it [5]")
    parser.add_argument("--vocab-size", type=int, default=8000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=usable_cores())
    parser.add_argument("--cpu-time", action="store_true", help="for a busy machine")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


def write_text(args: argparse.Namespace, target: Path) -> int:
    """The first lines of the text, to be read from a file by all; how many bytes they have."""
    source: Path = args.text or args.data / TEXT
    if not source.is_file():
        raise SystemExit(f"{source} is not there: say where the data sets are with --data DIR")
    opened = gzip.open if source.suffix == ".gz" else open
    num_bytes = 0
    with opened(source, "rb") as lines, target.open("wb") as file:
        for line in lines:
            if num_bytes >= args.megabytes * 1e6:
                break
            num_bytes += file.write(line)
    return num_bytes


def measured(kind: Kind, text: Path, args: argparse.Namespace, clock: Clock) -> dict[str, Any]:
    config = TokenizerConfig(kind=kind, vocab_size=args.vocab_size)
    train = partial(train_tokenizer, TextFiles([text]), config)
    tokenizer = train()
    lines = list(TextFiles([text]))
    batch, single, stream = coding_calls(tokenizer, lines)
    megabytes = text.stat().st_size / 1e6
    streamed = sum(len(line.encode()) for line in lines[:STREAMED]) / 1e6
    speed = partial(speeds, clock=clock, rounds=args.rounds)
    training: dict[str, Callable[[], object]] = {
        "pharos": train,
        "tokenizers": partial(LIBRARY_TRAINERS[kind], text, args.vocab_size),
    }
    return {
        "tokens_per_word": measure(tokenizer, lines).fertility,
        "training": speed(training, megabytes),
        "encoding": speed(batch, megabytes),
        "encoding line by line": speed(single, megabytes),
        "decoding a stream": speed(stream, streamed),
    }


def coding_calls(tokenizer: Tokenizer, lines: Sequence[str]) -> tuple[Calls, Calls, Calls]:
    """Encoding all at once, encoding one by one, decoding one by one; ours and the peers'."""
    encoded = tokenizer.encode_batch(lines[:STREAMED])
    batch: dict[str, Callable[[], object]] = {"pharos": lambda: tokenizer.encode_batch(lines)}
    single: dict[str, Callable[[], object]] = {
        "pharos": lambda: [tokenizer.encode(line) for line in lines]
    }
    if peers := load_peers(("transformers",)):
        with tempfile.TemporaryDirectory() as folder:
            tokenizer.save(Path(folder))
            theirs = peers["transformers"].AutoTokenizer.from_pretrained(folder)
        assert [theirs.encode(line) for line in lines[:STREAMED]] == encoded
        batch["transformers"] = lambda: theirs(lines).input_ids
        single["transformers"] = lambda: [theirs.encode(line) for line in lines]
    stream = {
        "pharos": lambda: [stream_ours(tokenizer, ids) for ids in encoded],
        "tokenizers": lambda: [stream_library(tokenizer, ids) for ids in encoded],
    }
    return batch, single, stream


def stream_ours(tokenizer: Tokenizer, ids: Sequence[int]) -> str:
    decoder = StreamDecoder(tokenizer)
    return "".join([*map(decoder.push, ids), decoder.flush()])


def stream_library(tokenizer: Tokenizer, ids: Sequence[int]) -> str:
    stream = decoders.DecodeStream(skip_special_tokens=True)
    return "".join(stream.step(tokenizer.backend, id_) or "" for id_ in ids)


def train_bpe(text: Path, vocab_size: int) -> None:
    library = Library(models.BPE())
    library.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    library.train([str(text)], trainer)


def train_wordpiece(text: Path, vocab_size: int) -> None:
    library = Library(models.WordPiece(unk_token="[UNK]"))
    library.normalizer = normalizers.BertNormalizer(lowercase=True)
    library.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        special_tokens=list(SPECIAL_TOKENS["wordpiece"].values()),
        limit_alphabet=1000,
        show_progress=False,
    )
    library.train([str(text)], trainer)


def train_unigram(text: Path, vocab_size: int) -> None:
    library = Library(models.Unigram())
    library.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never", split=True)
    trainer = trainers.UnigramTrainer(
        vocab_size=vocab_size - NUM_BYTES,
        special_tokens=list(SPECIAL_TOKENS["unigram"].values()),
        unk_token="<unk>",
        show_progress=False,
    )
    library.train([str(text)], trainer)


LIBRARY_TRAINERS: dict[Kind, Callable[[Path, int], None]] = {
    "bpe": train_bpe,
    "wordpiece": train_wordpiece,
    "unigram": train_unigram,
}


def speeds(calls: Calls, megabytes: float, *, clock: Clock, rounds: int) -> dict[str, float]:
    """MB/s of each, and `ratio`: ours over the peer's."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            start = clock()
            call()
            seconds[name].append(clock() - start)
    rates = {name: megabytes / statistics.median(times) for name, times in seconds.items()}
    peers = [rate for name, rate in rates.items() if name != "pharos"]
    return rates | ({"ratio": rates["pharos"] / peers[0]} if peers else {})


def render(result: dict[str, Any]) -> str:
    lines = [
        result["hardware"],
        f"{result['versions']}; {result['threads']} threads, {result['clock']}, "
        f"median of {result['rounds']}; {result['megabytes']:.1f} MB of text, "
        f"{result['vocab_size']:,} tokens",
        "",
        f"{'MB/s':34}{'pharos':>10}{'peer':>10}{'ratio':>8}  peer",
    ]
    for kind, row in result["kinds"].items():
        for name, rates in row.items():
            if isinstance(rates, dict):
                lines.append(f"{f'{kind}, {name}':34}{rate_columns(rates)}")
        lines.append(f"{kind}, tokens per word: {row['tokens_per_word']:.3f}")
    return "\n".join(lines)


def rate_columns(rates: Mapping[str, float]) -> str:
    peer = next((name for name in rates if name not in ("pharos", "ratio")), None)
    if peer is None:
        return f"{rates['pharos']:10.2f}"
    return f"{rates['pharos']:10.2f}{rates[peer]:10.2f}{rates['ratio']:8.2f}  {peer}"


if __name__ == "__main__":
    main()
