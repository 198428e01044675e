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
    r"""[.!?…]+ ["'”’»)\]]* (?:\[\d{1,3}\])*   # the mark, what closes with it, footnotes
        (?=\s+ (?P<next> ["'“‘«(\[¿¡]* \S+))    # a space and the next word
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
        for start, end, is_prose in _blocks(text)
        for sentence in (_ends(text, start, end) if is_prose else [(start, end)])
        for piece in _bounded(text, *_trim(text, *sentence))
    ]


def _blocks(text: str) -> Iterator[tuple[int, int, bool]]:
    """Runs of lines that no sentence crosses, and whether a run is prose."""
    block: tuple[int, int, bool] | None = None
    in_fence = False
    offset = 0
    for line in text.splitlines(keepends=True):
        start, offset = offset, offset + len(line)
        fence = bool(_FENCE.match(line))
        is_code = in_fence or fence or (bool(_CODE.match(line)) and (not block or not block[2]))
        in_fence ^= fence
        if block and _joins(text[block[0] : block[1]], block[2], line, is_code):
            block = (block[0], offset, block[2])
            continue
        if block:
            yield block
        block = (start, offset, not is_code) if line.strip() else None
    if block:
        yield block


def _joins(block: str, is_prose: bool, line: str, is_code: bool) -> bool:
    """Whether `line` goes on with the block before it."""
    if not line.strip():
        return False
    if is_code or not is_prose:
        return is_code and not is_prose
    last = block.rstrip("\r\n").rsplit("\n", 1)[-1]
    if _OWN_LINE.match(line) or _OWN_LINE.match(last) or _ITEM.match(line):
        return False
    return not _is_title(block, last, line)


def _is_title(block: str, last: str, line: str) -> bool:
    """A line that stands alone, stops well short of the next one, and does not run on into it."""
    lone = "\n" not in block.rstrip() and not _ITEM.match(block)
    short = len(last.strip()) < 0.75 * len(line.strip())
    return lone and short and not _ENDED.search(last.rstrip()) and line.lstrip()[:1].isupper()


def _ends(text: str, start: int, end: int) -> list[tuple[int, int]]:
    """The block `text[start:end]` cut where its sentences end."""
    cuts = [m.end() for m in _END.finditer(text, start, end) if _is_end(text, start, m)]
    return list(pairwise([start, *cuts, end]))


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
