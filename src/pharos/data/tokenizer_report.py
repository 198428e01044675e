"""How well a vocabulary fits a text."""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice

from pharos.data.tokenizer import Tokenizer

TEXTS_AT_ONCE = 1000


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenizerReport:
    """What was counted, without special tokens around the texts. A word is what stands between
    white space; in a script that has none, look at `bytes_per_token`. `used` tokens of the
    `vocab_size` occurred. Of no text at all, the ratios are 0."""

    texts: int
    words: int
    bytes: int
    tokens: int
    unknown: int
    used: int
    vocab_size: int

    @property
    def fertility(self) -> float:
        """Tokens per word; 1 is the least, English text in a good vocabulary has 1.3."""
        return self.tokens / max(self.words, 1)

    @property
    def bytes_per_token(self) -> float:
        """How much text, in UTF-8, a token carries: the higher, the shorter the sequences."""
        return self.bytes / max(self.tokens, 1)

    @property
    def unknown_rate(self) -> float:
        """The share of tokens that stand for what the vocabulary cannot write."""
        return self.unknown / max(self.tokens, 1)

    @property
    def vocabulary_used(self) -> float:
        """The share of the vocabulary that occurred."""
        return self.used / max(self.vocab_size, 1)


def measure(tokenizer: Tokenizer, texts: Iterable[str]) -> TokenizerReport:
    """Encodes the texts, some at a time, and counts."""
    seen, unk_id, remaining = set[int](), tokenizer.unk_id, iter(texts)
    counted = words = bytes_ = tokens = unknown = 0
    while batch := list(islice(remaining, TEXTS_AT_ONCE)):
        counted += len(batch)
        words += sum(len(text.split()) for text in batch)
        bytes_ += sum(len(text.encode()) for text in batch)
        for ids in tokenizer.encode_batch(batch, add_special_tokens=False):
            tokens += len(ids)
            unknown += ids.count(unk_id) if unk_id is not None else 0
            seen.update(ids)
    return TokenizerReport(
        texts=counted,
        words=words,
        bytes=bytes_,
        tokens=tokens,
        unknown=unknown,
        used=len(seen),
        vocab_size=tokenizer.vocab_size,
    )
