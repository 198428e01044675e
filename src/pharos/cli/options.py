"""The options that several commands share, so that they are called and explained alike."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

DEFAULT_LIBRARY = Path("pharos.library")
PUBLIC = "public"

LibraryOption = Annotated[
    Path | None,
    typer.Option(
        "--library",
        metavar="DIR",
        help=f"The library's folder; else $PHAROS_LIBRARY, else ./{DEFAULT_LIBRARY}.",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]
ExplainOption = Annotated[bool, typer.Option("--explain", help="Show what the scores are made of.")]
GroupOption = Annotated[
    list[str] | None,
    typer.Option("--group", metavar="GROUP", help="Ask as a member of this group; repeatable."),
]
FilterOption = Annotated[
    list[str] | None,
    typer.Option(
        "--filter",
        metavar="KEY=VALUE",
        help="Only documents whose metadata has this value; repeatable, all must hold.",
    ),
]


def library_folder(library: Path | None) -> Path:
    """The folder that was asked for: the option, else $PHAROS_LIBRARY, else the default."""
    return library or Path(os.environ.get("PHAROS_LIBRARY") or DEFAULT_LIBRARY)


def reader_groups(groups: Sequence[str] | None) -> tuple[str, ...]:
    """The groups asked as, or those that may read; a blank name is wrong use."""
    if any(not group.strip() for group in groups or ()):
        raise typer.BadParameter("--group needs a name, for example --group legal")
    return tuple(groups or (PUBLIC,))


def metadata_filters(filters: Sequence[str] | None) -> dict[str, str]:
    """`["format=pdf"]` to `{"format": "pdf"}`; anything without a key is wrong use."""
    pairs = [item.partition("=") for item in filters or ()]
    for key, equals, value in pairs:
        if not key or not equals:
            raise typer.BadParameter(
                f"'{key}{equals}{value}' is not KEY=VALUE, for example --filter format=pdf"
            )
    return {key: value for key, _, value in pairs}
