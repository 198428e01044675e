"""`pharos train`: run a recipe."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pharos.cli.options import JsonOption
from pharos.cli.route import train_routes

if TYPE_CHECKING:
    from rich.text import Text

    from pharos.train.events import Observer
    from pharos.train.preview import Stretch
    from pharos.train.recipe import Recipe


def train(
    recipe: Annotated[
        Path, typer.Argument(metavar="RECIPE.yaml", show_default=False, help="What to train.")
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", show_default=False, help="Changes to the recipe."),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the last checkpoint in the output.")
    ] = False,
    preview: Annotated[
        bool, typer.Option("--preview", help="Show what the model would see, and train nothing.")
    ] = False,
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Log for TensorBoard too, into the output.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Train what a recipe tells: a model, its data, its objective.

    \b
    Examples:
      pharos train recipes/shakespeare_char_cpu.yaml
      pharos train recipes/shakespeare_char_cpu.yaml output=runs/small training.steps=200
      pharos train recipes/shakespeare_char_cpu.yaml --resume
      pharos train recipes/sft_lora.yaml --preview
      pharos train recipes/sft_lora.yaml model.load=path/to/model data.train=chat.jsonl
      torchrun --nproc-per-node 2 -m pharos train recipes/wikitext_bpe_gpt.yaml parallel.data=2

    Ctrl-C writes a checkpoint and ends the run; --resume goes on from it, exactly. Everything of a
    run is under its output: checkpoints/, model/ (the result), metrics.jsonl, recipe.yaml and
    report.html.

    A recipe with `routes` makes a router, in seconds: see `pharos route`.
    """
    from pharos.cli.terminal import note, print_json, shown_path

    if preview and (resume or tensorboard):
        other = "--resume" if resume else "--tensorboard"
        raise typer.BadParameter(f"--preview trains nothing: leave out {other}, or --preview")
    raw = read_yaml(recipe, overrides or [])
    if "routes" in raw:
        if preview or resume or tensorboard:
            raise typer.BadParameter("a router trains in seconds: give no other option than --json")
        train_routes(raw, as_json=as_json)
        return

    from pharos.train.recipe import read_recipe
    from pharos.train.run import open_run

    told = read_recipe(raw)
    if preview:
        show_preview(told, as_json)
        return
    with open_run(told, resume=resume, say=note) as run:
        if run.is_first:
            write_recipe(told, run.output)
        observers = observers_of(told, tensorboard) if run.is_first else []
        is_complete = run.train(observers)
        outcome = run.outcome(is_complete)
    if not run.is_first:
        return
    if as_json:
        print_json(outcome)
    elif is_complete:
        note(f"The {run.result.name} is in {shown_path(run.result)}")
        note(f"The report is {shown_path(run.output / 'report.html')}")
    else:
        note(f"Stopped at step {outcome['step']}; go on with --resume.")
    if not is_complete:
        sys.exit(130)


def read_recipe_file(path: Path, overrides: list[str]) -> "Recipe":
    """The recipe in a YAML file, with `key=value` overrides. Raises TrainingError naming what is
    wrong with it."""
    from pharos.train.recipe import read_recipe

    return read_recipe(read_yaml(path, overrides))


def read_yaml(path: Path, overrides: list[str]) -> dict[str, Any]:
    """Its keys and values, with `key=value` overrides. Raises TrainingError if it has none."""
    from pharos.core import TrainingError
    from pharos.train.settings import override

    raw = _yaml(path.read_text(encoding="utf-8"), str(path))
    if not isinstance(raw, dict):
        raise TrainingError(f"{path} holds no keys; it must be a recipe, see docs/training.md")
    for assignment in overrides:
        key, equals, value = assignment.partition("=")
        if not equals or not key:
            raise typer.BadParameter(f"{assignment!r} is not KEY=VALUE, training.steps=100 say")
        override(raw, key, _yaml(value, assignment))
    return raw


def write_recipe(recipe: "Recipe", output: Path) -> None:
    """As it was run: with every key, overrides included."""
    import yaml

    from pharos.train.recipe import plain

    output.mkdir(parents=True, exist_ok=True)
    text = yaml.safe_dump(plain(recipe), sort_keys=False, allow_unicode=True)
    (output / "recipe.yaml").write_text(text, encoding="utf-8")


MERGE = "tag:yaml.org,2002:merge"


def _yaml(text: str, where: str) -> Any:
    import yaml

    from pharos.core import TrainingError

    class Strict(yaml.SafeLoader):
        """Of a key that is given twice, PyYAML would silently take the last."""

        def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
            given: set[str] = set()
            for key, _ in node.value:
                if not isinstance(key, yaml.ScalarNode) or key.tag == MERGE:
                    continue
                if key.value in given:
                    raise TrainingError(
                        f"{where}, line {key.start_mark.line + 1}: {key.value} is given twice; "
                        "keep one of them"
                    )
                given.add(key.value)
            return super().construct_mapping(node, deep)

    try:
        return yaml.load(text, Loader=Strict)
    except yaml.YAMLError as error:
        raise TrainingError(f"{where} is not YAML: {error}") from error


def observers_of(recipe: "Recipe", tensorboard: bool) -> "list[Observer]":
    from pharos.cli.training_panel import TrainingPanel

    observers: list[Observer] = [TrainingPanel()]
    if tensorboard:
        from pharos.train.tensorboard import TensorBoardLog

        observers.append(TensorBoardLog(Path(recipe.output)))
    return observers


def show_preview(recipe: "Recipe", as_json: bool) -> None:
    """What the first rows are, decoded; what is asked of the model is marked."""
    from pharos.cli.terminal import note, print_json, results
    from pharos.train.preview import preview, told

    found = preview(recipe, note)
    if as_json:
        print_json(found.as_object())
        return
    console = results()
    has_colors = console.color_system is not None and not console.no_color
    for number, sample in enumerate(found.samples, start=1):
        console.print(f"row {number}", style="bold")
        for part in filter(None, sample):
            console.print(_marked(part, has_colors=has_colors))
    for line in told(found):
        console.print(line, highlight=False)


def _marked(part: "Sequence[Stretch]", *, has_colors: bool) -> "Text":
    """What is asked of the model in green; where there are no colours, in brackets."""
    from rich.text import Text

    from pharos.cli.terminal import printable

    text = Text()
    for words, is_target in part:
        shown = printable(words)
        is_bracketed = is_target and not has_colors
        text.append(f"[{shown}]" if is_bracketed else shown, style="green" if is_target else "")
    return text
