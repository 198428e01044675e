"""Instruction pairs from documents, without a model: what a document says under its headings and of
its own terms becomes an answer, word for word, and the heading or the term the question.

    documents ─ parse ─ clean ─ exact and near duplicates ─ pairs ─ JSON lines

| kind | question | answer |
|---|---|---|
| section | What does TITLE say about HEADING? | the first sentences under the heading |
| definition | What is TERM? | the sentence "TERM is a …", and the next one |
| continuation | Continue this passage of TITLE: … | the sentences that follow |

A record has `messages` (which training reads), its `kind`, and `source`, `start` and `end`: where
the answer stands in the document's text, so that each can be checked.
"""

import json
import re
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

from pharos.core import CorpusError, Document
from pharos.core.nouns import Section
from pharos.data.deduplication import NearDuplicates, content_hash, signature
from pharos.data.discover import SourceFile, discover
from pharos.data.sentences import split_sentences
from pharos.data.workers import run_isolated

Kind = Literal["section", "definition", "continuation"]
Span = tuple[int, int]
NEAR_THRESHOLD = 0.8
SHORTEST_ANSWER = 40
LONGEST_QUESTION = 400
_DEFINITION = re.compile(
    r"(?:(?P<article>An?|The) )?(?P<term>[\w+./-]+(?: [\w+./-]+){0,5}?) (?P<verb>is|are) "
    r"(?:an?|the) \w"
)
_PRONOUN = re.compile(r"(?:It|This|That|These|Those|There|They|He|She|We|You|I|Here|What|Which)\b")
_PROSE = re.compile(r"[A-Z\"“(].*[.!?][\"”)]*", re.DOTALL)


@dataclass(frozen=True, kw_only=True, slots=True)
class PairConfig:
    """An answer has at most `max_characters`, in whole sentences; a document gives at most
    `continuations` continuations, spread over it."""

    max_characters: int = 600
    continuations: int = 8

    def __post_init__(self) -> None:
        if self.max_characters < SHORTEST_ANSWER:
            raise ValueError(
                f"max_characters is {self.max_characters}; an answer has at least {SHORTEST_ANSWER}"
            )
        if self.continuations < 0:
            raise ValueError(f"continuations is {self.continuations}; it must be 0 or more")


@dataclass(frozen=True, slots=True)
class Pair:
    kind: Kind
    question: str
    answer: Span


@dataclass(slots=True)
class PairReport:
    """How many documents were read, and left out as duplicates; the pairs by kind; failures as
    (source, reason)."""

    documents: int = 0
    duplicates: int = 0
    pairs: dict[Kind, int] = field(default_factory=dict)
    failures: list[tuple[str, str]] = field(default_factory=list)

    def __str__(self) -> str:
        told = ", ".join(f"{count:,} {kind}s" for kind, count in self.pairs.items()) or "no pairs"
        failed = f"; {len(self.failures):,} files could not be read" if self.failures else ""
        return f"{self.documents:,} documents, {self.duplicates:,} duplicates: {told}{failed}"


@dataclass(frozen=True, slots=True)
class _Read:
    """What a worker makes of a file."""

    hash: str
    signature: bytes
    records: list[dict[str, Any]]


def write_instruction_pairs(
    paths: Iterable[str | Path], out: Path, config: PairConfig, *, workers: int = 1
) -> PairReport:
    """The pairs of all files that `paths` name, into one file of JSON lines: all of it, or none.
    Raises CorpusError if no pair is found."""
    report = PairReport()
    unfinished = out.with_name(f".{out.name}.unfinished")
    out.parent.mkdir(parents=True, exist_ok=True)
    with unfinished.open("w", encoding="utf-8") as file:
        for record in instruction_records(paths, config, report, workers=workers):
            file.write(json.dumps(record, ensure_ascii=False) + "\n")
    if not report.pairs:
        unfinished.unlink()
        reason = f"; {report.failures[0][0]}: {report.failures[0][1]}" if report.failures else ""
        raise CorpusError(
            f"no instruction pair was found in {report.documents:,} documents{reason}; they need "
            "headings, definitions or a few sentences of prose"
        )
    unfinished.replace(out)
    return report


