"""Sentences with exact offsets, by rules a reader can follow.

The text is first cut into blocks at places where no sentence runs on: blank lines, headings, list
items, table rows and code. Within a block of prose a sentence ends at `.`, `!` or `?` followed by
a space and something that can begin a sentence, unless what stands before the full stop is an
abbreviation, an initial or a list number. Version numbers, URLs and file names need no rule: no
space follows their dots.

Every character that is not white space lies in exactly one sentence.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

MAX_SENTENCE_LEN = 1_000
"""Longer stretches without an end (tables, minified text) are cut at white space before this."""

_ABBREVIATION = re.compile(
    r""" mr|mrs|ms|dr|prof|st|sr|jr|gen|col|lt|capt|sgt|rev|hon|gov|sen|rep|pres
      | jan|feb|mar|apr|jun|jul|aug|sep|sept|oct|nov|dec|mon|tue|wed|thu|fri
      | inc|ltd|co|corp|bros|univ|assn|dept|ave|blvd|rd|mt|ft|tel|ext
      | figs?|eqs?|secs?|chap|ch|vols?|eds?|pp?|para|art|nos?|nr|op|cit|ibid|trans|def|lit
      | e\.g|i\.e|eg|ie|vs|cf|viz|ca|approx|est|resp|incl|excl|max|min|al|[bcdr] """,
    re.VERBOSE,
)
_MAY_ALSO_END = re.compile(r"inc|ltd|co|corp|jr|sr|etc|al|st|p\.m|a\.m")
_STARTER = re.compile(
    r""" the|an?|this|that|these|those|it|its|he|she|they|we|you|i|his|her|their|our
      | in|on|at|for|from|by|with|when|where|while|if|as|after|before|during|since|although
      | however|but|and|or|so|there|here|what|who|which|how|why|some|many|most|all|no|not
      | other|another|one|two|both|each """,
    re.VERBOSE,
)

_END = re.compile(
    r"""(?<![.!?…]) [.!?…]++ ["'”’»)\]]*+ (?:\[\d{1,3}\])*+   # the mark, what closes, footnotes
        (?=\s+ (?P<next> \S{1,40}))                          # a space and the next word
      | [。！？]+ [」』”’）]*                      # scripts that put no space between sentences
    """,
    re.VERBOSE,
)
_WORD_BEFORE = re.compile(r"(?:^|[\s(\[\"'“‘«/—–-])([^\s(\[\"'“‘«/—–]+)$")
_OPENS = re.compile(r"(?:.*[.!?:;])?\s*", re.DOTALL)
_LONGEST_ABBREVIATION = 40
_FENCE = re.compile(r"\s*(?:```|~~~)")
_CODE = re.compile(r"(?: {4}|\t)\s*\S|>>> |\.\.\. |\$ \S")
_OWN_LINE = re.compile(r"\s*(?:\#{1,6}\s|\||[=~^*+\-]{3,}\s*$)")
_ITEM = re.compile(r"\s*(?:[-*+•◦▪‣·–—]|\(?(?:\d{1,3}|[a-zA-Z]|[ivx]{1,4})[.)])\s+\S")
_ENDED = re.compile(r"[.!?…:;,。！？][\"'”’»)\]]*$")


def split_sentences(text: str) -> list[tuple[int, int]]:
    """The sentences of `text` as half-open character spans, in order, without surrounding space."""
    return [
        piece
        for block in _blocks(text)
        for sentence in ([(block.start, block.end)] if block.is_code else _ends(text, block))
        for piece in _bounded(text, *_trim(text, *sentence))
    ]


@dataclass(slots=True)
class _Block:
    """A run of lines that no sentence crosses."""

    start: int
    end: int
    last_line: str
    num_lines: int
    is_code: bool

    def takes(self, line: str, is_code: bool) -> bool:
        """Whether `line`, which comes next, goes on with this block."""
        if is_code or self.is_code:
            return is_code and self.is_code
        if _OWN_LINE.match(line) or _OWN_LINE.match(self.last_line) or _ITEM.match(line):
            return False
        return not (self.num_lines == 1 and _is_title(self.last_line, line))

    def add(self, line: str) -> None:
        self.end += len(line)
        self.last_line = line
        self.num_lines += 1


def _blocks(text: str) -> Iterator[_Block]:
    block: _Block | None = None
    in_fence = False
    offset = 0
    for line in text.splitlines(keepends=True):
        start, offset = offset, offset + len(line)
        is_fence = bool(_FENCE.match(line))
        in_prose = block is not None and not block.is_code
        is_code = in_fence or is_fence or (not in_prose and bool(_CODE.match(line)))
        in_fence ^= is_fence
        if block and line.strip() and block.takes(line, is_code):
            block.add(line)
            continue
        if block:
            yield block
        block = _Block(start, offset, line, 1, is_code) if line.strip() else None
    if block:
        yield block


def _is_title(line: str, following: str) -> bool:
    """It stops well short of the next line, and does not run on into it."""
    short = len(line.strip()) < 0.75 * len(following.strip())
    runs_on = _ENDED.search(line.rstrip()[-10:]) or not following.lstrip()[:1].isupper()
    return short and not runs_on and not _ITEM.match(line)


def _ends(text: str, block: _Block) -> list[tuple[int, int]]:
    """The block cut where its sentences end."""
    marks = _END.finditer(text, block.start, block.end)
    cuts = [mark.end() for mark in marks if _is_end(text, block.start, mark)]
    return list(pairwise([block.start, *cuts, block.end]))


def _is_end(text: str, start: int, mark: re.Match[str]) -> bool:
    following = mark["next"]
    if following is None:
        return True
    first = following.lstrip("\"'“‘«([¿¡")[:1]
    if first.islower():
        return False
    if not mark[0].startswith(".") or mark[0].startswith(".."):
        return True
    before = text[max(start, mark.start() - _LONGEST_ABBREVIATION) : mark.start()]
    word = _WORD_BEFORE.search(before)
    if word is None:
        return True
    opens = _OPENS.fullmatch(before[: word.start(1)]) is not None
    return not _is_abbreviation(word[1], following, opens)


def _is_abbreviation(word: str, following: str, opens: bool) -> bool:
    """Whether the full stop after `word` belongs to it. `opens`: a sentence begins with `word`."""
    bare = word.lower()
    if opens and (word.isdigit() or len(word) == 1):
        return True
    starts_anew = bool(_STARTER.fullmatch(following.strip("\"'“‘«([”’»)],;:").lower()))
    if (len(word) == 1 and word.isupper()) or _MAY_ALSO_END.fullmatch(bare):
        return not starts_anew
    if re.fullmatch(r"(?:[a-z]\.)+[a-z]", bare):
        return word[0].islower() or not starts_anew
    return bool(_ABBREVIATION.fullmatch(bare))


def _trim(text: str, start: int, end: int) -> tuple[int, int]:
    while start < end and text[start].isspace():
        start += 1
    while end > start and text[end - 1].isspace():
        end -= 1
    return start, end


def _bounded(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Pieces of at most MAX_SENTENCE_LEN characters, cut at line ends, else at spaces."""
    while end - start > MAX_SENTENCE_LEN:
        limit = start + MAX_SENTENCE_LEN
        cut = max(
            text.rfind("\n", start, limit), text.rfind(" ", start + MAX_SENTENCE_LEN // 2, limit)
        )
        cut = cut if cut > start else limit
        yield _trim(text, start, cut)
        start, _ = _trim(text, cut, end)
    if start < end:
        yield start, end
