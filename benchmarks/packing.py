"""How full the rows of best-fit packing are, with real documents.

    python -m benchmarks.packing [--data DIR]

The lines of WikiText-2 and 3 MB of Wikipedia's paragraphs (`wikitext2` and `text_corpora` below the
folder of data sets), in tokens of a BPE of 8,192 that is learned from the former, each followed by
one token for its end.
"""

import argparse
import gzip
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from benchmarks.datasets import add_data_argument

from pharos.data.packing import BestFitRows
from pharos.data.token_source import TokenArrays
from pharos.data.tokenizer import Tokenizer
from pharos.data.train_tokenizer import TokenizerConfig, train_tokenizer

ROW_LENGTHS = (256, 512, 1024)
LEARNED_FROM = 1500
PARAGRAPHS = "wikipedia_squad_train_contexts.txt.gz"


def lines(data: Path) -> list[str]:
    texts = [path.read_text(encoding="utf-8") for path in sorted((data / "wikitext2").iterdir())]
    return [line for text in texts for line in text.splitlines() if line.strip()]


def paragraphs(data: Path) -> list[str]:
    with gzip.open(data / "text_corpora" / PARAGRAPHS, "rt", encoding="utf-8") as file:
        text = file.read(3_000_000)
    return [paragraph for paragraph in text.split("\n\n") if paragraph.strip()]


def report(name: str, texts: Sequence[str], tokenizer: Tokenizer) -> list[str]:
    lengths = [len(tokenizer.encode(text)) + 1 for text in texts]
    source = TokenArrays.of_documents([np.zeros(length, np.int32) for length in lengths])
    packed = [(length, BestFitRows(source, length).report) for length in ROW_LENGTHS]
    return [
        f"{name:22} {len(texts):,} documents, rows of {length:5,}: {found.num_rows:5,} rows, "
        f"{found.num_cut:4,} documents cut, {found.utilisation:.2%} of the places hold a token"
        for length, found in packed
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description="How full the rows of best-fit packing are.")
    add_data_argument(parser)
    data = parser.parse_args().data
    found = lines(data)
    config = TokenizerConfig(vocab_size=8192)
    tokenizer = train_tokenizer(found[:LEARNED_FROM], config)
    print(*report("WikiText-2, lines", found, tokenizer), sep="\n")
    print(*report("Wikipedia, paragraphs", paragraphs(data), tokenizer), sep="\n")


if __name__ == "__main__":
    main()
