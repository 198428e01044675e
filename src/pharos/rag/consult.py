"""What the specialists are asked on the way to an answer, and what they have said.

Each is asked once a step, with everything that the step wants to know: all pairs of a question and
its candidates in one pass, all windows of the passages that are read in another.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from pharos.core import Hit, Reranker, Span
from pharos.core.findings import Checked, Explanation, Reading, Team
from pharos.data.sentences import split_sentences
from pharos.rag.verify import Claim, Verdict

CONTRADICTED = "a source says the opposite"
OVERRULES = 0.9
"""How sure a grounding checker must be that a quote contradicts a claim whose words it bears out:
of short paraphrases it holds many for half contradicted."""


@dataclass
class Consultation:
    """The specialists, and what they have said about one question so far."""

    question: str
    specialists: Team
    candidates: Sequence[Hit] = ()
    reading: Reading | None = None
    checked: list[Checked] = field(default_factory=list)
    risks: dict[str, float] = field(default_factory=dict)

    def rerank(self, candidates: Sequence[Hit]) -> list[Hit]:
        """The candidates in the order in which they are to be read."""
        reranker = self.specialists.reranker
        ordered = reranked(self.question, candidates, reranker) if reranker else list(candidates)
        self.candidates = ordered
        return ordered

    def read(self, hits: Sequence[Hit]) -> Reading | None:
        reader = self.specialists.reader
        self.reading = reader.find(self.question, hits) if reader else None
        return self.reading

    def watch(self, hits: Sequence[Hit]) -> list[Hit]:
        """The hits that may be shown to a language model: not those that try to steer it."""
        guard = self.specialists.guard
        if guard is None:
            return list(hits)
        risks = guard.risks([self.question, *(hit.passage.text for hit in hits)])
        names = ["", *(hit.passage.id for hit in hits)]
        self.risks |= zip(names, risks, strict=True)
        return [hit for hit in hits if self.risks[hit.passage.id] < guard.threshold]

    def check_answer(self, span: Span, sentence: Span) -> None:
        """Whether the sentence around a short answer bears it out."""
        self._check(as_statement(self.question, span.text), [sentence.text])

    def without_contradicted(self, verdicts: Iterable[Verdict]) -> Iterator[Verdict]:
        """The verdicts, those overruled whose every quote is said to contradict the claim."""
        for verdict in verdicts:
            quotes = [span.text for span in verdict.spans]
            found = self._check(verdict.claim.text, quotes) if quotes else []
            against = found and all(one.grounding.contradicted >= OVERRULES for one in found)
            yield _overruled(verdict.claim) if against else verdict

    def explanation(self) -> Explanation:
        return Explanation(
            candidates=tuple(self.candidates),
            reading=self.reading,
            checked=tuple(self.checked),
            risks=dict(self.risks),
        )

    def _check(self, statement: str, texts: Sequence[str]) -> list[Checked]:
        checker = self.specialists.grounding
        if checker is None:
            return []
        groundings = checker.check([(statement, text) for text in texts])
        found = [
            Checked(statement=statement, evidence=text, grounding=grounding)
            for text, grounding in zip(texts, groundings, strict=True)
        ]
        self.checked += found
        return found


def reranked(question: str, hits: Sequence[Hit], reranker: Reranker) -> list[Hit]:
    """The hits by their relevance, which becomes their score; `scores` keeps what the search gave
    them, and where they stood."""
    relevances = reranker.rerank(question, hits)
    scored = [
        replace(
            hit,
            score=relevance,
            scores={
                **hit.scores,
                "search": hit.score,
                "search_rank": float(rank),
                "rerank": relevance,
            },
        )
        for rank, (hit, relevance) in enumerate(zip(hits, relevances, strict=True), start=1)
    ]
    return sorted(scored, key=lambda hit: -hit.score)


def sentence_around(span: Span) -> Span:
    """The sentence, or the sentences, that a short answer stands in."""
    touched = [
        (start, end)
        for start, end in split_sentences(span.passage.text)
        if start < span.end and span.start < end
    ]
    if not touched:
        return span
    return replace(span, start=touched[0][0], end=touched[-1][1])


def as_statement(question: str, answer: str) -> str:
    """A question and its answer as something that can be true. (Grounding checkers are trained on
    this form too.)"""
    said = answer.strip()
    ending = "" if said.endswith(".") else "."
    return f"{question.strip().rstrip('?!. ')}? {said[:1].upper()}{said[1:]}{ending}"


def _overruled(claim: Claim) -> Verdict:
    return Verdict(claim=claim, reason=CONTRADICTED)
