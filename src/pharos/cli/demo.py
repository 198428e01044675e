"""`pharos demo`: the whole tool on documents that every machine has.

The documents are the language reference that CPython carries for its `help()`, one file a topic,
and the descriptions of the packages that Pharos was installed with. Nothing is downloaded.
"""

import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pharos.cli.doctor import runtime_requirements

if TYPE_CHECKING:
    from importlib.metadata import Distribution

    from pharos.core import Answer
    from pharos.rag import Library

ANSWERABLE = (
    "Why should a mutable default argument be avoided?",
    "How are chained comparisons evaluated?",
    "What is pypdfium2 built on?",
)
UNANSWERABLE = "How do I set up PostgreSQL replication?"


def demo(
    folder: Annotated[
        Path, typer.Option("--folder", metavar="DIR", help="Where documents and library go.")
    ] = Path("demo-library"),
) -> None:
    """Try it on documents that every machine has.

    Builds a library below DIR and asks it three questions that it can answer and one it cannot.

    \b
    Example:
      pharos demo && cd demo-library && pharos ask "What does a with statement do?"
    """
    from pharos.cli import rendering, terminal
    from pharos.cli.ingest import ingest_with_bars
    from pharos.rag import Library

    started = time.monotonic()
    documents = write_documents(folder / "documents")
    terminal.note(f"{documents} documents written to {folder / 'documents'}")
    library = Library.open(folder / "pharos.library")
    report = ingest_with_bars(library, [str(folder / "documents")], prune=True)
    rendering.print_report(report, folder / "pharos.library")
    answers = [show_answer(library, question) for question in (*ANSWERABLE, UNANSWERABLE)]
    terminal.note(f"\nAll of this took {time.monotonic() - started:.0f} s. Go on with:")
    terminal.note(f'  cd {folder} && pharos ask "What does a with statement do?"')
    if [answer.abstained for answer in answers] != [False] * len(ANSWERABLE) + [True]:
        terminal.note("This is not the outcome that was expected: please report it.")
        raise typer.Exit(1)


def show_answer(library: "Library", question: str) -> "Answer":
    from pharos.cli.rendering import print_answer, print_question

    print_question(question)
    answer = library.ask(question)
    print_answer(answer)
    return answer


def write_documents(folder: Path) -> int:
    """Write the demo's documents below `folder`; returns how many."""
    texts = {**language_reference(), **package_descriptions()}
    for name, text in texts.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return len(texts)


def language_reference() -> dict[str, str]:
    """CPython's help topics; one that stands whole within a longer one is left out."""
    from pydoc_data.topics import topics

    bodies = {name: unadorned(text) for name, text in topics.items()}
    return {
        f"python/{name}.rst": topics[name]
        for name, body in bodies.items()
        if not any(body in other and len(body) < len(other) for other in bodies.values())
    }


def unadorned(text: str) -> str:
    """A topic without its title and without the lines under headings, which differ by depth."""
    _, _, body = text.partition("\n")
    return re.sub(r"^([*=~^-])\1+\n", "", body, flags=re.MULTILINE).strip()


def package_descriptions() -> dict[str, str]:
    """The README of each package that Pharos requires, as its METADATA carries it."""
    from importlib.metadata import distribution

    names = runtime_requirements()
    return {f"packages/{name}.md": description(distribution(name)) for name in names}


def description(package: "Distribution") -> str:
    fields = package.metadata
    facts = [f"- {key}: {fields[key]}" for key in ("Version", "License-Expression", "Summary")]
    known = [fact for fact in facts if not fact.endswith(": None")]
    return "\n".join(
        [f"# {fields['Name']}", "", *known, "", str(fields.json.get("description", ""))]
    )
