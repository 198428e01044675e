"""How answers, hits, reports and documents look on the terminal.

A link goes only to a file that is there, never to an address that a document names.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.style import Style
from rich.text import Text

from pharos.cli.terminal import (
    dedented,
    indented,
    messages,
    note,
    one_line,
    printable,
    reflowed,
    results,
    shown_path,
)
from pharos.core import Answer, Citation, Document, Hit

if TYPE_CHECKING:
    from pharos.cli.doctor import Check
    from pharos.data.tokenizer import Piece
    from pharos.rag import DocumentRecord, IngestReport, LibraryStats

MOST_LISTED = 20
PIECE_STYLES = ("bold cyan", "bold green", "bold yellow", "bold magenta")


def place(source: str, title: str, headings: tuple[str, ...]) -> Text:
    """Where a text stands in words: `Title › Chapter › Section`."""
    names: dict[str, str] = {}
    for name in map(one_line, (title, *headings)):
        names.setdefault(name.casefold(), name)
    path = " › ".join(name for name in names.values() if name)
    return Text(path or one_line(source), style="bold")


def source_link(source: str, page: int | None) -> Text:
    """The document's name; a link to it (at its page) where it is a file on this machine."""
    shown = Text(shown_path(source))
    if os.path.isfile(source):  # noqa: PTH113 - Path.is_file raises where a name is too long
        uri = Path(source).resolve().as_uri() + (f"#page={page}" if page is not None else "")
        shown.stylize(Style(link=uri))
    return shown


def position(page: int | None, start: int, end: int) -> str:
    characters = f"characters {start}–{end}"
    return characters if page is None else f"page {page}, {characters}"


def print_answer(answer: Answer, *, is_said: bool = False) -> None:
    """The answer, unless it `is_said` already, and its numbered sources; or that there is none."""
    console = results()
    if answer.answer is None:
        print_abstention(console, answer)
        return
    if not is_said:
        for line in indented(Text(reflowed(answer.answer)), "", console):
            console.print(line)
    console.print(Text(f"\nSources (confidence {answer.confidence:.2f}):"))
    print_citations(console, answer.citations)
    if answer.unsupported:
        note(f"not borne out by the sources: {len(answer.unsupported)} more; --explain shows them")


def print_abstention(console: Console, answer: Answer) -> None:
    """That there is no answer, why, and what was looked at."""
    why = f"confidence {answer.confidence:.2f} is too low"
    if answer.unsupported:
        why = "they do not bear out what the model wrote"
    console.print(Text(f"No answer from these documents: {why}.", style="bold"), soft_wrap=True)
    if answer.looked_at:
        console.print(Text("\nLooked at:"))
    print_citations(console, answer.looked_at, whole=False)


def print_citations(
    console: Console, citations: tuple[Citation, ...], *, whole: bool = True
) -> None:
    """Numbered sources with their quotes, `whole` or only how they begin."""
    for number, citation in enumerate(citations, start=1):
        label = f"[{number}] "
        where = f", {position(citation.page, citation.start, citation.end)}"
        at = (citation.document, citation.title, citation.headings)
        _print_place(
            console, label, at, source_link(citation.document, citation.page) + Text(where)
        )
        text = dedented(citation.quote) if whole else excerpt(citation.quote, 100)
        for line in indented(Text(text), "    │ ", console):
            console.print(line)


def _print_place(
    console: Console, label: str, at: tuple[str, str, tuple[str, ...]], link: Text
) -> None:
    """The heading path and, on the next line, the file; one line if they are the same."""
    path = place(*at)
    if path.plain == Path(at[0]).name:
        console.print(Text(label, style="cyan") + link, soft_wrap=True)
        return
    console.print(Text(label, style="cyan") + path, soft_wrap=True)
    console.print(Text(" " * len(label)) + link, soft_wrap=True)


def print_hits(hits: list[Hit], *, explain: bool) -> None:
    console = results()
    for number, hit in enumerate(hits, start=1):
        _print_hit(console, number, hit, explain=explain)


def _print_hit(console: Console, number: int, hit: Hit, *, explain: bool) -> None:
    passage, label = hit.passage, f"{number:>2}. "
    where = f", {position(passage.page, passage.start, passage.end)}, score {hit.score:.4f}"
    at = (passage.source, passage.title, passage.headings)
    _print_place(console, label, at, source_link(passage.source, passage.page) + Text(where))
    if explain:
        console.print(Text("    " + explained(hit.scores), style="dim"), soft_wrap=True)
    for line in indented(Text(excerpt(passage.text)), "    │ ", console):
        console.print(line)


def explained(scores: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in scores.items())


def excerpt(text: str, length: int = 320) -> str:
    """The beginning of a text on one line, cut at a word."""
    text = one_line(text)
    if len(text) <= length:
        return text
    return text[:length].rsplit(" ", 1)[0] + " …"


def print_question(question: str) -> None:
    results().print(Text(f"\n? {one_line(question)}", style="bold cyan"), soft_wrap=True)


