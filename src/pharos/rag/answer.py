"""From retrieved passages to an answer with citations, or to an abstention that says why not.

Without a language model the answer is what the readers found: the words that answer, with the
sentence around them as citation, where a trained reader is at hand and finds any; else sentences,
quoted. With a language model, its sentences are verified as they come and cite the exact words that
bear them out. In all of them, `[n]` in the answer is the n-th of its citations, and what a document
says cannot look like such a marker.
"""

import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from pharos.core import (
    Answer,
    Citation,
    Embedder,
    Hit,
    LanguageModel,
    Passage,
    Place,
    Reader,
    SamplingParams,
    Span,
)
from pharos.core.findings import Reading, Specialists, Team
from pharos.rag.confidence import default_calibration, judge
from pharos.rag.consult import Consultation, sentence_around
from pharos.rag.generate import (
    build_prompt,
    printable,
    says_not_found,
    verified_sentences,
    without_false_markers,
)
from pharos.rag.reader import can_answer, units
from pharos.rag.verify import Verdict, Verifier

PlaceOf = Callable[[str, int], Place]
OnText = Callable[[str], None]

CANDIDATES = 30
"""How many passages a re-ranker is shown."""
PASSAGES_READ = 10
SHORT_ANSWER = 0.5
"""How likely there must be a short answer for it to be given, and not the sentences."""
UNSUPPORTED_MARK = " [unsupported]"
MAX_LOOKED_AT = 5
MAX_REPLY_TOKENS = 1024
_FEW_WORDS = 6
_SOME_LEN = 160
_SOME_TEXT = re.compile(rf".{{1,{_SOME_LEN}}}(?!\S)", re.DOTALL)


def answer_question(
    question: str,
    hits: Sequence[Hit],
    *,
    reader: Reader,
    embedder: Embedder,
    place_of: PlaceOf,
    model: LanguageModel | None = None,
    threshold: float | None = None,
    on_text: OnText | None = None,
    keep_unsupported: bool = False,
    specialists: Team | None = None,
    k: int = PASSAGES_READ,
    explain: bool = False,
) -> Answer:
    """Answer from the `k` best of `hits`, which are best first and must all be readable by the
    asker; a re-ranker among the `specialists` puts them into an order of its own before.

    `place_of(document_id, offset)` is asked for the headings and the page of each quote.
    `threshold` is the confidence from which on to answer; None takes the calibrated ones. A trained
    reader's doubt in its words does not speak against the sentences, which are judged as without
    it: what it learned from are questions that ask for a few words. A `model` is asked only if the
    passages are believed, with that confidence, to hold the answer; sentences that its sources do
    not bear out are dropped, or with `keep_unsupported` marked, and the confidence falls by their
    share. The pieces passed to `on_text` add up to the answer. Raises ValueError for an empty
    question or an impossible threshold, and whatever the model raises.
    """
    if not question.strip():
        raise ValueError("the question is empty; ask something")
    if threshold is not None and not 0.0 <= threshold <= 1.0:
        raise ValueError(f"threshold is {threshold}; it must lie between 0 and 1")
    asked = Consultation(question, specialists or Specialists())
    clock = time.perf_counter()
    hits = asked.rerank(hits)[:k]
    timings = {"rerank": _ms_since(clock)} if asked.specialists.reranker else {}
    clock = time.perf_counter()
    spans, reading = reader.read(question, hits), asked.read(hits)
    short = short_answer(reading)
    trust = _trust(question, hits, spans, None, threshold, for_model=bool(model))
    if reading is not None and (model or short):
        informed = _trust(question, hits, spans, reading, threshold, for_model=bool(model))
        short = short if informed.suffices else None
        trust = informed if informed.suffices else trust
    timings["read"] = _ms_since(clock)
    confidence, believed = trust.confidence, bool(spans) and trust.suffices
    draft = _Draft(place_of, on_text)
    clock = time.perf_counter()
    if believed and model:
        verdicts = _ask(model, question, asked.watch(hits), embedder)
        verdicts = asked.without_contradicted(verdicts)
        confidence *= draft.write(verdicts, keep_unsupported=keep_unsupported)
        timings["generate"] = _ms_since(clock)
    elif believed and short:
        draft.answer(short)
        if explain:
            asked.check_answer(short, sentence_around(short))
    elif believed:
        draft.quote(spans)
    return Answer(
        question=question,
        answer=draft.text if draft.citations else None,
        abstained=not draft.citations,
        confidence=confidence,
        citations=tuple(draft.citations),
        looked_at=_looked_at(hits, spans, place_of),
        hits=tuple(hits),
        unsupported=tuple(draft.unsupported),
        explanation=asked.explanation() if explain else None,
        timings_ms=timings,
    )


def short_answer(reading: Reading | None) -> Span | None:
    """What is answered with, if it is likely enough that there is such an answer."""
    sure = reading is not None and reading.answerable >= SHORT_ANSWER
    return reading.spans[0] if reading and sure and reading.spans else None


@dataclass(frozen=True, slots=True)
class _Trust:
    """How far what was found is trusted, and how far it must be."""

    confidence: float
    least: float

    @property
    def suffices(self) -> bool:
        return self.confidence >= self.least


