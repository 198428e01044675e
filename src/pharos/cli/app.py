"""Wires the commands and turns errors into one line on stderr and an exit code.

Exit codes: 0 done (or answered), 3 abstained, 2 wrong use, 1 failure, 130 interrupted.
Modules named here import nothing heavy, so that `--help` comes at once; commands import torch,
LanceDB and rich when they run.
"""

import sys
from collections.abc import Sequence
from traceback import walk_tb
from typing import Annotated

import typer

from pharos import __version__
from pharos.cli.ask import ask
from pharos.cli.bench import bench
from pharos.cli.chat import chat
from pharos.cli.corpus import corpus
from pharos.cli.demo import demo
from pharos.cli.doctor import doctor
from pharos.cli.generate import generate
from pharos.cli.ingest import ingest
from pharos.cli.library import library
from pharos.cli.merge import merge
from pharos.cli.models import models
from pharos.cli.plan import plan
from pharos.cli.route import route
from pharos.cli.search import search
from pharos.cli.serve import serve
from pharos.cli.tokenizer import tokenizer
from pharos.cli.train import train
from pharos.core import PharosError

app = typer.Typer(
    name="pharos",
    help="Ask a folder of documents: private, offline, every answer cited and checkable.",
    epilog='Begin with: pharos ask "How is a role dropped?" --docs manuals/',
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (ask, ingest, search, generate, chat, serve, train, route):
    app.command()(command)
app.add_typer(library)
app.add_typer(models)
app.add_typer(tokenizer)
app.add_typer(corpus)
app.add_typer(plan)
app.add_typer(bench)
app.command()(merge)
app.command()(doctor)
app.command()(demo)


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"pharos {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    pass


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit. `arguments` is `sys.argv[1:]` if not given."""
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="replace")  # type: ignore[union-attr]
    try:
        app(args=None if arguments is None else list(arguments), prog_name="pharos")
    except PharosError as error:
        _fail(str(error))
    except ValueError as error:
        if not is_wrong_use(error):
            raise
        _fail(str(error), code=2)
    except OSError as error:
        _fail(f"{error.filename}: {error.strerror}" if error.filename else str(error))
    except MemoryError:
        _fail("out of memory: close other programs, or ingest fewer and smaller files at a time")


def is_wrong_use(error: ValueError) -> bool:
    """Whether Pharos refused a value with a message of its own. What other code raises, or a kind
    of ValueError that is about data, is a mistake of ours, whose traceback must be seen."""
    frames = [frame.f_globals.get("__name__", "") for frame, _ in walk_tb(error.__traceback__)]
    return type(error) is ValueError and frames[-1].startswith("pharos.")


def _fail(message: str, *, code: int = 1) -> None:
    from pharos.cli.terminal import note, one_line

    note(f"pharos: {one_line(message)}")
    sys.exit(code)