def instruction_records(
    paths: Iterable[str | Path], config: PairConfig, report: PairReport, *, workers: int = 1
) -> Iterator[dict[str, Any]]:
    """The records, in the order of the files' names; `report` is filled on the way."""
    found = discover(paths)
    report.failures += found.failures
    texts, questions, near = set[str](), set[str](), NearDuplicates(NEAR_THRESHOLD)
    outcomes = run_isolated(partial(_read, config), found.files, workers=workers)
    with closing(outcomes):  # type: ignore[type-var]
        for outcome in outcomes:
            if outcome.value is None:
                report.failures.append((outcome.item.source, str(outcome.error)))
                continue
            report.documents += 1
            if outcome.value.hash in texts or near.find(outcome.value.signature):
                report.duplicates += 1
                continue
            texts.add(outcome.value.hash)
            near.add(outcome.item.source, outcome.value.signature)
            for record in outcome.value.records:
                question = record["messages"][0]["content"]
                if question not in questions:
                    questions.add(question)
                    report.pairs[record["kind"]] = report.pairs.get(record["kind"], 0) + 1
                    yield record


def _read(config: PairConfig, file: SourceFile) -> _Read:
    from pharos.data.parsing import parse  # it takes libraries that training does without

    document = parse(file.path, source=file.source)
    records = [_record(document, pair) for pair in pairs_of(document, config)]
    return _Read(content_hash(document.text), signature(document.text), records)


def _record(document: Document, pair: Pair) -> dict[str, Any]:
    start, end = pair.answer
    return {
        "messages": [
            {"role": "user", "content": pair.question},
            {"role": "assistant", "content": document.text[start:end]},
        ],
        "kind": pair.kind,
        "source": document.source,
        "start": start,
        "end": end,
    }


def pairs_of(document: Document, config: PairConfig) -> Iterator[Pair]:
    """What can be asked of one document."""
    sections = document.sections or (Section(start=0, end=len(document.text)),)
    prose = [_prose(document.text, section) for section in sections]
    for section, sentences in zip(sections, prose, strict=True):
        yield from _of_section(document, section, sentences, config)
        yield from _definitions(document.text, sentences, config)
    yield from _continuations(document, prose, config)


def _of_section(
    document: Document, section: Section, sentences: list[Span], config: PairConfig
) -> Iterator[Pair]:
    heading = section.headings[-1] if section.headings else ""
    answer = _answer(sentences, config)
    if answer and heading and heading != document.title:
        title = document.title or "the document"
        yield Pair("section", f"What does {title} say about {heading}?", answer)


def _definitions(text: str, sentences: list[Span], config: PairConfig) -> Iterator[Pair]:
    for i, (start, end) in enumerate(sentences):
        found = _DEFINITION.match(text, start, end)
        if found is None or _PRONOUN.match(found["term"]):
            continue
        answer = _answer(sentences[i : i + 2], config)
        if answer:
            article = f"{found['article'].lower()} " if found["article"] else ""
            question = f"What {found['verb']} {article}{found['term']}?"
            yield Pair("definition", question, answer)


def _continuations(
    document: Document, prose: list[list[Span]], config: PairConfig
) -> Iterator[Pair]:
    places = [(sentences, i) for sentences in prose for i, _ in enumerate(sentences[1:], 1)]
    step = max(1, -(-len(places) // max(config.continuations, 1)))
    for sentences, i in places[::step][: config.continuations]:
        start, end = sentences[i - 1]
        answer = _answer(sentences[i : i + 3], config)
        if answer and end - start <= LONGEST_QUESTION:
            title = f" of {document.title}" if document.title else ""
            asked = f"Continue this passage{title}: {document.text[start:end]}"
            yield Pair("continuation", asked, answer)


def _prose(text: str, section: Section) -> list[Span]:
    """The whole sentences of a section, without headings, lists of names and code."""
    spans = (
        (section.start + start, section.start + end)
        for start, end in split_sentences(text[section.start : section.end])
    )
    return [(start, end) for start, end in spans if _PROSE.fullmatch(text[start:end])]


def _answer(sentences: list[Span], config: PairConfig) -> Span | None:
    """As many of the sentences as fit and follow each other; None if that says too little."""
    if not sentences:
        return None
    start, end = sentences[0]
    for before, after in pairwise(sentences):
        if after[0] - before[1] > 2 or after[1] - start > config.max_characters:
            break
        end = after[1]
    return (start, end) if SHORTEST_ANSWER <= end - start <= config.max_characters else None
