"""The public data sets that the benchmarks run on, read from a folder.

Nothing of them is part of the project. The folder is `--data`, else `$PHAROS_DATA`, else `./data`.
"""

import argparse
import gzip
import json
import os
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CRANFIELD_GAINS = {1: 4.0, 2: 3.0, 3: 2.0, 4: 1.0}
"""Code 1 is a complete answer, 4 of minimum interest; the file's -1 is Cleverdon's 5: none."""


@dataclass(frozen=True, slots=True)
class Text:
    """A text to be retrieved. `title` is empty where the set has none."""

    id: str
    title: str
    body: str


@dataclass(frozen=True, slots=True)
class RetrievalSet:
    """`relevant[i]` maps the ids of the texts that answer `queries[i]` to their gain."""

    name: str
    texts: list[Text]
    queries: list[str]
    relevant: list[dict[str, float]]


def add_data_argument(parser: argparse.ArgumentParser) -> None:
    default = Path(os.environ.get("PHAROS_DATA", "data"))
    parser.add_argument("--data", type=Path, default=default, help=f"data sets [{default}]")


def cranfield(data: Path) -> RetrievalSet:
    """1,400 abstracts and 225 queries. Judgements name a query by its place in the file, counted
    from 1, and not by its `.I` number."""
    folder = _existing(data / "cranfield")
    documents = list(_smart_records(folder / "cran.all.1400"))
    queries = [fields["W"] for fields in _smart_records(folder / "cran.qry")]
    relevant: list[dict[str, float]] = [{} for _ in queries]
    for line in (folder / "cranqrel").read_text().splitlines():
        query, document, code = line.split()
        if gain := CRANFIELD_GAINS.get(int(code)):
            relevant[int(query) - 1][document] = gain
    texts = [Text(fields["I"], fields["T"], fields["W"]) for fields in documents]
    return RetrievalSet("Cranfield", texts, queries, relevant)


def squad(data: Path, split: str = "dev") -> RetrievalSet:
    """SQuAD v1.1: every paragraph a text without a title; a question asks for its paragraph."""
    texts = []
    queries = []
    relevant = []
    for article in squad_articles(data, split):
        for number, paragraph in enumerate(article["paragraphs"]):
            text_id = f"{article['title']}-{number}"
            texts.append(Text(text_id, "", paragraph["context"]))
            for question in paragraph["qas"]:
                queries.append(question["question"].strip())
                relevant.append({text_id: 1.0})
    return RetrievalSet("SQuAD", texts, queries, relevant)


def squad_articles(data: Path, split: str = "dev") -> list[dict[str, Any]]:
    path = _existing(data / "squad" / f"{split}-v1.1.reconstructed.json.gz")
    with gzip.open(path, "rt", encoding="utf-8") as file:
        articles: list[dict[str, Any]] = json.load(file)["data"]
    return articles


def hotpotqa(data: Path) -> RetrievalSet:
    """100 questions of HotpotQA, each with the two Wikipedia paragraphs that it takes."""
    folder = _existing(data / "multihop")
    corpus = json.loads((folder / "hotpotqa_train_corpus.json").read_text(encoding="utf-8"))
    questions = json.loads((folder / "hotpotqa_train.json").read_text(encoding="utf-8"))
    return RetrievalSet(
        "HotpotQA",
        [Text(title, title, "".join(sentences)) for title, sentences in corpus.items()],
        [question["question"].strip() for question in questions],
        [{title: 1.0 for title, _ in question["supporting_facts"]} for question in questions],
    )


def _smart_records(path: Path) -> Iterator[dict[str, str]]:
    """Records of a file in SMART's format: `.I` begins one, `.T`, `.A`, `.B`, `.W` its fields."""
    for record in re.split(r"^\.I ", path.read_text(), flags=re.MULTILINE)[1:]:
        number, *fields = re.split(r"^\.([TABW])\s*$", record, flags=re.MULTILINE)
        values = defaultdict(str, I=number.strip())
        for name, value in zip(fields[::2], fields[1::2], strict=True):
            values[name] += " ".join(value.split())
        yield values


def _existing(path: Path) -> Path:
    if not path.exists():
        raise SystemExit(f"{path} is not there: say where the data sets are with --data DIR")
    return path
