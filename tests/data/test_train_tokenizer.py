"""What is learned writes any text, is the same every time, and is read alike by transformers."""

import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pharos.core import DocumentError, ModelError
from pharos.data.tokenizer import Tokenizer
from pharos.data.train_tokenizer import (
    SPECIAL_TOKENS,
    Kind,
    TextFiles,
    TokenizerConfig,
    train_tokenizer,
)

transformers = pytest.importorskip("transformers")

KINDS = get_args(Kind)
TEXTS = [
    "The keeper lights the lamp at dusk; it's seen for 300 stades.\n",
    "Une lumière guide les navires, même l'été.\n",
    "灯台の光。\tThe keeper's lighting lights, unlit.\n",
] * 20
TEXT = st.text() | st.sampled_from(TEXTS) | st.text(alphabet="aé 灯\n▁#Ġ<s>'1")
HASH_OF_TRAINED = """
import hashlib, sys
from pharos.data.train_tokenizer import TokenizerConfig, train_tokenizer
texts = [f"{a}{b} {b}-{a}é {a*b}" for a in range(97, 300) for b in range(3)]
texts += [" ".join(chr(c) + chr(c + 1) for c in range(97, 400, 3))]
config = TokenizerConfig(kind=sys.argv[1], vocab_size=900, min_frequency=1)
tokenizer = train_tokenizer(texts, config)
print(hashlib.sha256(tokenizer.backend.to_str().encode()).hexdigest())
"""


@cache
def trained(kind: Kind, special_tokens: tuple[str, ...] = ()) -> Tokenizer:
    config = TokenizerConfig(
        kind=kind, vocab_size=400, min_frequency=1, special_tokens=special_tokens
    )
    return train_tokenizer(TEXTS, config)


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
@given(text=TEXT)
def test_a_text_comes_back_as_it_was(kind: Kind, text: str) -> None:
    """But for the one character that Unigram writes a blank with."""
    text = text.replace("▁", "") if kind == "unigram" else text
    tokenizer = trained(kind)
    ids = tokenizer.encode(text, add_special_tokens=False)
    assert tokenizer.decode(ids, skip_special=False) == text


@given(text=st.text(alphabet=sorted(set("".join(TEXTS)))))
def test_each_character_is_a_token_by_code_point(text: str) -> None:
    tokenizer = trained("characters")
    alphabet = sorted(set("".join(TEXTS)))
    assert tokenizer.encode(text) == [alphabet.index(character) for character in text]
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.vocab_size == len(alphabet)


def test_a_character_that_was_not_learned_is_an_error() -> None:
    with pytest.raises(ModelError, match="no token for what was not learned"):
        trained("characters").encode("The Ω")
    with pytest.raises(ModelError, match="vocab_size is 3, and the texts have 4 different"):
        train_tokenizer(["abca\n"], TokenizerConfig(kind="characters", vocab_size=3))


def test_wordpiece_gives_back_clean_words_in_lower_case() -> None:
    tokenizer = trained("wordpiece")
    assert tokenizer.decode(tokenizer.encode("The KEEPER  été")) == "the keeper ete"
    assert tokenizer.encode("Ω") == [2, 1, 3]  # [CLS] [UNK] [SEP]


def test_wordpiece_keeps_case_and_accents_where_told() -> None:
    config = TokenizerConfig(kind="wordpiece", vocab_size=400, lowercase=False)
    tokenizer = train_tokenizer(TEXTS, config)
    assert tokenizer.decode(tokenizer.encode("The été")) == "The été"
    assert tokenizer.encode("KEEPER") == [2, 1, 3]


@pytest.mark.parametrize("kind", KINDS)
def test_transformers_reads_what_is_saved_and_finds_the_same_ids(
    kind: Kind, tmp_path: Path
) -> None:
    ours = trained(kind, ("<|im_start|>", "<|im_end|>"))
    ours.save(tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    texts = (*TEXTS[:3], "<|im_start|>user\nlighter.<|im_end|>", "", "  the  lights 台")
    for text in (*texts, *(() if kind == "characters" else ("what? 🗼",))):
        assert ours.encode(text) == theirs.encode(text)
        ids = ours.encode(text)
        assert ours.decode(ids, skip_special=False) == theirs.decode(ids)
        assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=True)
    assert len(theirs) == ours.vocab_size
    for role, token in SPECIAL_TOKENS[kind].items():
        assert getattr(theirs, f"{role}_token") == token
        assert getattr(theirs, f"{role}_token_id") == ours.special_id(role)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_saved_loads_as_it_was(kind: Kind, tmp_path: Path) -> None:
    before = trained(kind)
    before.save(tmp_path)
    after = Tokenizer.load(tmp_path)
    assert after.backend.to_str() == before.backend.to_str()
    assert after.special_tokens == before.special_tokens
    assert after.eos_ids == before.eos_ids