def _trust(
    question: str,
    hits: Sequence[Hit],
    spans: Sequence[Span],
    reading: Reading | None,
    threshold: float | None,
    *,
    for_model: bool,
) -> _Trust:
    """With a `reading`, trust in the short answer that it gives; without, in the sentences. What a
    model is asked for rests on the passages."""
    belief = judge(question, hits, spans, reading=reading)
    usual = default_calibration(with_specialists=reading is not None)
    confidence = belief.retrieved if for_model else belief.quoted
    return _Trust(confidence, usual.threshold if threshold is None else threshold)


@dataclass
class _Draft:
    """The answer so far: what was said, and what it cites."""

    place_of: PlaceOf
    on_text: OnText | None
    text: str = ""
    citations: list[Citation] = field(default_factory=list)
    unsupported: list[str] = field(default_factory=list)

    def quote(self, spans: Iterable[Span]) -> None:
        for span in spans:
            self._say(_harmless(span.text), [span], gap="\n\n")

    def answer(self, span: Span) -> None:
        """Say the words that answer, and cite the sentence that they stand in."""
        self._say(_harmless(span.text), [sentence_around(span)], gap="")

    def write(self, verdicts: Iterable[Verdict], *, keep_unsupported: bool) -> float:
        """Say what is supported; returns its share of the sentences. What is marked as
        unsupported waits for something supported to stand beside it."""
        supported = 0
        waiting: list[Verdict] = []
        for verdict in verdicts:
            if not verdict.supported:
                self.unsupported.append(verdict.claim.text)
                waiting += [verdict] if keep_unsupported else []
            else:
                supported += 1
                self._mark(waiting)
                waiting = []
                self._say(_harmless(verdict.claim.text), verdict.spans, gap=verdict.claim.gap)
        if supported:
            self._mark(waiting)
        return supported / max(1, supported + len(self.unsupported))

    def _mark(self, verdicts: Iterable[Verdict]) -> None:
        for verdict in verdicts:
            self._emit(_harmless(verdict.claim.text) + UNSUPPORTED_MARK, gap=verdict.claim.gap)

    def _say(self, text: str, spans: Iterable[Span], *, gap: str) -> None:
        markers = "".join(f"[{self._number(span)}]" for span in spans)
        self._emit(f"{text} {markers}", gap=gap)

    def _emit(self, text: str, *, gap: str) -> None:
        piece = (gap or " ") + text if self.text else text
        self.text += piece
        if self.on_text:
            self.on_text(piece)

    def _number(self, span: Span) -> int:
        """The number of the citation of `span`, which is added if it is new."""
        citation = _cite(span, self.place_of)
        for number, known in enumerate(self.citations, start=1):
            if (known.document, known.start, known.end) == (
                citation.document,
                citation.start,
                citation.end,
            ):
                return number
        self.citations.append(citation)
        return len(self.citations)


def _ask(
    model: LanguageModel, question: str, hits: Sequence[Hit], embedder: Embedder
) -> Iterator[Verdict]:
    """The model's sentences with their verdicts; none from where it says that it does not know, and
    none if there is nothing that it may be shown."""
    if not hits:
        return
    messages, shown = build_prompt(question, hits)
    pieces = model.stream(messages, SamplingParams(max_tokens=MAX_REPLY_TOKENS))
    for verdict in verified_sentences(pieces, Verifier(embedder, shown)):
        if says_not_found(verdict.claim):
            return
        yield verdict


def _cite(span: Span, place_of: PlaceOf) -> Citation:
    return Citation.of(span, place_of(span.passage.document_id, span.passage.start + span.start))


def _looked_at(
    hits: Sequence[Hit], spans: Sequence[Span], place_of: PlaceOf
) -> tuple[Citation, ...]:
    """The best spans, then the beginnings of the passages that had none."""
    having = {span.passage.id for span in spans}
    others = [_beginning(hit.passage) for hit in hits if hit.passage.id not in having]
    shown: list[Span] = []
    for span in map(_readable, [*spans, *others]):
        if len(shown) < MAX_LOOKED_AT and not any(_begins_within(span, one) for one in shown):
            shown.append(span)
    return tuple(_cite(span, place_of) for span in shown)


def _begins_within(span: Span, other: Span) -> bool:
    return span.passage.id == other.passage.id and other.start <= span.start < other.end


def _beginning(passage: Passage) -> Span:
    """The first sentence that says something; some text if none does."""
    able = (unit for unit in units(passage.text) if can_answer(passage, *unit))
    start, end = next(able, (0, _end_of_some(passage.text, 0)))
    return Span(passage=passage, start=start, end=end, score=0.0)


def _readable(span: Span) -> Span:
    """`span`, or some text from where it begins on if it is only a few words."""
    if len(span.text.split()) >= _FEW_WORDS:
        return span
    return replace(span, end=max(span.end, _end_of_some(span.passage.text, span.start)))


def _end_of_some(text: str, start: int) -> int:
    """Where some text that begins at `start` ends, with a word if it has words."""
    some = _SOME_TEXT.match(text, start)
    return start + len(some[0].rstrip()) if some else min(len(text), start + _SOME_LEN)


def _harmless(text: str) -> str:
    """Others' words for our answer: no control characters, nothing that looks like our markers."""
    return without_false_markers(printable(text))


def _ms_since(start: float) -> float:
    return (time.perf_counter() - start) * 1000
