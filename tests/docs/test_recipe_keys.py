import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

SOURCE = Path(__file__).parents[2] / "docs" / "recipe_keys.py"


@pytest.fixture(scope="module")
def recipe_keys() -> ModuleType:
    spec = importlib.util.spec_from_file_location("recipe_keys", SOURCE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_has_every_key_as_the_classes_read_it(recipe_keys: ModuleType) -> None:
    assert recipe_keys.PAGE.read_text(encoding="utf-8") == recipe_keys.page(), (
        "docs/recipes.md is out of date: run python docs/recipe_keys.py"
    )


@pytest.mark.parametrize(
    "line",
    [
        "| `output` | text | must be given |",
        "| `data.sources.NAME.path` | text | must be given |",
        "| `data.milestones[].step` | whole number | must be given |",
        "| `training.keep.keep_last` | whole number | `2` |",
        "| `optimizer.name` | `adamw`, `adamw8bit`, `muon` | `adamw` |",
        "| `objective.width` | whole number or null | null |",
    ],
)
def test_a_key_stands_with_its_values_and_its_default(line: str, recipe_keys: ModuleType) -> None:
    assert line in recipe_keys.page().splitlines()