@pytest.mark.parametrize("kind", KINDS)
def test_special_tokens_come_first_and_are_never_cut(kind: Kind) -> None:
    tokenizer = trained(kind, ("<|im_end|>", "two words"))
    named = [*dict.fromkeys(SPECIAL_TOKENS[kind].values()), "<|im_end|>", "two words"]
    assert [tokenizer.token(id_) for id_ in range(len(named))] == named
    ids = tokenizer.encode("a<|im_end|>two words", add_special_tokens=False)
    assert ids[-2:] == [len(named) - 2, len(named) - 1]
    assert tokenizer.special_ids == set(range(len(named)))


@pytest.mark.parametrize("kind", KINDS)
def test_the_vocabulary_has_the_size_asked_for(kind: Kind) -> None:
    texts = [f"{word} {other}" for word in "abcdefghijk" * 9 for other in range(60)]
    for size in (320, 340):
        config = TokenizerConfig(kind=kind, vocab_size=size, min_frequency=1)
        assert train_tokenizer(texts, config).vocab_size <= size
    assert len(trained(kind).vocabulary()) == trained(kind).vocab_size <= 400
    assert sorted(trained(kind).vocabulary().values()) == list(range(trained(kind).vocab_size))


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_texts_give_the_same_vocabulary_in_every_process(kind: Kind) -> None:
    runs = [[sys.executable, "-c", HASH_OF_TRAINED, kind]] * 3
    hashes = {subprocess.run(r, capture_output=True, check=True).stdout for r in runs}
    assert len(hashes) == 1


def test_a_pair_that_is_too_rare_becomes_no_token() -> None:
    texts = ["zq"] * 4 + ["xy"] * 5
    config = TokenizerConfig(kind="bpe", vocab_size=300, min_frequency=5)
    vocabulary = train_tokenizer(texts, config).vocabulary()
    assert "xy" in vocabulary
    assert "zq" not in vocabulary


def test_no_token_spans_two_words_or_four_digits() -> None:
    tokenizer = train_tokenizer(["of the 1234567 of the"] * 99, TokenizerConfig(vocab_size=400))
    pieces = [tokenizer.decode([piece.id]) for piece in tokenizer.pieces("of the 1234567")]
    assert pieces == ["of", " the", " ", "123", "456", "7"]


def test_files_are_read_line_by_line_and_what_was_read_is_told(tmp_path: Path) -> None:
    paths = [tmp_path / "a.txt", tmp_path / "b.txt"]
    paths[0].write_text("one\ntwo", encoding="utf-8")
    paths[1].write_bytes("drei\r\né".encode())
    told: list[int] = []
    files = TextFiles(paths, on_bytes=told.append)
    assert list(files) == list(files) == ["one\n", "two", "drei\r\n", "é"]
    assert told == [7, 8] * 2


def test_a_file_that_is_no_text_is_named(tmp_path: Path) -> None:
    path = tmp_path / "latin.txt"
    path.write_bytes(b"caf\xe9")
    with pytest.raises(DocumentError, match=r"latin\.txt is not a text in UTF-8"):
        train_tokenizer(TextFiles([path]), TokenizerConfig())


@pytest.mark.parametrize("kind", KINDS)
def test_no_text_at_all_is_an_error_that_says_so(kind: Kind) -> None:
    with pytest.raises(ModelError, match="no text to learn from"):
        train_tokenizer(["", "  "], TokenizerConfig(kind=kind, vocab_size=300))


def test_an_iterator_will_do_where_one_walk_is_enough() -> None:
    config = TokenizerConfig(vocab_size=300, min_frequency=1)
    assert train_tokenizer(iter(TEXTS), config).vocab_size == 300
    with pytest.raises(ValueError, match="which can be walked once"):
        train_tokenizer(iter(TEXTS), TokenizerConfig(kind="wordpiece"))


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"kind": "sentencepiece"}, "choose from bpe, wordpiece, unigram, characters"),
        ({"vocab_size": 256}, "at least 258"),
        ({"kind": "wordpiece", "vocab_size": 5}, "at least 6"),
        ({"min_frequency": 0}, "min_frequency is 0"),
        ({"special_tokens": ("",)}, "a special token is empty"),
    ],
)
def test_a_setting_that_cannot_be_is_refused(values: dict[str, object], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        TokenizerConfig(**values)
