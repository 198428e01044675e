"""`pharos models`: the models that have a short name, and where they are."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pharos.cli.options import JsonOption

if TYPE_CHECKING:
    from pharos.models.describe import ModelDescription
    from pharos.models.resolve import ModelFolder

models = typer.Typer(
    name="models",
    help="List, download and show models.",
    epilog="Example: pharos models list",
    no_args_is_help=True,
    rich_markup_mode=None,
)
USUAL_CONTEXT = 4096
NameArgument = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        show_default=False,
        help="A short name, a folder, or a hub id (owner/name).",
    ),
]


@models.command("list")
def list_models(as_json: JsonOption = False) -> None:
    """List the known models and where they are.

    \b
    Example:
      pharos models list
    """
    from pharos.cli import rendering, terminal
    from pharos.models import resolve

    rows: list[dict[str, Any]] = [
        {
            "name": model.name,
            "purpose": model.purpose,
            "megabytes": model.megabytes,
            "licence": model.licence,
            "folder": None if folder is None else str(folder),
        }
        for model, folder in resolve.list_models()
    ]
    if as_json:
        terminal.print_json({"models": rows})
        return
    for row in rows:
        rendering.print_fields(
            row["name"], row | {"folder": row["folder"] or "not on this machine"}
        )


@models.command()
def pull(name: NameArgument) -> None:
    """Download a model from the hub. The only command that downloads anything.

    \b
    Example:
      pharos models pull all-MiniLM-L6-v2
    """
    from pharos.cli import rendering, terminal
    from pharos.models.resolve import pull_model

    terminal.note(f"downloading {name}")
    folder = pull_model(name)
    rendering.print_fields(folder.name, {"folder": str(folder.path)})


@models.command()
def show(
    name: NameArgument,
    context: Annotated[
        int | None,
        typer.Option(
            "--context",
            metavar="TOKENS",
            min=1,
            help=f"How many tokens a token sees; else {USUAL_CONTEXT}, or the model's most.",
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Show a model: its parts, what they cost in memory and operations, its files.

    No weights are loaded: a folder with a config.json is enough.

    \b
    Example:
      pharos models show all-MiniLM-L6-v2
    """
    from pharos.cli import architecture, rendering, terminal
    from pharos.models.checkpoint import read_config
    from pharos.models.resolve import find_model

    folder = find_model(name)
    config = read_config(folder.path)
    description = description_of(config)
    most = USUAL_CONTEXT if description is None else description.max_positions or USUAL_CONTEXT
    context = context or min(USUAL_CONTEXT, most)
    if as_json:
        shape = description and architecture.architecture_json(description, context)
        facts = {**folder_facts(folder, config), **checksums(folder)}
        terminal.print_json({"name": folder.name, **facts, "architecture": shape})
        return
    rendering.print_fields(folder.name, folder_facts(folder, config))
    if description is not None:
        architecture.print_architecture(description, context)
    has_files = bool(files_of(folder))
    rendering.print_fields("weights" if has_files else "no weights here", checksums(folder))


def description_of(config: dict[str, Any]) -> "ModelDescription | None":
    """None, with the reason on stderr, for a network that cannot be built here."""
    from pharos.cli import terminal
    from pharos.core import ModelError
    from pharos.models.describe import describe_config

    try:
        return describe_config(config)
    except ModelError as error:
        terminal.note(f"no table of its parts: {error}")
        return None


def folder_facts(folder: "ModelFolder", config: dict[str, Any]) -> dict[str, Any]:
    files = files_of(folder)
    shape = ("model_type", "hidden_size", "num_hidden_layers", "vocab_size")
    return {
        "folder": str(folder.path),
        **{key: config[key] for key in shape if key in config},
        "megabytes": round(sum(file.stat().st_size for file in files) / 1e6) if files else None,
    }


def checksums(folder: "ModelFolder") -> dict[str, Any]:
    """Of each file of weights, and whether it is the published one (None: nobody published it)."""
    from pharos.models.checkpoint import sha256_of

    digests = {file.name: sha256_of(file) for file in files_of(folder)}
    published = None if folder.sha256 is None else folder.sha256 in digests.values()
    return {
        **{f"sha256 of {name}": digest for name, digest in digests.items()},
        "published": published,
    }


def files_of(folder: "ModelFolder") -> list[Path]:
    """The files of the weights; none in a folder that has only the config."""
    from pharos.models.checkpoint import has_weights, weight_files

    return weight_files(folder.path) if has_weights(folder.path) else []
