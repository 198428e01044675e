"""The pieces of a stream add up to the text of the whole, whatever the tokenizer, whatever the
ids."""

from collections.abc import Callable
from functools import cache

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import decoders, models, normalizers

from pharos.data.detokenize import StreamDecoder, token_bytes
from pharos.data.tokenizer import Tokenizer
from pharos.data.train_tokenizer import Kind, TokenizerConfig, train_tokenizer

TEXTS = ["The keeper's lamp, lit at 9:30, isn't out.", "  héllo wörld 🗼 灯台 ", "a\tb\nc"] * 10
REPLACEMENT = "\ufffd"


@cache
def trained(kind: Kind) -> Tokenizer:
    return train_tokenizer(TEXTS, TokenizerConfig(kind=kind, vocab_size=400, min_frequency=1))


@cache
def llama_2() -> Tokenizer:
    """BPE that writes what it does not know in bytes, and puts a blank before the first word."""
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    letters = sorted({*"".join(TEXTS), "▁"} - set("灯台🗼\n\t "))
    vocab = {token: i for i, token in enumerate([*tokens, *letters, "▁▁", "▁t", "he", "▁the"])}
    merges = [("▁", "▁"), ("▁", "t"), ("h", "e"), ("▁t", "he")]
    backend = tokenizers.Tokenizer(
        models.BPE(vocab=vocab, merges=merges, unk_token="<unk>", byte_fallback=True)
    )
    backend.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    backend.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    backend.add_special_tokens(["<unk>", "<s>", "</s>"])
    return Tokenizer(backend)


def with_decoder(decoder: object) -> Tokenizer:
    backend = tokenizers.Tokenizer(models.WordLevel({"▁a": 0, "b</w>": 1, "▁": 2, "c": 3}, "c"))
    backend.decoder = decoder
    return Tokenizer(backend)


TOKENIZERS: dict[str, Callable[[], Tokenizer]] = {
    "bpe": lambda: trained("bpe"),
    "wordpiece": lambda: trained("wordpiece"),
    "unigram": lambda: trained("unigram"),
    "llama-2": llama_2,
    "t5": lambda: with_decoder(decoders.Metaspace()),
    "gpt-1": lambda: with_decoder(decoders.BPEDecoder()),
    "none": lambda: with_decoder(None),
    "ctc": lambda: with_decoder(decoders.CTC()),
}


def streamed(tokenizer: Tokenizer, ids: list[int], *, skip_special: bool = True) -> list[str]:
    decoder = StreamDecoder(tokenizer, skip_special=skip_special)
    return [*(decoder.push(id_) for id_ in ids), decoder.flush()]


@pytest.mark.parametrize("name", TOKENIZERS)
@given(data=st.data(), skip_special=st.booleans())
def test_the_pieces_add_up_to_the_whole(name: str, data: st.DataObject, skip_special: bool) -> None:
    tokenizer = TOKENIZERS[name]()
    ids = data.draw(st.lists(st.integers(0, tokenizer.vocab_size), max_size=20))
    pieces = streamed(tokenizer, ids, skip_special=skip_special)
    assert "".join(pieces) == tokenizer.decode(ids, skip_special=skip_special)


@pytest.mark.parametrize("name", ["bpe", "unigram", "llama-2"])
@given(text=st.text())
def test_a_text_streams_back_and_no_piece_has_half_a_character(name: str, text: str) -> None:
    tokenizer = TOKENIZERS[name]()
    ids = tokenizer.encode(text, add_special_tokens=False)
    pieces = streamed(tokenizer, ids, skip_special=False)
    assert "".join(pieces) == text.replace("▁", " " if name != "bpe" else "▁")
    assert all(REPLACEMENT not in piece for piece in pieces) or REPLACEMENT in text


def test_a_piece_comes_as_soon_as_it_is_certain() -> None:
    tokenizer = trained("bpe")
    ids = [tokenizer.token_id(token) or 0 for token in ("a", "ç", "ģ", "¯", "b")]
    assert [token_bytes(tokenizer.token(id_) or "") for id_ in ids[1:4]] == [
        b"\xe7",
        b"\x81",
        b"\xaf",
    ]
    assert streamed(tokenizer, ids) == ["a", "", "", "灯", "b", ""]


def test_a_run_of_byte_tokens_is_held_until_it_ends() -> None:
    tokenizer = llama_2()
    first, second, third = (tokenizer.token_id(t) or 0 for t in ("<0xE7>", "<0x81>", "<0xAF>"))
    letter = tokenizer.token_id("a") or 0
    assert streamed(tokenizer, [first, second, third, letter]) == ["", "", "", "灯a", ""]
    assert streamed(tokenizer, [first, second, letter]) == ["", "", "\ufffd\ufffda", ""]


def test_the_blank_before_the_first_word_is_not_shown_and_later_ones_are() -> None:
    tokenizer = llama_2()
    assert streamed(tokenizer, tokenizer.encode("the the")) == ["the", " the", ""]


def test_special_tokens_are_left_out_unless_asked_for() -> None:
    tokenizer = trained("unigram")
    ids = tokenizer.encode("a")
    assert "".join(streamed(tokenizer, ids)) == "a"
    assert "".join(streamed(tokenizer, ids, skip_special=False)) == "<s>a"


def test_what_is_flushed_is_gone() -> None:
    decoder = StreamDecoder(trained("bpe"))
    decoder.push(trained("bpe").token_id("ç") or 0)
    assert decoder.flush() == REPLACEMENT
    assert decoder.flush() == ""
