"""The nouns that every layer speaks.

All offsets are in characters (Unicode code points) of `Document.text`, the parsed and cleaned
text that the library stores; spans are half-open, `text[start:end]`.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from pharos.core.findings import Explanation

Role = Literal["system", "user", "assistant", "tool"]
MOST_LOGPROBS = 100
MOST_BIAS = 100.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Section:
    """A run of text under one heading; `headings` is the path to it, the outermost first."""

    start: int
    end: int
    headings: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Page:
    """The text of one page; `number` counts from 1 as a PDF viewer does."""

    start: int
    end: int
    number: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """Under which headings, and on which page if the format has pages, a character stands."""

    headings: tuple[str, ...] = ()
    page: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Document:
    """One parsed document. `sections` and `pages` are in order and do not overlap;
    together the sections cover the text, and text of no page (or of a format without pages)
    lies in no `Page`. `source` names the document within a library: a path or a URI."""

    source: str
    title: str
    text: str
    format: str
    sections: tuple[Section, ...] = ()
    pages: tuple[Page, ...] = ()
    metadata: Mapping[str, str] = field(default_factory=dict)

    def place_at(self, offset: int) -> Place:
        """The headings and the page of the character at `offset`."""
        headings = (s.headings for s in self.sections if s.start <= offset < s.end)
        pages = (p.number for p in self.pages if p.start <= offset < p.end)
        return Place(headings=next(headings, ()), page=next(pages, None))


@dataclass(frozen=True, kw_only=True, slots=True)
class Passage:
    """A stretch of a document that is retrieved as a whole: `text == document.text[start:end]`."""

    id: str
    document_id: str
    source: str
    title: str
    headings: tuple[str, ...]
    page: int | None
    start: int
    end: int
    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Hit:
    """A retrieved passage. `score` orders the hits; `scores` holds what it was made of
    (`cosine`, `bm25`, their ranks, `rerank`) for whoever asks why."""

    passage: Passage
    score: float
    scores: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Span:
    """What a reader found: characters `start` to `end` of `passage.text`, and how sure it is
    (0 to 1)."""

    passage: Passage
    start: int
    end: int
    score: float

    @property
    def text(self) -> str:
        return self.passage.text[self.start : self.end]


@dataclass(frozen=True, kw_only=True, slots=True)
class Citation:
    """A quote and where it stands: `quote == document.text[start:end]`, always."""

    document: str
    title: str
    headings: tuple[str, ...]
    page: int | None
    start: int
    end: int
    quote: str
    score: float

    @classmethod
    def of(cls, span: Span, place: Place) -> "Citation":
        """A passage may cover several headings and pages: `place` is that of the span's start."""
        passage = span.passage
        return cls(
            document=passage.source,
            title=passage.title,
            headings=place.headings,
            page=place.page,
            start=passage.start + span.start,
            end=passage.start + span.end,
            quote=span.text,
            score=span.score,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """`answer` is None when abstained. `hits` are the passages that were read and `looked_at` what
    of them was nearest to an answer, both best first. `unsupported` lists sentences a language
    model wrote that its sources do not bear out. `explanation` is there if it was asked for."""

    question: str
    answer: str | None
    abstained: bool
    confidence: float
    citations: tuple[Citation, ...] = ()
    looked_at: tuple[Citation, ...] = ()
    hits: tuple[Hit, ...] = ()
    unsupported: tuple[str, ...] = ()
    explanation: "Explanation | None" = None
    timings_ms: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Message:
    role: Role
    content: str


@dataclass(frozen=True, kw_only=True, slots=True)
class SamplingParams:
    """How a language model draws its tokens; the names are the OpenAI API's and vLLM's.

    A `temperature` of 0 takes the likeliest token. Of the tokens, sorted by probability, `top_k`
    keeps the first so many (0: all), `top_p` as many as together reach that probability (Holtzman
    et al. 2019, arXiv:1904.09751), and `min_p` those with at least that share of the likeliest
    one's probability (Nguyen et al. 2024, arXiv:2407.01082). `repetition_penalty` divides the
    scores of tokens seen so far (Keskar et al. 2019, arXiv:1909.05858); `presence_penalty` and
    `frequency_penalty` are taken off those generated so far, once and each time. `logit_bias` is
    added to the scores of the tokens it names. `logprobs` is for how many of the likeliest tokens
    the log-probability is wanted (None: for none at all).

    A text ends before one of the `stop` strings, or with a token of `stop_token_ids` or of those
    by which the model itself ends a text; `ignore_eos` goes on after the model's own. None of that
    happens within the first `min_tokens`. What ended a text is left out of it, unless
    `include_stop`.
    """

    max_tokens: int = 512
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    seed: int | None = None
    stop: Sequence[str] = ()
    logprobs: int | None = None
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    min_tokens: int = 0
    ignore_eos: bool = False
    stop_token_ids: Sequence[int] = ()
    include_stop: bool = False

    def __post_init__(self) -> None:
        _check_range(self, "max_tokens", least=1)
        _check_range(self, "temperature", least=0.0)
        _check_range(self, "top_p", above=0.0, most=1.0)
        _check_range(self, "top_k", least=0)
        _check_range(self, "min_p", least=0.0, most=1.0)
        _check_range(self, "repetition_penalty", above=0.0, most=100.0)
        _check_range(self, "presence_penalty", least=-2.0, most=2.0)
        _check_range(self, "frequency_penalty", least=-2.0, most=2.0)
        if self.logprobs is not None:
            _check_range(self, "logprobs", least=0, most=MOST_LOGPROBS)
        if any(not text for text in self.stop):
            raise ValueError("a stop string is empty; every text contains it")
        _check_range(self, "min_tokens", least=0, most=self.max_tokens)
        for id_, bias in self.logit_bias.items():
            if not -MOST_BIAS <= bias <= MOST_BIAS:
                raise ValueError(
                    f"logit_bias is {bias} for token {id_}; it must be at least {-MOST_BIAS} and "
                    f"at most {MOST_BIAS}"
                )

    def end_ids(self, eos_ids: Collection[int]) -> frozenset[int]:
        """The tokens that end a text of a model whose own are `eos_ids`."""
        return frozenset(self.stop_token_ids) | (frozenset() if self.ignore_eos else {*eos_ids})


@dataclass(frozen=True, kw_only=True, slots=True)
class Completion:
    text: str
    finish_reason: str
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


def _check_range(
    params: SamplingParams,
    name: str,
    *,
    least: float = -math.inf,
    above: float = -math.inf,
    most: float = math.inf,
) -> None:
    value = getattr(params, name)
    if not (least <= value <= most and value > above and math.isfinite(value)):
        lower = f"at least {least}" if least > -math.inf else f"above {above}"
        upper = f" and at most {most}" if most < math.inf else ""
        raise ValueError(f"{name} is {value}; it must be {lower}{upper}")
