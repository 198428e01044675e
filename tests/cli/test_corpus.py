"""From documents to shards on the command line, and a look into them."""

import json
from itertools import pairwise
from pathlib import Path

import pytest

from pharos.data.shards import Shards
from pharos.data.tokenizer import Tokenizer
from pharos.data.train_tokenizer import TokenizerConfig, train_tokenizer


def text(number: int) -> str:
    """Sentences of words that occur in no other text, but for a few that all English has."""
    words = [f"{'aeiou'[i % 5]}l{'bdfgk'[i // 5]}{'aeiou'[number % 5]}{number}" for i in range(25)]
    told = ". ".join(f"the {a} of {b} and {b}{a}" for a, b in pairwise(words))
    return f"Lamp {number} is lit. {told}."


TEXTS = [text(number) for number in range(30)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Texts to be read, and a tokenizer that can write them."""
    (tmp_path / "texts").mkdir()
    lines = "".join(json.dumps({"text": text}) + "\n" for text in [*TEXTS, TEXTS[0], "short"])
    (tmp_path / "texts" / "a.jsonl").write_text(lines)
    (tmp_path / "texts" / "b.pdf").write_bytes(b"%PDF-1.7 broken")
    train_tokenizer(TEXTS, TokenizerConfig(vocab_size=300)).save(tmp_path / "tokenizer")
    return tmp_path


def build(pharos, folder: Path, *options: object, out: str = "out"):
    return pharos(
        *("corpus", "build", folder / "texts", "--tokenizer", folder / "tokenizer"),
        *("--out", folder / out, *options),
    )


def test_building_tells_what_was_kept_and_what_was_not(pharos, folder) -> None:
    run = build(pharos, folder, "--json", "--workers", "1")
    facts = json.loads(run.out)
    assert facts["texts"]["read"] == 32
    assert facts["texts"]["exact_duplicates"] == 1
    assert facts["texts"]["low_quality"] == {"min_words": 1}
    assert facts["texts"]["kept"] == facts["documents"] == 30
    assert [failure["source"][-5:] for failure in facts["failures"]] == ["b.pdf"]
    shards = Shards.open(folder / "out")
    assert facts["tokens"] == shards.num_tokens
    tokenizer = Tokenizer.load(folder / "tokenizer")
    assert tokenizer.decode(shards.document(7).tolist()) == TEXTS[7].rstrip()


def test_the_same_for_people(pharos, folder) -> None:
    run = build(pharos, folder)
    assert run.code == 0
    assert "documents: 30" in run.out
    assert "low_quality: min_words 1" in run.out
    assert "b.pdf" in run.err


def test_the_number_of_workers_changes_nothing(pharos, folder) -> None:
    for workers in (1, 2):
        build(pharos, folder, "--workers", workers, out=f"out{workers}")
    one, two = (Shards.open(folder / f"out{workers}").index for workers in (1, 2))
    assert one == two


def test_every_stage_can_be_switched_off(pharos, folder) -> None:
    run = build(
        pharos,
        folder,
        *("--no-clean", "--no-dedup", "--no-quality", "--no-eos", "--bos", "--json"),
        *("--tokens-per-shard", 1000),
    )
    facts = json.loads(run.out)
    assert facts["documents"] == 32
    assert facts["files"] > 1
    shards = Shards.open(folder / "out")
    tokenizer = shards.tokenizer()
    assert shards.document(0)[0] == tokenizer.bos_id
    assert tokenizer.decode(shards.document(31)[1:].tolist()) == "short"


def test_a_plain_text_is_divided_by_lines(pharos, folder) -> None:
    (folder / "texts" / "a.jsonl").unlink()
    (folder / "texts" / "lines.txt").write_text("\n".join(TEXTS))
    run = build(pharos, folder, "--document", "line", "--json")
    assert json.loads(run.out)["documents"] == 30


def test_showing_tells_counts_and_how_documents_begin(pharos, folder) -> None:
    build(pharos, folder)
    facts = json.loads(pharos("corpus", "show", folder / "out", "--check", "--json").out)
    assert facts["documents"] == 30
    assert [sample["document"] for sample in facts["samples"]] == [0, 10, 20]
    assert facts["samples"][1]["text"].startswith("Lamp 10 is lit")
    run = pharos("corpus", "show", folder / "out", "--samples", "1")
    assert "vocab_size: 300" in run.out
    assert run.out.count("begins: Lamp") == 1


def test_wrong_use_is_one_line(pharos, folder) -> None:
    build(pharos, folder)
    for run, code, says in (
        (build(pharos, folder), 1, "holds token shards already"),
        (build(pharos, folder, out="texts/out"), 2, "lies in"),
        (build(pharos, folder, "--near", "0.1", out="b"), 2, "threshold is 0.1"),
        (pharos("corpus", "show", folder), 1, "has no index.json"),
    ):
        assert (run.code, run.out) == (code, "")
        assert says in run.err
    (folder / "texts" / "a.jsonl").unlink()
    run = build(pharos, folder, out="c")
    assert run.code == 1
    assert "no document is left" in run.err


def test_where_nothing_is_kept_it_is_told_why(pharos, folder) -> None:
    (folder / "texts" / "a.jsonl").write_text('{"text": "short"}\n' * 3)
    run = build(pharos, folder)
    assert run.code == 1
    assert "none of 3 texts was kept: exact_duplicates 2, min_words 1" in run.err
