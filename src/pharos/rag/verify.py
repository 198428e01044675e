"""Whether a source bears out what a language model wrote, sentence by sentence.

A sentence is checked against the passages that it cites, and against nothing else: a marker that
points elsewhere, by mistake or because a document planted it, supports nothing. A sentence without
a valid marker is checked against every source and, if one bears it out, gets its marker.

The evidence is the stretch of one to three sentences of the passage that says most of the claim.
It must hold every number, the passage every name and every piece of code; it must not negate what
the claim asserts, or the other way round; and it must say the claim in its words, or in most of
its words with the same meaning (cosine). This is a filter with known holes (a wrong relation
between the right words passes), not entailment; the quote beside the sentence is the last check.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from operator import itemgetter

from pharos.core import Embedder, Hit, Span
from pharos.data.sentences import split_sentences
from pharos.rag.terms import CODE_SPAN, names_of, terms, unmentioned

COVERED = 0.85
PARTLY_COVERED = 0.6
SAME_MEANING = 0.6
MAX_WINDOWS = 8
SENTENCES_PER_WINDOW = 3

MARKER = re.compile(
    r"(?<![ \t])[ \t]*+[\[［【](?:sources?\s*)?\^?(\d{1,3}(?:\s*[,;，–-]\s*\d{1,3})*)[\]］】]",
    re.IGNORECASE,
)
_LIST_MARK = re.compile(r"^\s*(?:[-*•+]|\d{1,3}[.)])\s+")
_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
_NEGATION = re.compile(
    r"(?:not|no|never|none|neither|nor|without|cannot|unable|nothing|nobody|hardly)|\w+n['’]t",
    re.IGNORECASE,
)
_WORD = re.compile(r"[\w'’.-]*\w")
_SPELLED = {
    word: str(number)
    for number, word in enumerate(
        (
            "zero",
            "one",
            "two",
            "three",
            "four",
            "five",
            "six",
            "seven",
            "eight",
            "nine",
            "ten",
            "eleven",
            "twelve",
        )
    )
}
_NEGATED_WORDS = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class Claim:
    """One sentence of a model's answer: `text` without its markers, the sources they name (counted
    from 1, as the prompt numbers them), and the white space before it."""

    text: str
    cited: tuple[int, ...] = ()
    gap: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """`spans` are the quotes that bear the claim out, none if it is unsupported; `reason` then
    says why."""

    claim: Claim
    spans: tuple[Span, ...] = ()
    reason: str = ""

    @property
    def supported(self) -> bool:
        return bool(self.spans)


@dataclass(frozen=True, slots=True)
class _Window:
    start: int
    end: int
    text: str
    coverage: float


class Verifier:
    """Checks claims against the hits that the model was shown, in their numbering."""

    def __init__(self, embedder: Embedder, hits: Sequence[Hit]) -> None:
        self._embedder = embedder
        self._hits = hits

    def check(self, claim: Claim) -> Verdict:
        if not terms(claim.text):
            return Verdict(claim=claim, reason="it says nothing that can be checked")
        valid = [n for n in claim.cited if 1 <= n <= len(self._hits)]
        spans, reason = [], "no source says it"
        for number in valid or range(1, len(self._hits) + 1):
            found = self._support(claim.text, self._hits[number - 1])
            if isinstance(found, Span):
                spans.append(found)
            elif valid:
                reason = f"source {number} {found}"
        if not valid:
            spans = sorted(spans, key=lambda span: -span.score)[:1]
        return Verdict(claim=claim, spans=tuple(spans), reason="" if spans else reason)

    def _support(self, claim: str, hit: Hit) -> Span | str:
        """The stretch of the hit's passage that bears out the claim, or what is wrong."""
        passage = hit.passage
        context = " ".join((passage.title, *passage.headings))
        names = names_of(_LIST_MARK.sub("", claim))
        missing = unmentioned(names, f"{context} {passage.text}")
        if missing:
            return f"does not mention {', '.join(sorted(missing))}"
        windows = _windows(passage.text, set(terms(claim)), set(terms(context)))
        if not windows:
            return "does not say it"
        windows = [w for w in windows if numbers_of(claim) <= numbers_of(f"{context} {w.text}")]
        if not windows:
            return "does not have its numbers"
        cosines = self._cosines(claim, [window.text for window in windows])
        saying = [
            (window.coverage + cosine, window)
            for window, cosine in zip(windows, cosines, strict=True)
            if window.coverage >= COVERED or cosine >= SAME_MEANING
        ]
        if not saying:
            return "does not say it"
        score, window = max(saying, key=itemgetter(0))
        if contradicts(claim, window.text):
            return "says the opposite"
        return Span(passage=passage, start=window.start, end=window.end, score=min(1.0, score / 2))

    def _cosines(self, claim: str, texts: Sequence[str]) -> list[float]:
        vectors = self._embedder.embed([claim, *texts])
        return [max(0.0, float(vector @ vectors[0])) for vector in vectors[1:]]


