"""`pharos ingest`: documents into a library, with progress and a report."""

import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from pharos.cli.options import JsonOption, LibraryOption, library_folder, reader_groups

if TYPE_CHECKING:
    from pharos.rag import IngestReport, Library

STDIN = "-"
STDIN_NAME = "stdin"


def ingest(
    paths: Annotated[
        list[str],
        typer.Argument(
            metavar="PATH",
            show_default=False,
            help="Files, folders, globs; or - alone for standard input.",
        ),
    ],
    library: LibraryOption = None,
    groups: Annotated[
        list[str] | None,
        typer.Option(
            "--group",
            metavar="GROUP",
            help="Let this group, and no other but those named here, read the documents; "
            "repeatable. Without it, known documents keep their readers and new ones are public.",
        ),
    ] = None,
    prune: Annotated[
        bool, typer.Option("--prune", help="Remove documents whose files are gone.")
    ] = False,
    name: Annotated[
        str | None,
        typer.Option(
            "--name", metavar="NAME", help=f"What standard input is called (else {STDIN_NAME})."
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Read documents into a library. What has not changed is skipped.

    Stopped at any moment, the library is whole; the same command goes on where it stopped.

    \b
    Examples:
      pharos ingest manuals/ notes.md --library manuals.library
      pharos ingest contracts/ --group legal --prune
      curl -s http://intranet/rules.html | pharos ingest - --name rules.html

    Exit codes: 0 done (files that failed are in the report), 1 if none of them could be read.
    """
    from pharos.cli.rendering import print_report
    from pharos.cli.terminal import print_json
    from pharos.rag import Library

    folder = library_folder(library)
    opened, readers = Library.open(folder), reader_groups(groups) if groups else None
    if STDIN in paths:
        refuse_with_stdin(paths, prune=prune)
        report = ingest_stdin(opened, name or STDIN_NAME, readers)
    elif name is not None:
        raise typer.BadParameter("--name is for standard input; files keep their own names")
    else:
        report = ingest_with_bars(opened, paths, groups=readers, prune=prune)
    if as_json:
        print_json(asdict(report))
    else:
        print_report(report, folder)
    if nothing_read(report):
        raise typer.Exit(1)


def refuse_with_stdin(paths: Sequence[str], *, prune: bool) -> None:
    if len(paths) > 1:
        raise typer.BadParameter("- stands alone: ingest the other paths in a run of their own")
    if prune:
        raise typer.BadParameter("--prune is for folders: standard input has no files to be gone")


def ingest_stdin(library: "Library", name: str, groups: Sequence[str] | None) -> "IngestReport":
    """What comes on standard input, as one document; read no further than a file would be."""
    from pharos.data.parsing import ParseLimits

    data = sys.stdin.buffer.read(ParseLimits().max_bytes + 1)
    return library.ingest_bytes(data, name=name, groups=groups)


def nothing_read(report: "IngestReport") -> bool:
    """Whether there was something to read and none of it could be, whatever the library holds."""
    read = report.added or report.changed or report.unchanged or report.duplicates
    return bool(report.failures) and not read


def ingest_with_bars(
    library: "Library",
    paths: Sequence[str],
    *,
    groups: Sequence[str] | None = None,
    prune: bool = False,
    transient: bool = False,
) -> "IngestReport":
    """Ingest with progress on stderr; `transient` bars vanish when they are done."""
    from pharos.cli.progress import progress_bars
    from pharos.cli.terminal import note

    try:
        with progress_bars(transient=transient) as on_progress:
            return library.ingest(paths, groups=groups, prune=prune, on_progress=on_progress)
    except KeyboardInterrupt:
        note("Stopped. The library is whole; the same command goes on from here.")
        raise