def explain_answer(answer: Answer) -> None:
    """On stderr: the times, the passages that were read with their scores, what of them was
    nearest to an answer, the sentences that were dropped."""
    console = messages()
    times = ", ".join(f"{stage} {ms:.0f} ms" for stage, ms in answer.timings_ms.items())
    console.print(Text(f"\nConfidence {answer.confidence:.3f}; {times}"), soft_wrap=True)
    for hit in answer.hits:
        where = position(hit.passage.page, hit.passage.start, hit.passage.end)
        line = f"  read {shown_path(hit.passage.source)}, {where}, score {hit.score:.4f}"
        console.print(Text(f"{line}: {explained(hit.scores)}", style="dim"), soft_wrap=True)
    for citation in answer.looked_at:
        where = position(citation.page, citation.start, citation.end)
        line = f"  nearest ({citation.score:.3f}) {shown_path(citation.document)}, {where}"
        console.print(Text(f"{line}: {excerpt(citation.quote, 60)}", style="dim"), soft_wrap=True)
    for sentence in answer.unsupported:
        console.print(Text(f"  not borne out: {one_line(sentence)}"), soft_wrap=True)


def print_report(report: "IngestReport", folder: Path) -> None:
    """What an ingest did, and every file it could not take with the reason."""
    console = results()
    counts = {
        "added": report.added,
        "changed": report.changed,
        "unchanged": report.unchanged,
        "removed": report.removed,
        "with other readers": report.readers_changed,
    }
    done = ", ".join(f"{count:,} {name}" for name, count in counts.items() if count)
    console.print(Text(f"{done or 'nothing to do'} in {report.seconds:.1f} s"), soft_wrap=True)
    holds = (
        f"{shown_path(folder)} holds {report.documents:,} documents in {report.passages:,} passages"
    )
    console.print(Text(one_line(holds)), soft_wrap=True)
    duplicates = [
        f"{shown_path(item.source)} = {shown_path(item.duplicate_of)} "
        f"({'exact' if item.kind == 'exact' else f'{item.similarity:.0%} alike'})"
        for item in report.duplicates
    ]
    failures = [f"{shown_path(item.source)}: {one_line(item.reason)}" for item in report.failures]
    _print_listed(console, "left out as duplicates", duplicates)
    _print_listed(console, "not read", failures)


def _print_listed(console: Console, name: str, lines: Sequence[str]) -> None:
    if lines:
        console.print(Text(f"{name} ({len(lines):,}):", style="bold"))
    for line in lines[:MOST_LISTED]:
        console.print(Text(f"  {line}"), soft_wrap=True)
    if len(lines) > MOST_LISTED:
        console.print(Text(f"  and {len(lines) - MOST_LISTED:,} more; --json lists all"))


def print_documents(documents: Sequence["DocumentRecord"]) -> None:
    console = results()
    for record in documents:
        facts = f"{record.format}, {record.num_passages} passages, {', '.join(record.groups)}"
        if record.status != "indexed":
            facts += f", {record.status}"
        line = source_link(record.source, None) + Text(f"  {one_line(record.title)}", style="bold")
        console.print(line + Text(f"  ({one_line(facts)})", style="dim"), soft_wrap=True)


def print_document(document: Document) -> None:
    """A document's facts and its outline, each heading with the characters it covers."""
    facts: dict[str, object] = {"source": document.source, "format": document.format}
    facts |= {"characters": len(document.text), "pages": len(document.pages) or None}
    print_fields(document.title, facts | dict(document.metadata))
    console = results()
    for section in document.sections:
        if section.headings:
            indent = "  " * len(section.headings)
            heading = Text(f"{indent}{one_line(section.headings[-1])}")
            span = Text(f"  {section.start}:{section.end}", style="dim")
            console.print(heading + span, soft_wrap=True)


def print_pieces(text: str, pieces: Sequence["Piece"]) -> None:
    """The tokens in the order of the text, in turns of colour, each with its id. One that has no
    place of its own (`<s>`, a byte of an emoji) is shown as the vocabulary writes it."""
    line, previous = Text(), (0, 0)
    for number, piece in enumerate(pieces):
        place = (piece.start, piece.end)
        is_own = piece.start < piece.end and place != previous
        shown = visible(text[piece.start : piece.end]) if is_own else one_line(piece.token)
        line.append(shown, style=PIECE_STYLES[number % len(PIECE_STYLES)] if is_own else "italic")
        line.append(f" {piece.id}  ", style="dim")
        previous = place
    results().print(line)


def visible(text: str) -> str:
    """A piece of a text on one line, its blanks and line ends to be seen."""
    return printable(text).replace(" ", "·").replace("\t", "⇥").replace("\n", "⏎")


def print_text(text: str) -> None:
    results().print(Text(printable(text)), soft_wrap=True)


def print_fields(title: str, fields: Mapping[str, object]) -> None:
    """A title and its facts, one a line; facts that are None are left out."""
    console = results()
    console.print(Text(one_line(title), style="bold"), soft_wrap=True)
    for name, value in fields.items():
        if value is not None:
            line = Text(f"  {one_line(name)}: ", style="dim") + Text(one_line(str(value)))
            console.print(line, soft_wrap=True)


def print_check(problems: Sequence[str], stats: "LibraryStats") -> None:
    console = results()
    for problem in problems:
        console.print(Text(one_line(problem), style="red"), soft_wrap=True)
    held = f"{stats.documents:,} documents, {stats.passages:,} passages, {stats.windows:,} vectors"
    verdict = f"{len(problems):,} problems" if problems else "everything adds up"
    console.print(Text(f"{held}: {verdict}"), soft_wrap=True)


def print_checks(checks: Sequence["Check"]) -> None:
    console = results()
    for check in checks:
        mark = Text("ok    ", style="green") if check.ok else Text("wrong ", style="bold red")
        for line in indented(Text(f"{check.name}: {one_line(check.found)}"), "      ", console):
            console.print(mark + line[6:] if mark else line, soft_wrap=True)
            mark = Text("")
        if not check.ok:
            console.print(Text(f"      mend it with: {check.mend}"), soft_wrap=True)
