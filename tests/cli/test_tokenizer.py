import io
import json
from pathlib import Path

import pytest

from pharos.data.tokenizer import Tokenizer

LINES = [
    f"The keeper lights lamp {number} at dusk, and the tower shines.\n" for number in range(300)
]


@pytest.fixture
def corpus_file(tmp_path: Path) -> Path:
    path = tmp_path / "corpus.txt"
    path.write_text("".join(LINES), encoding="utf-8")
    return path


@pytest.fixture
def folder(pharos, corpus_file: Path, tmp_path: Path) -> Path:
    out = tmp_path / "harbour"
    run = pharos(
        *("tokenizer", "train", corpus_file, "--vocab-size", 300, "--out", out),
        *("--special", "<|end|>"),
    )
    assert run.code == 0
    return out


def test_training_writes_a_tokenizer_and_tells_how_it_fits_lines_it_has_not_seen(
    pharos, corpus_file, tmp_path
) -> None:
    out = tmp_path / "out"
    run = pharos("tokenizer", "train", corpus_file, "--vocab-size", "300", "--out", out, "--json")
    facts = json.loads(run.out)
    assert facts["vocab_size"] == Tokenizer.load(out).vocab_size == 300
    assert facts["held_out"]["lines"] == 3
    assert 1 < facts["held_out"]["tokens_per_word"] < 3
    assert facts["held_out"]["unknown_rate"] == 0
    assert facts["special_tokens"] == {"<|endoftext|>": 0}


@pytest.mark.parametrize("kind", ["wordpiece", "unigram"])
def test_every_kind_can_be_trained(pharos, corpus_file, tmp_path, kind: str) -> None:
    out = tmp_path / "out"
    run = pharos(
        *("tokenizer", "train", corpus_file, "--kind", kind, "--vocab-size", "300"), "--out", out
    )
    assert run.code == 0
    assert f"kind: {Tokenizer.load(out).kind}" in run.out
    assert "tokens_per_word" in run.out


def test_characters_are_all_learned_and_none_is_held_out(pharos, corpus_file, tmp_path) -> None:
    out = tmp_path / "out"
    run = pharos("tokenizer", "train", corpus_file, "--kind", "characters", "--out", out, "--json")
    assert "held_out" not in json.loads(run.out)
    assert Tokenizer.load(out).vocab_size == len(set("".join(LINES)))
    assert run.err == ""


def test_a_few_lines_are_all_learned_from(pharos, tmp_path) -> None:
    path = tmp_path / "short.txt"
    path.write_text("the lamp\n", encoding="utf-8")
    run = pharos("tokenizer", "train", path, "--vocab-size", "300", "--out", tmp_path / "out")
    assert run.code == 0
    assert "held_out" not in run.out


def test_a_vocabulary_that_the_texts_do_not_fill_is_told(pharos, corpus_file, tmp_path) -> None:
    run = pharos("tokenizer", "train", corpus_file, "--out", tmp_path / "out")
    assert run.code == 0
    size = Tokenizer.load(tmp_path / "out").vocab_size
    assert f"the texts filled {size} of 32,000 tokens" in run.err


def test_a_tokenizer_is_not_written_over(pharos, folder, corpus_file) -> None:
    run = pharos("tokenizer", "train", corpus_file, "--vocab-size", "300", "--out", folder)
    assert run.code == 2
    assert "holds a tokenizer already" in run.err


def test_what_cannot_be_trained_on_is_one_line(pharos, tmp_path) -> None:
    (tmp_path / "blank.txt").write_text(" \n", encoding="utf-8")
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    for name, says in (
        ("none.txt", "No such file"),
        ("blank.txt", "no text"),
        ("latin.txt", "UTF-8"),
    ):
        run = pharos("tokenizer", "train", tmp_path / name, "--out", tmp_path / "out")
        assert (run.code, run.out) == (1, "")
        assert len(run.err.splitlines()) == 1
        assert says in run.err
    run = pharos("tokenizer", "train", tmp_path / "blank.txt", "--vocab-size", "9", "--out", "x")
    assert run.code == 2
    assert "vocab_size is 9" in run.err


def test_the_tokens_of_a_text_are_shown_with_their_ids(pharos, folder) -> None:
    run = pharos("tokenizer", "encode", folder, "The lamp\n🗼<|end|>")
    ids = Tokenizer.load(folder).encode("The lamp\n🗼<|end|>")
    assert [int(word) for word in run.out.split() if word.isdigit()] == ids
    assert "·lamp" in run.out
    assert "⏎" in run.out
    assert run.out.count("🗼") == 1
    assert "<|end|> 1" in run.out
    assert f"{len(ids)} tokens, 17 characters" in run.err


def test_the_tokens_as_json_say_where_they_stand(pharos, folder) -> None:
    text = "The keeper"
    encoded = json.loads(pharos("tokenizer", "encode", folder, text, "--json").out)
    assert encoded["ids"] == Tokenizer.load(folder).encode(text)
    assert "".join(text[p["start"] : p["end"]] for p in encoded["pieces"]) == text


def test_a_text_may_come_from_stdin(pharos, folder, monkeypatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("The lamp"))
    ids = json.loads(pharos("tokenizer", "encode", folder, "--json").out)["ids"]
    assert ids == Tokenizer.load(folder).encode("The lamp")


def test_special_tokens_are_around_a_text_unless_told_otherwise(pharos) -> None:
    for options, ids in (((), [101, 3231, 102]), (("--no-special",), [3231])):
        run = pharos("tokenizer", "encode", "all-MiniLM-L6-v2", "test", "--json", *options)
        assert json.loads(run.out)["ids"] == ids


def test_a_hostile_text_steers_no_terminal(pharos, folder, monkeypatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    run = pharos("tokenizer", "encode", folder, "a\x1b]0;owned\x07\u202e[bold]b[/bold]")
    assert "\x1b]0;" not in run.out
    assert "\u202e" not in run.out


def test_inspecting_shows_what_a_tokenizer_is_made_of(pharos, folder, corpus_file) -> None:
    (folder / "chat_template.jinja").write_text("x")
    facts = json.loads(pharos("tokenizer", "inspect", folder, corpus_file, "--json").out)
    assert facts["kind"] == "BPE"
    assert facts["vocab_size"] == 300
    assert facts["special_tokens"] == {"<|endoftext|>": 0, "<|end|>": 1}
    assert facts["roles"]["eos"] == "<|endoftext|>"
    assert facts["chat_templates"] == ["default"]
    assert len(facts["longest_tokens"][0]) >= 5
    assert facts["on_files"]["lines"] == 300
    run = pharos("tokenizer", "inspect", folder)
    assert "special_tokens: <|endoftext|> 0, <|end|> 1" in run.out
    assert "chat_templates: 'default'" in run.out
    assert "on_files" not in run.out


def test_a_model_without_a_tokenizer_is_one_line(pharos, tmp_path) -> None:
    for command in ("inspect", "encode"):
        run = pharos("tokenizer", command, tmp_path, *(["x"] if command == "encode" else []))
        assert run.code == 1
        assert "no tokenizer.json" in run.err
        assert pharos("tokenizer", command, "nowhere", "x").code == 1
