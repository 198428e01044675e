"""`pharos models`: the models that have a short name, and where they are."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from pharos.cli.options import JsonOption

if TYPE_CHECKING:
    from pharos.models.resolve import ModelFolder

models = typer.Typer(
    name="models",
    help="List, download and show models.",
    epilog="Example: pharos models list",
    no_args_is_help=True,
    rich_markup_mode=None,
)
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
def show(name: NameArgument, as_json: JsonOption = False) -> None:
    """Show a model: its folder, shape and checksum.

    \b
    Example:
      pharos models show all-MiniLM-L6-v2
    """
    from pharos.cli import rendering, terminal
    from pharos.models.resolve import find_model

    folder = find_model(name)
    facts = model_facts(folder)
    if as_json:
        terminal.print_json({"name": folder.name, **facts})
    else:
        rendering.print_fields(folder.name, facts)


def model_facts(folder: "ModelFolder") -> dict[str, Any]:
    from pharos.models.checkpoint import read_config, sha256_of, weight_files

    files = weight_files(folder.path)
    digests = {file.name: sha256_of(file) for file in files}
    published = None if folder.sha256 is None else folder.sha256 in digests.values()
    config = read_config(folder.path)
    shape = ("model_type", "hidden_size", "num_hidden_layers", "vocab_size")
    return {
        "folder": str(folder.path),
        **{key: config[key] for key in shape if key in config},
        "megabytes": round(sum(file.stat().st_size for file in files) / 1e6),
        **{f"sha256 of {name}": digest for name, digest in digests.items()},
        "published": published,
    }
