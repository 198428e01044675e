"""Which texts are worth training on: rules of thumb, each of which says what it saw.

Gopher's rules (Rae et al. 2021, arXiv:2112.11446, table A1) look at words, symbols and repetition;
C4's (Raffel et al. 2019, arXiv:1910.10683) at sentences and placeholder text. Their figures are for
web pages in English. For another language name its `stop_words`; for code most of them make no
sense: `QualityConfig.off()`, with those that do.

A rule is a field of `QualityConfig`, `min_` or `max_` and the name of a measure of `Measured`.
`None` switches it off. They are tried in the order of the fields, the cheap ones first, and the
first that a text breaks is told.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Self

import numpy as np
from numpy.typing import NDArray

Limits = Mapping[int, float]
"""By the number of words of an n-gram, a share of the characters."""

STOP_WORDS = frozenset({"the", "be", "to", "of", "and", "that", "have", "with"})
_SYMBOLS = re.compile(r"#|\.\.\.|…")
_BULLETS = ("-", "•", "*", "‣", "◦", "–")
_ELLIPSES = ("...", "…")
_SENTENCE_END = re.compile(r"[.!?](?=[\s\"'”’)\]]|$)")
_PARAGRAPHS = re.compile(r"\n\s*\n")
_LETTER = re.compile(r"[^\W\d_]")
_PLACEHOLDER = "lorem ipsum"


@dataclass(frozen=True, kw_only=True, slots=True)
class QualityConfig:
    """What a text must be like. Shares are from 0 to 1; a limit of an n-gram is by its words."""

    min_words: float | None = 50
    max_words: float | None = 100_000
    min_mean_word_length: float | None = 3
    max_mean_word_length: float | None = 10
    max_symbols_per_word: float | None = 0.1
    min_sentences: float | None = 3
    max_placeholders: float | None = 0
    max_bullet_lines: float | None = 0.9
    max_ellipsis_lines: float | None = 0.3
    min_alphabetic_words: float | None = 0.8
    min_stop_words: float | None = 2
    max_duplicate_lines: float | None = 0.3
    max_duplicate_line_characters: float | None = 0.2
    max_duplicate_paragraphs: float | None = 0.3
    max_duplicate_paragraph_characters: float | None = 0.2
    max_top_ngram: Limits | None = field(default_factory=lambda: {2: 0.20, 3: 0.18, 4: 0.16})
    max_duplicate_ngrams: Limits | None = field(
        default_factory=lambda: {5: 0.15, 6: 0.14, 7: 0.13, 8: 0.12, 9: 0.11, 10: 0.10}
    )
    stop_words: frozenset[str] = STOP_WORDS

    def __post_init__(self) -> None:
        for name in RULES:
            limits = getattr(self, name)
            by_length = limits if isinstance(limits, Mapping) else {1: limits}
            if any(limit is not None and limit < 0 for limit in by_length.values()):
                raise ValueError(f"{name} is {limits}; it must be at least 0, or None for no rule")
            if any(length < 1 for length in by_length):
                raise ValueError(f"{name} is {limits}; an n-gram has at least 1 word")

    @classmethod
    def off(cls, **rules: float | Limits | None) -> Self:
        """No rules but those named."""
        return cls(**{**dict.fromkeys(RULES), **rules})  # type: ignore[arg-type]


RULES = tuple(f.name for f in fields(QualityConfig) if f.name.startswith(("min_", "max_")))


@dataclass(frozen=True, slots=True)
class Rejection:
    """The rule that a text broke, what was measured, and the limit."""

    rule: str
    value: float
    limit: float

    def __str__(self) -> str:
        most = "at least" if self.rule.startswith("min_") else "at most"
        return f"{self.rule}: {self.value:.4g}, where {most} {self.limit:.4g} is asked for"


def rejection(text: str, config: QualityConfig) -> Rejection | None:
    """Why a text is not good enough, or None if it is."""
    measured = Measured(text, config.stop_words)
    for rule in RULES:
        limits, name = getattr(config, rule), rule[4:]
        if limits is None:
            continue
        if isinstance(limits, Mapping):
            found = measured.broken_ngram(rule, limits)
        else:
            found = _broken(rule, getattr(measured, name), limits)
        if found:
            return found
    return None


def _broken(rule: str, value: float, limit: float) -> Rejection | None:
    is_broken = value < limit if rule.startswith("min_") else value > limit
    return Rejection(rule, value, limit) if is_broken else None


class Measured:
    """The measures of one text, each taken when it is asked for. Words are what stands between
    white space; blank lines do not count as lines."""

    def __init__(self, text: str, stop_words: frozenset[str] = STOP_WORDS) -> None:
        self._text = text
        self._stop_words = stop_words
        self._words = text.split()

    @property
    def words(self) -> int:
        return len(self._words)

    @property
    def mean_word_length(self) -> float:
        return self._num_characters / max(self.words, 1)

    @property
    def symbols_per_word(self) -> float:
        """`#` and ellipses."""
        return len(_SYMBOLS.findall(self._text)) / max(self.words, 1)

    @property
    def sentences(self) -> int:
        return len(_SENTENCE_END.findall(self._text))

    @property
    def placeholders(self) -> int:
        return self._text.lower().count(_PLACEHOLDER)

    @property
    def bullet_lines(self) -> float:
        return _share(sum(line.startswith(_BULLETS) for line in self._lines), self._lines)

    @property
    def ellipsis_lines(self) -> float:
        return _share(sum(line.endswith(_ELLIPSES) for line in self._lines), self._lines)

    @property
    def alphabetic_words(self) -> float:
        """Those with a letter in them."""
        others = [word for word in self._words if not word.isalpha()]
        without = sum(_LETTER.search(word) is None for word in others)
        return _share(self.words - without, self._words)

    @property
    def stop_words(self) -> int:
        """How many different ones there are."""
        return len(self._stop_words.intersection(self._lower))

    @property
    def duplicate_lines(self) -> float:
        return _share(sum(times - 1 for times in Counter(self._lines).values()), self._lines)

    @property
    def duplicate_line_characters(self) -> float:
        return _duplicate_characters(self._lines)

    @property
    def duplicate_paragraphs(self) -> float:
        paragraphs = self._paragraphs
        return _share(sum(times - 1 for times in Counter(paragraphs).values()), paragraphs)

    @property
    def duplicate_paragraph_characters(self) -> float:
        return _duplicate_characters(self._paragraphs)

    def broken_ngram(self, rule: str, limits: Limits) -> Rejection | None:
        """The limit of the shortest n-grams that is broken, if any is. What stands in a repeated
        n-gram stands in shorter ones too: where those are rare, longer ones are not looked at."""
        is_top = rule == "max_top_ngram"
        for length in sorted(limits):
            value = self.top_ngram(length) if is_top else self.duplicate_ngrams(length)
            if found := _broken(f"{rule}[{length}]", value, limits[length]):
                return found
            if not is_top and value <= min(limits.values()):
                break
        return None

    def top_ngram(self, length: int) -> float:
        """The share of the characters that the most frequent n-gram makes up, if it occurs twice.
        Of equally frequent ones the longest counts."""
        ngrams = self._ngrams(length)
        if ngrams.are_unique:
            return 0.0
        counts = np.bincount(ngrams.numbers)
        most = counts.max()
        sizes = self._sizes_of_ngrams(length)[counts[ngrams.numbers] == most]
        return min(1.0, float(most * sizes.max() / self._num_characters))

    def duplicate_ngrams(self, length: int) -> float:
        """The share of the characters that stand in n-grams that occurred before."""
        ngrams = self._ngrams(length)
        if ngrams.are_unique:
            return 0.0
        starts = np.ones(len(ngrams.numbers), bool)
        starts[ngrams.first] = False
        is_covered = np.zeros(self.words, bool)
        for shift in range(length):
            is_covered[shift : shift + len(starts)] |= starts
        return float(self._word_lengths[is_covered].sum() / self._num_characters)

    def _ngrams(self, length: int) -> "_Ngrams":
        """Those of n words are pairs of one of n - 1 and a word."""
        while len(self._known_ngrams) < length:
            known, words = self._known_ngrams, self._known_ngrams[0].numbers
            pairs = known[-1].numbers[:-1] * (self.words + 1) + words[len(known) :]
            known.append(_Ngrams.of(pairs))
        return self._known_ngrams[length - 1]

    @cached_property
    def _known_ngrams(self) -> list["_Ngrams"]:
        """N-grams of 1 word, of 2, of 3, … as far as they were asked for."""
        numbers: dict[str, int] = {}
        words = [numbers.setdefault(word, len(numbers)) for word in self._lower]
        return [_Ngrams.of(np.array(words, np.int64))]

    @cached_property
    def _lower(self) -> list[str]:
        return [word.lower() for word in self._words]

    def _sizes_of_ngrams(self, length: int) -> NDArray[np.int64]:
        ends = np.zeros(self.words + 1, np.int64)
        np.cumsum(self._word_lengths, out=ends[1:])
        return np.subtract(ends[length:], ends[:-length])

    @cached_property
    def _word_lengths(self) -> NDArray[np.int64]:
        return np.fromiter(map(len, self._words), np.int64, self.words)

    @cached_property
    def _num_characters(self) -> int:
        return sum(map(len, self._words))

    @cached_property
    def _lines(self) -> list[str]:
        return [line for line in map(str.strip, self._text.split("\n")) if line]

    @cached_property
    def _paragraphs(self) -> list[str]:
        return [part for part in map(str.strip, _PARAGRAPHS.split(self._text)) if part]


@dataclass(frozen=True, slots=True)
class _Ngrams:
    """The n-grams of a text as numbers, equal ones alike, and where each occurs first."""

    numbers: NDArray[np.int64]
    first: NDArray[np.int64]

    @classmethod
    def of(cls, keys: NDArray[np.int64]) -> Self:
        _, first, numbers = np.unique(keys, return_index=True, return_inverse=True)
        return cls(numbers, first)

    @property
    def are_unique(self) -> bool:
        return len(self.first) == len(self.numbers)


def _share(count: int, of: Sequence[str]) -> float:
    return count / max(len(of), 1)


def _duplicate_characters(parts: Sequence[str]) -> float:
    """The share of the characters that stand in parts that occurred before."""
    repeated = sum((times - 1) * len(part) for part, times in Counter(parts).items())
    return repeated / max(sum(map(len, parts)), 1)
