"""A text as atoms: each word with the white space before it, what it costs, how well it cuts.

Chunking needs to know how many tokens lie between any two places of a text. Tokenizing whole texts
is slow and takes memory without bound; but words repeat, and a tokenizer that splits at white space
(as BERT's does) gives a word the same tokens whatever stands around it. So every distinct word is
tokenized once and the counts are added up: exact, and many times faster than the tokenizer.

Two things are not exact and are marked as such, so that the caller counts them for real: words that
are cut because they are longer than `WORD_LEN` (Base64, minified code, most scripts without
spaces), and everything if the tokenizer does not split as BERT's does.

An atom costs its tokens, but at least one for every `PIECE_LEN` characters: what a tokenizer makes
one unknown token of, or none at all, could otherwise grow to any length within a token limit.
"""

import re
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer
from tokenizers.pre_tokenizers import BertPreTokenizer

WORD_LEN = 64
"""Long enough for a SHA-256 in hexadecimal: change logs are full of hashes."""
PIECE_LEN = 32
SPACE_LEN = 256
SLICE_LEN = 1 << 20
MEMO_SIZE = 1 << 18
"""Distinct words remembered; far more than a language's, so only junk ever empties the memo."""

# A token of its own to BERT's tokenizer, whatever stands around it.
_APART = r"[!-/:-@\[-`{-~、。，！？\u3400-\u4dbf\u4e00-\u9fff]"
_CHAR = r"[^\s。！？]"
_ATOM = re.compile(
    rf"""\s{{0,{SPACE_LEN}}}+ (?:
            {_CHAR}{{1,{WORD_LEN}}}+ (?!{_CHAR}) [。！？]{{0,2}}    # a word
          | {_CHAR}{{0,{PIECE_LEN - 1}}} {_APART}                 # of a long one, a part that is
          | {_CHAR}{{1,{PIECE_LEN}}}                              # counted exactly, else any part
          | [。！？]{{1,{PIECE_LEN}}} )
       | \s{{1,{SPACE_LEN}}}""",
    re.VERBOSE,
)
_IS_APART = re.compile(_APART)
_BLANK_LINE = re.compile(r"\n[^\S\n]*\n|\f|\u2029")
_ENDS = re.compile(r"[.!?…]+[\"'”’»)\]]*$")
_ENDS_UNSPACED = re.compile(r"[。！？][」』”’）]*$")
_ABBREVIATION = re.compile(
    r"(?:[A-Za-z]|e\.g|i\.e|cf|vs|viz|etc|al|approx|Mr|Mrs|Ms|Dr|Prof|St|No|Fig|Sec|Eq|Ch|Vol|pp?)\.$"
)
_SEPARATES = re.compile(r"[^\S\x0b\x0c\x1c-\x1f\x85]")
"""White space to a tokenizer too: BERT's drops control characters and joins the words around."""


class Cut(IntEnum):
    """How good a place is to cut a text at, worst first."""

    PIECE = 0
    WORD = 1
    WRAP = 2
    """A line break that may stand within a sentence."""
    SENTENCE = 3
    LINE = 4
    PARAGRAPH = 5
    SECTION = 6


# What an atom shows of itself, as bits.
_LEAD = 0b11
_NO_LEAD, _SPACE, _NEWLINE, _BLANK = range(4)
_STARTS_LOWER = 1 << 2
_STARTS_ITEM = 1 << 3
_ENDS_SENTENCE = 1 << 4
_ENDS_ANYHOW = 1 << 5
_BEGINS_APART = 1 << 6
_ENDS_APART = 1 << 7


