"""Every recipe that ships keeps to the rules of recipes."""

from pathlib import Path

import pytest

from pharos.cli.train import read_yaml
from pharos.specialists.router_recipe import RouterRecipe
from pharos.train.recipe import Recipe, read_recipe
from pharos.train.settings import read_settings

FOLDER = Path(__file__).parents[2] / "recipes"
RECIPES = sorted(FOLDER.rglob("*.yaml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: str(path.relative_to(FOLDER)))
def test_a_recipe_that_ships_can_be_read(path: Path) -> None:
    raw = read_yaml(path, [])
    is_router = "routes" in raw
    read: RouterRecipe | Recipe
    read = read_settings(RouterRecipe, raw) if is_router else read_recipe(raw)
    assert read.about