def read_claims(text: str) -> list[Claim]:
    """The sentences of an answer; markers after a full stop belong to the sentence before it."""
    claims: list[Claim] = []
    at = 0
    for start, end in split_sentences(text):
        gap = text[at:start]
        leading = leading_markers(text[start:end]) if claims else ""
        if leading:
            cited = _merged(claims[-1].cited, cited_in(leading))
            claims[-1] = replace(claims[-1], cited=cited)
        sentence = text[start + len(leading) : end]
        claim = without_markers(sentence).strip()
        if claim:
            claims.append(Claim(text=claim, cited=cited_in(sentence), gap=gap))
        at = end
    return claims


def cited_in(text: str) -> tuple[int, ...]:
    """The source numbers that markers such as `[1]` and `[2, 3]` name; not those within code."""
    groups = MARKER.findall(CODE_SPAN.sub("", text))
    return _merged((), (int(n) for group in groups for n in _NUMBER.findall(group)))


def without_markers(text: str) -> str:
    """`text` without citation markers; code is left as it is."""
    pieces, at = [], 0
    for code in CODE_SPAN.finditer(text):
        pieces += [MARKER.sub("", text[at : code.start()]), code[0]]
        at = code.end()
    return "".join([*pieces, MARKER.sub("", text[at:])])


def numbers_of(text: str) -> set[str]:
    """The numbers of `text` as digits, without separators of thousands."""
    spelled = {
        _SPELLED[word] for word in re.findall(r"[a-z]+", text.casefold()) if word in _SPELLED
    }
    return spelled | {
        re.sub(r",(?=\d{3}\b)", "", number) for number in _NUMBER.findall(_LIST_MARK.sub("", text))
    }


def contradicts(claim: str, evidence: str) -> bool:
    """Whether one negates a word that the other asserts."""
    denied, asserted = _polarity(claim)
    denied_there, asserted_there = _polarity(evidence)
    return bool(
        (denied - asserted) & (asserted_there - denied_there)
        or (asserted - denied) & (denied_there - asserted_there)
    )


def _polarity(text: str) -> tuple[set[str], set[str]]:
    """The terms that stand just behind a negation, and the others."""
    denied: set[str] = set()
    asserted: set[str] = set()
    reach = 0
    for word in _WORD.findall(text):
        if _NEGATION.fullmatch(word):
            reach = _NEGATED_WORDS
            continue
        for term in terms(word):
            (denied if reach else asserted).add(term)
            reach = max(0, reach - 1)
    return denied, asserted


def _windows(text: str, wanted: set[str], given: set[str]) -> list[_Window]:
    """The stretches of one to three sentences that say enough of `wanted` to be worth comparing,
    best and shortest first. `given` is what the passage's headings say for all of them."""
    sentences = split_sentences(text)
    windows = []
    for size in range(1, SENTENCES_PER_WINDOW + 1):
        for first in range(len(sentences) - size + 1):
            start, end = sentences[first][0], sentences[first + size - 1][1]
            said = given | set(terms(text[start:end]))
            coverage = len(wanted & said) / len(wanted)
            if coverage >= PARTLY_COVERED:
                windows.append(_Window(start, end, text[start:end], coverage))
    windows.sort(key=lambda window: (-window.coverage, window.end - window.start))
    return windows[:MAX_WINDOWS]


def leading_markers(sentence: str) -> str:
    """The citation markers that `sentence` begins with."""
    end = 0
    while marker := MARKER.match(sentence, end):
        end = marker.end()
    return sentence[:end]


def _merged(one: Sequence[int], other: Iterable[int]) -> tuple[int, ...]:
    return tuple(dict.fromkeys((*one, *other)))
