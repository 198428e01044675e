"""`pharos search`: the passages themselves, best first."""

from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from pharos.cli.options import (
    ExplainOption,
    FilterOption,
    GroupOption,
    JsonOption,
    LibraryOption,
    library_folder,
    metadata_filters,
    reader_groups,
)

if TYPE_CHECKING:
    from pharos.core import Hit


def search(
    query: Annotated[
        str, typer.Argument(metavar="QUERY", show_default=False, help="Words or a question.")
    ],
    library: LibraryOption = None,
    k: Annotated[int, typer.Option("-k", metavar="N", min=1, help="How many passages.")] = 10,
    mode: Annotated[
        Literal["hybrid", "dense", "bm25"],
        typer.Option("--mode", help="By meaning and by words, or by one of them alone."),
    ] = "hybrid",
    groups: GroupOption = None,
    filters: FilterOption = None,
    explain: ExplainOption = False,
    as_json: JsonOption = False,
) -> None:
    """Find the passages nearest to a query, by meaning and by words.

    \b
    Examples:
      pharos search "drop a role that owns objects" -k 5 --explain
      pharos search autovacuum --filter format=pdf --json
    """
    from pharos.cli import rendering, terminal
    from pharos.rag import Library

    if not query.strip():
        raise typer.BadParameter("the query is empty; search for something")
    opened = Library.open(library_folder(library), create=False)
    hits = opened.search(
        query, k=k, groups=reader_groups(groups), filters=metadata_filters(filters), mode=mode
    )
    if as_json:
        terminal.print_json({"query": query, "hits": [hit_object(hit) for hit in hits]})
    elif hits:
        rendering.print_hits(hits, explain=explain)
    else:
        terminal.note("nothing found")


def hit_object(hit: "Hit") -> dict[str, Any]:
    return {
        "document": hit.passage.source,
        "title": hit.passage.title,
        "headings": list(hit.passage.headings),
        "page": hit.passage.page,
        "start": hit.passage.start,
        "end": hit.passage.end,
        "text": hit.passage.text,
        "score": hit.score,
        "scores": dict(hit.scores),
    }
