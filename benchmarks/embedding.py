"""How fast the encoder is, and how near its vectors are to the reference implementation's.

    python -m benchmarks.embedding [--data DIR | --texts FILE] [--passages 1000] [--threads N]
                                   [--cpu-time] [--json]

Speed: the same 256-token passages through every precision of ours and through sentence-transformers
(needed in the interpreter for the comparison), in turn, several rounds; the median counts, so that
whatever else the machine does hits all alike. On a machine that is busy with other things, take
`--threads 1 --cpu-time`: the seconds of the processor, which do not count waiting.
Nearness: the cosine between our vector and the reference's in float32, over real passages.
Limit: what a large matrix product reaches in that number format, and the share of it that we use.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from benchmarks.datasets import add_data_argument, squad_articles
from benchmarks.hardware import describe
from benchmarks.peers import load_peers, sentence_transformer, versions
from numpy.typing import NDArray

from pharos.data.tokenizer import load_tokenizer
from pharos.ops.int8 import has_vnni, int8_matmul, pack_int8_weight, quantize_weight
from pharos.specialists import Precision, SentenceEncoder, load_encoder
from pharos.specialists.shared_encoder import best_precision

Clock = Callable[[], float]
Embed = Callable[[Sequence[str]], NDArray[np.float32]]

REFERENCE = "sentence-transformers fp32"
PEERS = ("sentence-transformers",)
QUESTION = "Which battle ended the war between the two kingdoms?"


def main() -> None:
    args = parse_arguments()
    torch.set_num_threads(args.threads)
    texts = read_texts(args)
    clock = time.process_time if args.cpu_time else time.perf_counter
    encoders = {p: load_encoder(precision=p, threads=args.threads) for p in precisions()}
    embedders: dict[str, Embed] = {f"pharos {p}": e.embed for p, e in encoders.items()}
    if peers := load_peers(PEERS):
        embedders[REFERENCE] = reference_embed(peers)
    longest = passages_of(encoders["fp32"], texts, args.speed_passages)
    result = {
        "hardware": describe(),
        "versions": versions(("torch", *PEERS)),
        "threads": args.threads,
        "clock": clock.__name__,
        "default": best_precision(),
        "passages": len(texts),
        "speed": speed(embedders, longest, clock, args.rounds),
        "query_ms": query_latency(embedders, clock),
        "cosine": nearness(embedders, texts),
        "limit": limits(encoders["fp32"], encoders, clock),
    }
    print(json.dumps(result, indent=2) if args.json else render(result))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    add_data_argument(parser)
    parser.add_argument("--texts", type=Path, help="a file with a passage a line [SQuAD dev]")
    parser.add_argument("--passages", type=int, default=1000, help="for the cosine [1000]")
    parser.add_argument("--speed-passages", type=int, default=64, help="of 256 tokens [64]")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--cpu-time", action="store_true", help="for a busy machine")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


def read_texts(args: argparse.Namespace) -> list[str]:
    """Different passages, in an order that does not depend on anything but the file."""
    if args.texts:
        texts = [line for line in args.texts.read_text(encoding="utf-8").splitlines() if line]
    else:
        articles = squad_articles(args.data)
        texts = [p["context"] for article in articles for p in article["paragraphs"]]
    order = np.random.default_rng(0).permutation(len(texts))[: args.passages]
    return [texts[i] for i in order]


def precisions() -> list[Precision]:
    """Those that this machine runs in hardware."""
    has_bf16 = torch.cpu.get_capabilities().get("avx512_bf16") or torch.cuda.is_available()
    runs: dict[Precision, bool] = {"fp32": True, "bf16": bool(has_bf16), "int8": has_vnni()}
    return [precision for precision, here in runs.items() if here]


def reference_embed(peers: dict[str, Any]) -> Embed:
    model = sentence_transformer(peers["sentence-transformers"])

    def embed(texts: Sequence[str]) -> NDArray[np.float32]:
        vectors: NDArray[np.float32] = model.encode(list(texts), normalize_embeddings=True)
        return vectors

    return embed


def passages_of(encoder: SentenceEncoder, texts: Sequence[str], count: int) -> list[str]:
    """`count` passages of as many tokens as the encoder takes, cut from the joined texts."""
    tokenizer = load_tokenizer(encoder.tokenizer_file, max_tokens=encoder.max_tokens)
    rest = " ".join(texts)
    passages = []
    for _ in range(count):
        window = tokenizer.encode(rest[:10_000])
        end = window.offsets[-2][1]
        passages.append(rest[:end])
        rest = rest[end:].lstrip()
    return passages


def speed(
    embedders: dict[str, Embed], passages: list[str], clock: Clock, rounds: int
) -> dict[str, dict[str, float]]:
    """Passages per second: median over the rounds, and the ratio to the reference."""
    seconds = interleaved({n: partial(e, passages) for n, e in embedders.items()}, clock, rounds)
    rates = {name: len(passages) / statistics.median(times) for name, times in seconds.items()}
    peer = rates.get(REFERENCE)
    return {
        name: {"passages_per_second": rate} | ({"ratio": rate / peer} if peer else {})
        for name, rate in rates.items()
    }


def query_latency(embedders: dict[str, Embed], clock: Clock) -> dict[str, float]:
    """Median milliseconds for one short question."""
    calls = {name: partial(embed, [QUESTION]) for name, embed in embedders.items()}
    return {
        name: 1000 * statistics.median(times)
        for name, times in interleaved(calls, clock, 50).items()
    }


def interleaved(
    calls: Mapping[str, Callable[[], object]], clock: Clock, rounds: int
) -> dict[str, list[float]]:
    """The seconds of each call, taken in turn, after one that does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for counts in [False] + [True] * rounds:
        for name, call in calls.items():
            start = clock()
            call()
            if counts:
                seconds[name].append(clock() - start)
    return seconds