class TokenCounter:
    """Counts tokens, without special ones. Raises ValueError for a tokenizer that cuts or pads."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        if tokenizer.truncation or tokenizer.padding:
            raise ValueError(
                "the tokenizer truncates or pads, so it cannot count tokens; "
                "load it with load_tokenizer, or call no_truncation() and no_padding()"
            )
        self.num_special: int = tokenizer.num_special_tokens_to_add(False)
        self.is_additive = isinstance(tokenizer.pre_tokenizer, BertPreTokenizer)
        self._tokenizer = tokenizer
        self._memo: dict[str, int] = {}

    def count(self, text: str) -> int:
        return len(self._tokenizer.encode(text, add_special_tokens=False))

    def count_each(self, words: Sequence[str]) -> list[int]:
        """The tokens of each word by itself; a word seen before is not tokenized again."""
        memo = self._memo
        new = [word for word in set(words) if word not in memo]
        if len(memo) + len(new) > MEMO_SIZE:
            memo.clear()
            new = list(set(words))
        if new:
            encodings = self._tokenizer.encode_batch_fast(new, add_special_tokens=False)
            memo.update(zip(new, map(len, encodings), strict=True))
        return list(map(memo.__getitem__, words))


@dataclass(frozen=True, slots=True)
class Atoms:
    """N atoms; all arrays have N + 1 entries, so that atoms `i` to `j` are `x[j]` less `x[i]`.

    `starts` in characters of the text, `cost` and `inexact` summed from the beginning of the text,
    `cut` how good it is to cut before the atom (a `Cut`). Memory views, because they are read one
    by one, which they are faster at than numpy's arrays.
    """

    starts: memoryview
    cost: memoryview
    inexact: memoryview
    cut: bytes

    def is_exact(self, first: int, last: int) -> bool:
        """Whether a text of these atoms has no more tokens than they cost."""
        return self.inexact[last] == self.inexact[min(first + 1, last)]

    def at(self, offset: int) -> int:
        """The atom that holds the character at `offset`, or N at the end of the text."""
        return bisect_right(self.starts, offset) - 1

    def after(self, offset: int) -> int:
        """The first atom that begins at `offset` or later."""
        return bisect_left(self.starts, offset)


def scan(text: str, sections: Iterable[tuple[int, int]], counter: TokenCounter) -> Atoms:
    """The atoms of `text`, none of which lies in two of the adjoining `sections`."""
    lengths, tokens, shapes = array("i"), array("i"), array("B")
    firsts = array("i", [0])
    for words in _slices(text, sections, firsts):
        lengths.extend(map(len, words))
        tokens.extend(counter.count_each(words))
        shapes.extend(map(_shape, words))
    length, shape = np.asarray(lengths), np.asarray(shapes)
    cost = np.maximum(np.asarray(tokens), -(-length // PIECE_LEN))
    inexact = _is_inexact(shape) if counter.is_additive else np.ones(len(shape), np.bool_)
    cut = np.append(_cuts(shape), np.uint8(Cut.SECTION))
    cut[np.asarray(firsts)] = Cut.SECTION
    return Atoms(_summed(length), _summed(cost), _summed(inexact), cut.tobytes())


def _slices(
    text: str, sections: Iterable[tuple[int, int]], firsts: "array[int]"
) -> Iterator[list[str]]:
    """Atoms in lists of bounded length; `firsts` gets the number of the first atom of each section,
    and at last the number of atoms."""
    words: list[str] = []
    num_yielded = 0
    for start, end in sections:
        for position in range(start, end, SLICE_LEN):
            words += _ATOM.findall(text, position, min(position + SLICE_LEN, end))
            if len(words) >= SLICE_LEN // 8:
                yield words
                num_yielded += len(words)
                words = []
        firsts.append(num_yielded + len(words))
    yield words


@lru_cache(maxsize=1 << 17)
def _shape(atom: str) -> int:
    word = atom.lstrip()
    lead = atom[: len(atom) - len(word)]
    if not _SEPARATES.search(lead):  # a form feed does not, to the tokenizer
        shape = _NO_LEAD
    elif _BLANK_LINE.search(lead):
        shape = _BLANK
    else:
        shape = _NEWLINE if "\n" in lead else _SPACE
    if word[:1].islower():
        shape |= _STARTS_LOWER
    elif word and not word[0].isalpha():
        shape |= _STARTS_ITEM
    if _ENDS.search(word) and not _ABBREVIATION.match(word):
        shape |= _ENDS_SENTENCE
    if _ENDS_UNSPACED.search(word):
        shape |= _ENDS_ANYHOW
    if _IS_APART.match(word):
        shape |= _BEGINS_APART
    if _IS_APART.match(word[-1:]):
        shape |= _ENDS_APART
    return shape


def _is_inexact(shape: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Whether an atom may have other tokens behind the atom before it than by itself."""
    is_apart = (shape & _BEGINS_APART > 0) | (_before(shape) & _ENDS_APART > 0)
    inexact: NDArray[np.bool_] = (shape & _LEAD == _NO_LEAD) & ~is_apart
    return inexact


def _before(shape: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.concatenate([np.zeros(1, np.uint8), shape])[: len(shape)]


def _cuts(shape: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """How good it is to cut before each atom, from what it and the atom before it look like."""
    before = _before(shape)
    lead = shape & _LEAD
    ended = before & _ENDS_SENTENCE > 0
    by_lead = np.array([Cut.PIECE, Cut.WORD, Cut.WRAP, Cut.PARAGRAPH], np.uint8)
    cut: NDArray[np.uint8] = by_lead[lead]
    cut[(lead == _SPACE) & ended & (shape & _STARTS_LOWER == 0)] = Cut.SENTENCE
    cut[(lead <= _NEWLINE) & (before & _ENDS_ANYHOW > 0)] = Cut.SENTENCE
    cut[(lead == _NEWLINE) & (ended | (shape & _STARTS_ITEM > 0))] = Cut.LINE
    return cut


def _summed(values: NDArray[np.int32] | NDArray[np.bool_]) -> memoryview:
    sums = np.zeros(len(values) + 1, np.int32)
    np.cumsum(values, out=sums[1:])
    return sums.data
