"""What specialists report: nouns of the layer that reads passages and checks them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from pharos.core.nouns import Hit, Span
from pharos.core.protocols import Reranker


@dataclass(frozen=True, kw_only=True, slots=True)
class Reading:
    """The shortest stretches of text that answer a question, best first, with the probability of
    each, and how likely it is that any of the passages that were read holds the answer at all."""

    spans: tuple[Span, ...] = ()
    answerable: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Grounding:
    """How likely a passage supports a statement, and contradicts it; in the rest of the cases it
    does neither."""

    supported: float
    contradicted: float

    @property
    def verdict(self) -> str:
        """`yes`, `no` or `contradicts`, whichever is likeliest."""
        neither = 1.0 - self.supported - self.contradicted
        if self.supported >= max(neither, self.contradicted):
            return "yes"
        return "contradicts" if self.contradicted > neither else "no"


@dataclass(frozen=True, kw_only=True, slots=True)
class Checked:
    """A statement of an answer, the text that it was compared with, and what came of it."""

    statement: str
    evidence: str
    grounding: Grounding


@dataclass(frozen=True, kw_only=True, slots=True)
class Explanation:
    """What each specialist said on the way to an answer. `candidates` are what the search found, in
    the order that the re-ranker left them in (`Hit.scores` has both scores and both ranks). `risks`
    gives passages, and under "" the question, the probability that they try to steer a model."""

    candidates: tuple[Hit, ...] = ()
    reading: Reading | None = None
    checked: tuple[Checked, ...] = ()
    risks: Mapping[str, float] = field(default_factory=dict)


@runtime_checkable
class AnswerFinder(Protocol):
    """Reads passages for the shortest stretches that answer a question."""

    name: str

    def find(self, question: str, hits: Sequence[Hit]) -> Reading: ...


@runtime_checkable
class GroundingChecker(Protocol):
    """One grounding per pair of a statement and a text, in the order given."""

    name: str

    def check(self, pairs: Sequence[tuple[str, str]]) -> list[Grounding]: ...


@runtime_checkable
class Guard(Protocol):
    """The probability of each text that it tries to steer a model: an injection, a jailbreak.
    From `threshold` on a text is treated as one."""

    name: str
    threshold: float

    def risks(self, texts: Sequence[str]) -> list[float]: ...


class Team(Protocol):
    """Who is asked on the way to an answer. What one that is not there would say, is not said."""

    @property
    def reranker(self) -> Reranker | None: ...

    @property
    def reader(self) -> AnswerFinder | None: ...

    @property
    def guard(self) -> Guard | None: ...

    @property
    def grounding(self) -> GroundingChecker | None: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Specialists:
    """A `Team` of those that are given."""

    reranker: Reranker | None = None
    reader: AnswerFinder | None = None
    guard: Guard | None = None
    grounding: GroundingChecker | None = None
