"""Routers: `pharos train` makes one of a recipe that has `routes`, `pharos route` asks it."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pharos.cli.options import JsonOption

if TYPE_CHECKING:
    from pharos.specialists.router import Route
    from pharos.specialists.router_recipe import Trained

OUT_OF_SCOPE = 3


def route(
    router: Annotated[
        Path,
        typer.Argument(metavar="DIR", show_default=False, help="A router that was trained."),
    ],
    text: Annotated[
        str, typer.Argument(metavar="TEXT", show_default=False, help="What is to be routed.")
    ],
    as_json: JsonOption = False,
) -> None:
    """Say which route a text belongs to, or that it belongs to none.

    \b
    Examples:
      pharos train recipes/support_router.yaml
      pharos route runs/support_router "can I talk to somebody?"
      pharos route runs/support_router "who won the cup?" --json

    Exit codes: 0 routed, 3 out of scope, 2 wrong use, 1 failure.
    """
    from pharos.cli.terminal import print_json, printable, results
    from pharos.specialists.router_recipe import open_router

    if not text.strip():
        raise typer.BadParameter("the text is empty; give what is to be routed")
    found = open_router(router).route(text)
    if as_json:
        print_json(route_object(text, found))
    else:
        results().print(printable(told(found)), markup=False, highlight=False)
    raise typer.Exit(OUT_OF_SCOPE if found.is_out_of_scope else 0)


def train_routes(raw: Mapping[str, object], *, as_json: bool) -> None:
    """Train the router that a recipe tells, and say what it came to."""
    from pharos.cli.terminal import note, print_json, shown_path
    from pharos.specialists.router_recipe import RouterRecipe, train_router
    from pharos.train.settings import read_settings

    recipe = read_settings(RouterRecipe, raw)
    trained = train_router(recipe)
    if as_json:
        print_json({"output": recipe.output, **trained._asdict()})
        return
    note(summary(trained))
    note(f"The router is in {shown_path(recipe.output)}")


def summary(trained: "Trained") -> str:
    total = sum(trained.examples.values())
    if trained.accuracy is None:
        learned = "too few to keep some for a test"
    else:
        learned = f"learned from three quarters, {trained.accuracy:.0%} of the others go right"
    return f"{len(trained.examples)} routes, {total:,} examples; {learned}"


def told(found: "Route") -> str:
    if found.is_out_of_scope:
        return f"none of the routes (in scope {found.in_scope:.2f}; the nearest is {found.intent})"
    return f"{found.intent} (probability {found.probability:.2f}, in scope {found.in_scope:.2f})"


def route_object(text: str, found: "Route") -> dict[str, Any]:
    """What `--json` prints: `route` is null for what is out of scope, `nearest` never is."""
    return {
        "text": text,
        "route": None if found.is_out_of_scope else found.intent,
        "nearest": found.intent,
        "probability": found.probability,
        "in_scope": found.in_scope,
    }
