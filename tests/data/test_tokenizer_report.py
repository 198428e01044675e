from collections.abc import Iterator

import pytest
import tokenizers
from tokenizers import models, pre_tokenizers

from pharos.data.tokenizer import Tokenizer
from pharos.data.tokenizer_report import TEXTS_AT_ONCE, measure


@pytest.fixture
def tokenizer() -> Tokenizer:
    """Knows two words of five tokens, and says `?` of others."""
    vocab = {"?": 0, "lamp": 1, "tower": 2, "dusk": 3, "sea": 4}
    backend = tokenizers.Tokenizer(models.WordLevel(vocab, unk_token="?"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    return Tokenizer(backend)


def test_tokens_are_counted_against_words_and_bytes(tokenizer: Tokenizer) -> None:
    report = measure(tokenizer, ["lamp tower!", "été lamp"])
    assert (report.texts, report.words, report.bytes, report.tokens) == (2, 4, 21, 5)
    assert report.fertility == 5 / 4
    assert report.bytes_per_token == 21 / 5
    assert report.unknown_rate == 2 / 5  # "!" and "été"
    assert report.vocabulary_used == 3 / 5


def test_no_text_has_ratios_of_zero(tokenizer: Tokenizer) -> None:
    report = measure(tokenizer, [])
    assert (report.fertility, report.bytes_per_token, report.unknown_rate) == (0, 0, 0)


def test_texts_are_taken_some_at_a_time(tokenizer: Tokenizer) -> None:
    def texts() -> Iterator[str]:
        yield from ["lamp"] * (2 * TEXTS_AT_ONCE + 1)

    assert measure(tokenizer, texts()).tokens == 2 * TEXTS_AT_ONCE + 1
