"""`pharos merge`: an adapter into the weights of its model."""

from pathlib import Path
from typing import Annotated

import typer

from pharos.cli.options import JsonOption


def merge(
    name: Annotated[
        str,
        typer.Argument(
            metavar="MODEL", show_default=False, help="A short name, a folder, or a hub id."
        ),
    ],
    adapter: Annotated[
        Path,
        typer.Argument(
            metavar="ADAPTER", show_default=False, help="The adapter's folder, in PEFT's format."
        ),
    ],
    out: Annotated[
        Path, typer.Argument(metavar="OUT", show_default=False, help="The folder to write.")
    ],
    nf4: Annotated[
        bool | None,
        typer.Option(
            "--nf4/--no-nf4",
            show_default=False,
            help="Merge into the base as NF4 holds it, in bfloat16; else as the adapter says.",
        ),
    ] = None,
    untie: Annotated[
        bool,
        typer.Option(
            "--untie",
            help="Give a head that is the embedding again a weight of its own; else as the "
            "adapter says.",
        ),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Merge an adapter into its model: a folder that any library loads, without adapters.

    An adapter that was trained on a model in NF4 belongs to what NF4 made of it: that is what it is
    merged into. Tokens that the adapter has added are added to the model, and a head that was apart
    from the embedding when it was trained gets a weight of its own. A classifier's adapter brings
    its head, and the names of its classes.

    \b
    Examples:
      pharos merge path/to/model path/to/adapter merged
      pharos merge all-MiniLM-L6-v2 runs/banking77_lora/adapter merged
      pharos merge path/to/model qlora-by-peft merged --nf4
    """
    from pharos.cli.rendering import print_fields
    from pharos.cli.terminal import print_json
    from pharos.train.merged_folder import write_merged

    _check_out(out)
    facts = {"folder": str(out), **write_merged(name, adapter, out, in_nf4=nf4, untie=untie)}
    if as_json:
        print_json(facts)
    else:
        print_fields(out.name, facts)


def _check_out(out: Path) -> None:
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise typer.BadParameter(f"{out} is there already; name a folder that is new, or empty")
