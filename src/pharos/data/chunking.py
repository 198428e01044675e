"""Passages: the stretches of a document that are retrieved, quoted and cited as a whole.

Structure first. A passage follows the document's sections; small neighbours are merged, long ones
split where the text itself pauses: at a paragraph, else a line, a sentence, a word. Consecutive
passages of one split section overlap, so that what stands at a cut is whole in one of them. The
parts of a split section are about equal (1,100 tokens become three passages, not two and a crumb).
Tables and fenced code are not cut if they fit into `max_tokens`.

A merged passage carries the heading path that all of its sections share, never the first one's: a
quote must not be cited under a heading that it does not stand under.

A passage is longer than what the default encoder was trained on, so it is embedded as one to
several windows. Embedding and keyword search see the heading path before the text
(`heading_prefix`); the windows leave room for it.

All offsets are in characters of `Document.text`.
"""

import re
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

from tokenizers import Tokenizer

from pharos.core import Document, Section
from pharos.data.atoms import Atoms, TokenCounter, scan
from pharos.data.splitting import Splitter

SEPARATOR = " > "
LETTERS_PER_TOKEN = 4
OVERLAP_SLACK = 0.3
WINDOW_SLACK = 1.0
"""Windows may overlap by up to twice as much to begin with a sentence: their overlap is short."""
MIN_WINDOW_TOKENS = 160
"""Room for the longest heading prefix in the worst script, and some text."""

_FENCE = re.compile(r"^[ \t]*(?:```|~~~)[^\n]*\n?", re.MULTILINE)
_TABLE = re.compile(r"(?:^[ \t]*+[^\n|\t]*+[|\t][^\n]*+(?:\n|\Z)){2,}", re.MULTILINE)

