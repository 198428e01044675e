"""Every recipe that ships keeps to the rules of recipes."""

from pathlib import Path

import pytest

from pharos.cli.train import read_yaml
from pharos.train.recipe import read_recipe

FOLDER = Path(__file__).parents[2] / "recipes"
RECIPES = sorted(FOLDER.rglob("*.yaml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: str(path.relative_to(FOLDER)))
def test_a_recipe_that_ships_can_be_read(path: Path) -> None:
    raw = read_yaml(path, [])
    if "routes" in raw:
        pytest.skip("a router's recipe is read by pharos.specialists.router_recipe")
    assert read_recipe(raw).about
