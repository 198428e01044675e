"""`pharos library`: what a library holds."""

import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pharos.cli.options import JsonOption, LibraryOption, library_folder
from pharos.core import LibraryError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pharos.rag import DocumentRecord, Library

DOCUMENT_HELP = "As `pharos library list` names it."

library = typer.Typer(
    name="library",
    help="List, show, remove and check the documents of a library.",
    epilog="Example: pharos library list --library manuals.library",
    no_args_is_help=True,
    rich_markup_mode=None,
)


def opened(folder: Path | None) -> "Library":
    from pharos.rag import Library

    return Library.open(library_folder(folder), create=False)


@library.command("list")
def list_documents(folder: LibraryOption = None, as_json: JsonOption = False) -> None:
    """List the documents, one a line.

    \b
    Example:
      pharos library list --library manuals.library
    """
    from pharos.cli import rendering, terminal

    documents = opened(folder).documents()
    if as_json:
        terminal.print_json({"documents": [asdict(document) for document in documents]})
    else:
        rendering.print_documents(documents)


@library.command()
def show(
    source: Annotated[
        str, typer.Argument(metavar="DOCUMENT", show_default=False, help=DOCUMENT_HELP)
    ],
    folder: LibraryOption = None,
    span: Annotated[
        str | None,
        typer.Option(
            "--span", metavar="START:END", help="Print these characters of the text, as cited."
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Show a document: its headings, or the text of a citation.

    \b
    Examples:
      pharos library show manuals/roles.pdf
      pharos library show manuals/roles.pdf --span 1024:1188
    """
    from pharos.cli import rendering, terminal

    library = opened(folder)
    source = source_in(library.documents(), source)
    document = library.document(source)
    if span is not None:
        start, end = span_of(span, len(document.text))
        document_text = document.text[start:end]
        if as_json:
            terminal.print_json(
                {"document": source, "start": start, "end": end, "text": document_text}
            )
        else:
            rendering.print_text(document_text)
    elif as_json:
        terminal.print_json(asdict(document) | {"metadata": dict(document.metadata)})
    else:
        rendering.print_document(document)


def source_in(documents: "Iterable[DocumentRecord]", named: str) -> str:
    """The document's name in the library: as given, else the path that it is from here."""
    absolute = os.path.normpath(Path.cwd() / named)
    sources = {record.source for record in documents}
    return absolute if named not in sources and absolute in sources else named


def span_of(span: str, length: int) -> tuple[int, int]:
    """`"10:25"` to `(10, 25)`, which must lie within a text of `length` characters."""
    start, _, end = span.partition(":")
    if not (start.isdecimal() and end.isdecimal() and int(start) <= int(end) <= length):
        raise typer.BadParameter(
            f"--span {span!r} is not START:END within the text's {length} characters, "
            f"for example 0:{min(length, 80)}"
        )
    return int(start), int(end)


@library.command()
def remove(
    sources: Annotated[
        list[str], typer.Argument(metavar="DOCUMENT", show_default=False, help=DOCUMENT_HELP)
    ],
    folder: LibraryOption = None,
) -> None:
    """Remove documents from the library; their files are not touched.

    \b
    Example:
      pharos library remove manuals/old.pdf
    """
    from pharos.cli import terminal

    library = opened(folder)
    documents = library.documents()
    named = {source_in(documents, source) for source in sources}
    absent = named - {record.source for record in documents}
    terminal.note(f"removed {library.remove(named - absent)} of {len(named)} documents")
    if absent:
        raise LibraryError(
            f"not in {library.path}: {', '.join(sorted(absent))}; pharos library list shows what is"
        )


@library.command()
def check(folder: LibraryOption = None, as_json: JsonOption = False) -> None:
    """Check that everything adds up: passages, vectors, offsets, texts.

    Prints what does not, one line each, and exits with 1 if anything does not.

    \b
    Example:
      pharos library check --library manuals.library
    """
    from pharos.cli import rendering, terminal

    library = opened(folder)
    problems = library.check()
    if as_json:
        terminal.print_json({"problems": problems, **asdict(library.stats())})
    else:
        rendering.print_check(problems, library.stats())
    if problems:
        raise typer.Exit(1)