Headings = tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class ChunkConfig:
    """Lengths are in tokens of the encoder, without special tokens except for `window_tokens`.

    A section shorter than `min_tokens` is merged with its neighbours. Passages aim at
    `target_tokens` and never exceed `max_tokens`; those of a split section share `overlap` of
    `target_tokens` with the next. A window has `window_tokens` with special tokens and heading
    prefix, and shares `window_overlap` of its length with the next.
    """

    target_tokens: int = 512
    overlap: float = 0.2
    max_tokens: int = 1024
    min_tokens: int = 128
    window_tokens: int = 256
    window_overlap: float = 0.1

    def __post_init__(self) -> None:
        if not 32 <= self.target_tokens <= self.max_tokens:
            raise ValueError(
                f"target_tokens is {self.target_tokens}; it must be at least 32 "
                f"and at most max_tokens ({self.max_tokens})"
            )
        if not 0 <= self.min_tokens <= self.target_tokens:
            raise ValueError(
                f"min_tokens is {self.min_tokens}; it must be from 0 to target_tokens "
                f"({self.target_tokens})"
            )
        for name in ("overlap", "window_overlap"):
            value = getattr(self, name)
            if not 0 <= value <= 0.5:
                raise ValueError(f"{name} is {value}; it is a share from 0 to 0.5")
        if self.window_tokens < MIN_WINDOW_TOKENS:
            raise ValueError(
                f"window_tokens is {self.window_tokens}; it must be at least {MIN_WINDOW_TOKENS}, "
                f"to hold the heading prefix and some text"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class Window:
    """A part of a passage that is embedded by itself."""

    start: int
    end: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Chunk:
    """A passage. `page` is where it begins; `windows` cover it, in order."""

    start: int
    end: int
    headings: Headings
    page: int | None
    windows: tuple[Window, ...]


def chunk(document: Document, tokenizer: Tokenizer, config: ChunkConfig) -> list[Chunk]:
    """The passages of `document`, in order. Every character that is not white space lies in one."""
    counter = _counter(tokenizer)
    sections = list(_covering_sections(document))
    atoms = scan(document.text, [(s.start, s.end) for s in sections], counter)
    passages = _Passages(document.text, atoms, counter, config)
    page_at = _page_finder(document)
    return [
        Chunk(
            start=start,
            end=end,
            headings=headings,
            page=page_at(start),
            windows=passages.windows(start, end, heading_prefix(document.title, headings)),
        )
        for first, last, headings in _groups(sections, atoms, config)
        for start, end in passages.of(first, last)
    ]


def heading_prefix(title: str, headings: Headings, *, max_tokens: int = 32) -> str:
    """What is put before a text for embedding and keyword search: "Title > Heading > Subheading".

    At most about `max_tokens` long: what is left out first are the headings below the title, from
    the outermost inwards, then the title, then the end of the innermost heading. Without a
    tokenizer, a token is taken to be `LETTERS_PER_TOKEN` ASCII letters, or one other character.
    """
    longest = 2 * LETTERS_PER_TOKEN * max_tokens
    names = (" ".join(name[:longest].split()) for name in (title, *headings))
    parts = [name for name in names if name]
    if len(parts) > 1 and parts[0].casefold() == parts[1].casefold():
        del parts[0]
    while len(parts) > 1 and _fitting_length(SEPARATOR.join(parts), max_tokens) is not None:
        del parts[1 if len(parts) > 2 else 0]
    prefix = SEPARATOR.join(parts)
    length = _fitting_length(prefix, max_tokens)
    if length is None:
        return prefix
    kept = prefix[:length]
    return (kept.rsplit(" ", 1)[0] if " " in kept else kept).rstrip() + "…"


def _fitting_length(text: str, max_tokens: int) -> int | None:
    """How many characters of `text` are about `max_tokens`; None if all of them fit."""
    tokens = 0.0
    for length, char in enumerate(text):
        is_letter = char.isascii() and (char.isalnum() or char == " ")
        tokens += 1 / LETTERS_PER_TOKEN if is_letter else 1
        if tokens > max_tokens:
            return length
    return None


@lru_cache(maxsize=2)
def _counter(tokenizer: Tokenizer) -> TokenCounter:
    """One counter for all documents of a process: it remembers the words it has counted."""
    return TokenCounter(tokenizer)


def _page_finder(document: Document) -> Callable[[int], int | None]:
    """The page of an offset by bisection: a long document has thousands of passages and pages."""
    pages = document.pages
    starts = [page.start for page in pages]

    def page_at(offset: int) -> int | None:
        i = bisect_right(starts, offset) - 1
        return pages[i].number if i >= 0 and offset < pages[i].end else None

    return page_at


# Sections: what belongs together.


def _covering_sections(document: Document) -> Iterator[Section]:
    """The document's sections, and what lies between them as sections without headings."""
    end = 0
    for section in document.sections:
        if section.start > end:
            yield Section(start=end, end=section.start)
        if section.end > section.start:
            yield section
        end = section.end
    if end < len(document.text):
        yield Section(start=end, end=len(document.text))


def _groups(
    sections: list[Section], atoms: Atoms, config: ChunkConfig
) -> Iterator[tuple[int, int, Headings]]:
    """Runs of sections that are chunked together: atoms from, to, and the headings they share."""
    bounds = [atoms.after(section.start) for section in sections] + [len(atoms.starts) - 1]
    group: tuple[int, int, Headings] | None = None
    scope: Headings = ()
    for section, (first, last) in zip(sections, pairwise(bounds), strict=True):
        headings = section.headings
        if group and headings[: len(scope)] == scope and _is_mergeable(group, last, atoms, config):
            group = (group[0], last, _shared(group[2], headings))
            continue
        if group:
            yield group
        group, scope = (first, last, headings), headings[:-1]
    if group:
        yield group


def _is_mergeable(
    group: tuple[int, int, Headings], last: int, atoms: Atoms, config: ChunkConfig
) -> bool:
    """Whether the group or the section after it, up to `last`, is small, and both fit together."""
    start, middle, end = (atoms.cost[i] for i in (group[0], group[1], last))
    is_small = min(middle - start, end - middle) < config.min_tokens
    return is_small and end - start <= config.target_tokens


def _shared(a: Headings, b: Headings) -> Headings:
    pairs = zip(a, b, strict=False)
    length = next((i for i, (x, y) in enumerate(pairs) if x != y), min(len(a), len(b)))
    return a[:length]


# Passages and windows: where to cut.


class _Passages:
    """Cuts one scanned text. Spans are in characters, without white space at either end."""

    def __init__(self, text: str, atoms: Atoms, counter: TokenCounter, config: ChunkConfig) -> None:
        self._text = text
        self._atoms = atoms
        self._counter = counter
        self._config = config
        self._splitter = Splitter(
            atoms=atoms,
            size=config.target_tokens,
            overlap=round(config.overlap * config.target_tokens),
            slack=OVERLAP_SLACK,
            max_size=config.max_tokens,
            blocks=list(_kept_blocks(text, atoms, config.max_tokens)),
        )

    def of(self, first: int, last: int) -> Iterator[tuple[int, int]]:
        """The passages of atoms `first` to `last`."""
        starts, max_tokens = self._atoms.starts, self._config.max_tokens
        reached = 0
        for a, b in self._splitter.split(first, last):
            is_sure = self._surely_fits(a, b, max_tokens)
            for span in self._fitting(starts[a], starts[b], max_tokens, is_sure):
                if span[1] > reached:  # else only white space was new
                    reached = span[1]
                    yield span

    def windows(self, start: int, end: int, prefix: str) -> tuple[Window, ...]:
        """The windows of the passage `start` to `end`, each short enough to follow `prefix`."""
        counter, atoms = self._counter, self._atoms
        (prefix_len,) = counter.count_each([f"{prefix}\n"])
        size = self._config.window_tokens - counter.num_special - prefix_len
        overlap = round(self._config.window_overlap * size)
        splitter = Splitter(atoms=atoms, size=size, overlap=overlap, slack=WINDOW_SLACK)
        spans: list[tuple[int, int]] = []
        for a, b in splitter.split(atoms.at(start), atoms.after(end)):
            # A passage that had to be halved begins and ends within atoms.
            low, high = max(start, atoms.starts[a]), min(end, atoms.starts[b])
            spans += self._fitting(low, high, size, self._surely_fits(a, b, size))
        return tuple(Window(start=low, end=high) for low, high in spans)

    def _surely_fits(self, first: int, last: int, max_tokens: int) -> bool:
        cost = self._atoms.cost
        return self._atoms.is_exact(first, last) and cost[last] - cost[first] <= max_tokens

    def _fitting(
        self, start: int, end: int, max_tokens: int, is_sure: bool
    ) -> Iterator[tuple[int, int]]:
        """The span, halved until each part has at most `max_tokens`, counted for real."""
        start, end = _trimmed(self._text, start, end)
        if start == end:
            return
        text = self._text[start:end]
        if is_sure or len(text) == 1 or self._counter.count(text) <= max_tokens:
            yield start, end
            return
        half = len(text) // 2
        space = text.rfind(" ", half // 2, half)
        middle = start + (space if space > 0 else half)
        yield from self._fitting(start, middle, max_tokens, is_sure)
        yield from self._fitting(middle, end, max_tokens, is_sure)


def _trimmed(text: str, start: int, end: int) -> tuple[int, int]:
    piece = text[start:end]
    stripped = piece.strip()
    start += len(piece) - len(piece.lstrip()) if stripped else 0
    return start, start + len(stripped)


def _kept_blocks(text: str, atoms: Atoms, max_tokens: int) -> Iterator[tuple[int, int]]:
    """Tables and fenced code that fit into one passage, as runs of atoms."""
    for start, end in _blocks(text):
        first, last = atoms.at(start), atoms.after(end)
        if atoms.cost[last] - atoms.cost[first] <= max_tokens:
            yield first, last


def _blocks(text: str) -> list[tuple[int, int]]:
    """Fenced code and tables (two or more lines of cells), in order, not overlapping."""
    fences: Iterable[re.Match[str]] = _FENCE.finditer(text)
    blocks = [(opening.start(), closing.end()) for opening, closing in zip(fences, fences)]  # noqa: B905
    blocks += [match.span() for match in _TABLE.finditer(text)]
    apart: list[tuple[int, int]] = []
    for block in sorted(blocks):
        if not apart or block[0] >= apart[-1][1]:
            apart.append(block)
    return apart