def nearness(embedders: dict[str, Embed], texts: list[str]) -> dict[str, dict[str, float]]:
    """Least and mean cosine to the reference: sentence-transformers, or our fp32 without it."""
    reference = REFERENCE if REFERENCE in embedders else "pharos fp32"
    expected = embedders[reference](texts)
    cosines = {
        name: (embed(texts) * expected).sum(axis=1)
        for name, embed in embedders.items()
        if name != reference
    }
    return {
        f"{name} to {reference}": {"min": float(c.min()), "mean": float(c.mean())}
        for name, c in cosines.items()
    }


def limits(
    encoder: SentenceEncoder, precisions: Iterable[Precision], clock: Clock
) -> dict[str, dict[str, float]]:
    """What one large matrix product reaches, and what a 256-token passage needs."""
    needed = gigaflop_per_passage(encoder)
    peaks = {precision: peak_gigaflops(precision, clock) for precision in precisions}
    return {
        precision: {"peak_gflops": peak, "passages_per_second_at_peak": peak / needed}
        for precision, peak in peaks.items()
    }


def gigaflop_per_passage(encoder: SentenceEncoder) -> float:
    """Two operations for each weight of a linear and each product of attention, for each token."""
    config, tokens = encoder.config, encoder.max_tokens
    linears = 4 * config.hidden_size**2 + 2 * config.hidden_size * config.intermediate_size
    attention = 2 * tokens * config.hidden_size
    flops: float = 2 * tokens * config.num_hidden_layers * (linears + attention)
    return flops / 1e9


def peak_gigaflops(precision: Precision, clock: Clock, size: int = 2048) -> float:
    if precision == "int8":
        a_u8 = torch.randint(0, 255, (size, size), dtype=torch.uint8)
        weight, scale = quantize_weight(torch.randn(size, size))
        product = partial(int8_matmul, a_u8, pack_int8_weight(weight), scale)
    else:
        a = torch.randn(size, size).to(torch.bfloat16 if precision == "bf16" else torch.float32)
        product = partial(torch.matmul, a, a)
    seconds = interleaved({precision: product}, clock, 9)[precision]
    return float(2 * size**3 / min(seconds) / 1e9)


def render(result: dict[str, Any]) -> str:
    lines = [
        result["hardware"],
        f"{result['versions']}; {result['threads']} threads, {result['clock']}; "
        f"default here: {result['default']}",
        "",
        f"{'':28}{'passages/s':>12}{'ratio':>8}{'question ms':>13}",
    ]
    for name, row in result["speed"].items():
        ratio = f"{row['ratio']:.2f}" if "ratio" in row else "-"
        lines.append(
            f"{name:28}{row['passages_per_second']:12.1f}{ratio:>8}{result['query_ms'][name]:13.1f}"
        )
    lines += ["", f"cosine over {result['passages']} passages: least, mean"]
    lines += [f"{n:44}{c['min']:10.5f}{c['mean']:10.5f}" for n, c in result["cosine"].items()]
    lines += ["", "one large matrix product: GFLOP/s, passages/s if all ran at it, share used"]
    for precision, limit in result["limit"].items():
        used = result["speed"][f"pharos {precision}"]["passages_per_second"]
        at_peak = limit["passages_per_second_at_peak"]
        lines.append(
            f"{precision:28}{limit['peak_gflops']:10.0f}{at_peak:10.0f}{used / at_peak:10.0%}"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
