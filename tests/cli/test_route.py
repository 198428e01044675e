import json

import pytest

RECIPE = """\
output: {output}
routes:
  orders: [where is my parcel, my parcel is late, when does it arrive, the parcel never came]
  payment: [how do i pay by card, my card was refused, can i pay with a card, pay the bill]
out_of_scope: [who won the match last night, write a poem about autumn, how tall is the tower]
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("router")
    (folder / "routes.yaml").write_text(RECIPE.format(output=folder / "routes"))
    return folder


@pytest.fixture
def routes(pharos, trained):
    if not (trained / "routes").exists():
        run = pharos("train", trained / "routes.yaml")
        assert run.code == 0
        assert "2 routes, 8 examples; learned from three quarters, " in run.err
        assert "The router is in " in run.err
    return trained / "routes"


def test_a_text_goes_to_its_route(pharos, routes) -> None:
    run = pharos("route", routes, "has my parcel arrived?")
    assert (run.code, run.out.split()[0]) == (0, "orders")
    found = json.loads(pharos("route", routes, "do you take my card?", "--json").out)
    assert list(found) == ["text", "route", "nearest", "probability", "in_scope"]
    assert found["route"] == found["nearest"] == "payment"


def test_what_belongs_to_no_route_exits_with_3(pharos, routes) -> None:
    run = pharos("route", routes, "which composers lived in vienna?")
    assert run.code == 3
    assert run.out.startswith("none of the routes (in scope 0.")
    assert (
        json.loads(pharos("route", routes, "how tall is an ostrich?", "--json").out)["route"]
        is None
    )


def test_a_router_that_is_not_there_is_named(pharos, tmp_path) -> None:
    run = pharos("route", tmp_path / "nowhere", "where is it?")
    assert run.code == 1
    assert "nowhere/router.json cannot be read" in run.err


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("routes.payment=[pay]", "route 'payment' has 1 example; give it at least two"),
        ("routes.payment=3", "routes.payment is 3; it must be a list"),
        ("out_of_scop=[x, y]", "out_of_scop: there is no such key; did you mean out_of_scope?"),
    ],
)
def test_a_recipe_that_cannot_be_says_what_is_wrong(
    pharos, trained, change: str, says: str
) -> None:
    run = pharos("train", trained / "routes.yaml", f"output={trained / 'other'}", change)
    assert run.code in (1, 2)
    assert says in run.err


def test_what_is_for_other_trainings_is_refused(pharos, trained) -> None:
    run = pharos("train", trained / "routes.yaml", "--resume")
    assert run.code == 2
    assert "a router trains in seconds" in run.err
