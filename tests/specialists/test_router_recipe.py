import shutil
from pathlib import Path

import numpy as np
import pytest

from pharos.core import ModelError
from pharos.specialists.router import Router
from pharos.specialists.router_recipe import (
    RouterRecipe,
    held_out_accuracy,
    open_router,
    read_examples,
    train_router,
)

SHIPS = ("how many ships ?", "who sees the ships ?", "the ships in the harbour", "old ships")
GULLS = ("who feeds the gulls ?", "how many gulls ?", "the keeper feeds gulls", "gulls in town")
ROUTES = {"ships": SHIPS, "gulls": GULLS}


def recipe(base: Path, output: Path, **more: object) -> RouterRecipe:
    settings = {"routes": ROUTES, "encoder": str(base), "output": str(output)}
    return RouterRecipe(**settings | more)  # type: ignore[arg-type]


def test_what_a_recipe_trains_is_opened_from_its_folder_alone(base: Path, tmp_path: Path) -> None:
    trained = train_router(recipe(base, tmp_path / "routes", out_of_scope=("stone",)))
    assert trained.examples == {"ships": 4, "gulls": 4}
    assert trained.accuracy is not None and 0.0 <= trained.accuracy <= 1.0
    router = open_router(tmp_path / "routes")
    assert router.intents == ("gulls", "ships")
    assert router.route("the ships in the harbour").intent == "ships"
    assert not list((tmp_path / "routes").glob("*adapter*"))


def test_a_router_of_many_examples_keeps_the_adapter_whose_vectors_it_takes(
    base: Path, injection_folder: Path, tmp_path: Path
) -> None:
    adapter = tmp_path / "trained"
    shutil.copytree(injection_folder, adapter)
    train_router(recipe(base, tmp_path / "routes", adapter=str(adapter)))
    shutil.rmtree(adapter)
    assert open_router(tmp_path / "routes").route("gulls in town").intent == "gulls"


def test_examples_are_a_list_or_a_file_with_one_a_line(tmp_path: Path) -> None:
    file = tmp_path / "ships.txt"
    file.write_text("how many ships ?\n\n  old ships\nold ships\n")
    assert read_examples(str(file)) == ["how many ships ?", "old ships"]
    assert read_examples(("old ships", " old ships ", "")) == ["old ships"]


def test_a_text_of_two_routes_is_refused(base: Path, tmp_path: Path) -> None:
    routes = {"ships": SHIPS, "gulls": (*GULLS, "old ships")}
    with pytest.raises(ValueError, match="'old ships' is an example of ships and of gulls; keep"):
        train_router(recipe(base, tmp_path / "routes", routes=routes))
    assert not (tmp_path / "routes").exists()


def test_a_router_that_names_no_encoder_is_not_opened_alone(base: Path, tmp_path: Path) -> None:
    train_router(recipe(base, tmp_path))
    router = open_router(tmp_path)
    router.save(tmp_path)
    with pytest.raises(ModelError, match="names no base; train the router by a recipe, or open it"):
        open_router(tmp_path)
    assert isinstance(router, Router)


def test_accuracy_is_told_by_heads_that_have_not_seen_the_example() -> None:
    label = np.repeat([0, 1], 8)
    apart = np.eye(2, dtype=np.float32)[label] + np.linspace(0, 0.1, 16, dtype=np.float32)[:, None]
    assert held_out_accuracy(apart, label, 2) == 1.0
    alike = np.ones((16, 2), dtype=np.float32)
    assert held_out_accuracy(alike, label, 2) == 0.5
    assert held_out_accuracy(apart[7:9], label[7:9], 2) is None
