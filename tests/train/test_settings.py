from dataclasses import dataclass, field
from typing import Any, Literal

import pytest

from pharos.core import TrainingError
from pharos.train.settings import override, read_settings


@dataclass(frozen=True, kw_only=True)
class Inner:
    size: int = 1
    rate: float = 0.5
    names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"size is {self.size}; it must be at least 1")


@dataclass(frozen=True, kw_only=True)
class Outer:
    steps: int
    kind: Literal["a", "b"] = "a"
    inner: Inner = field(default_factory=Inner)
    many: tuple[Inner, ...] = ()
    pair: tuple[float, float] = (0.9, 0.95)
    share: float | str = 0.1
    maybe: int | None = None
    free: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Other:
    path: str
    width: int = 1


@dataclass(frozen=True, kw_only=True)
class Either:
    part: Inner | Other


def test_of_several_classes_the_one_with_most_of_the_keys_tells_what_is_wrong() -> None:
    assert read_settings(Either, {"part": {"path": "x"}}).part == Other(path="x")
    with pytest.raises(TrainingError, match=r"part.widht: .*did you mean width\?"):
        read_settings(Either, {"part": {"path": "x", "widht": 2}})
    with pytest.raises(TrainingError, match="part: size is 0"):
        read_settings(Either, {"part": {"size": 0}})


def test_keys_become_fields_at_any_depth() -> None:
    raw = {
        "steps": 3,
        "kind": "b",
        "inner": {"size": 2, "names": ["x", "y"]},
        "many": [{"rate": 1}, {}],
        "pair": [0, 1],
        "share": "file.txt",
        "maybe": None,
        "free": {"n_layer": 2},
    }
    read = read_settings(Outer, raw)
    assert read.inner == Inner(size=2, names=("x", "y"))
    assert read.many == (Inner(rate=1.0), Inner())
    assert (read.kind, read.pair, read.share, read.maybe) == ("b", (0.0, 1.0), "file.txt", None)
    assert read.free == {"n_layer": 2}


def test_a_number_that_yaml_reads_as_text_is_a_number() -> None:
    assert read_settings(Inner, {"rate": "1e-3"}).rate == 1e-3


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        ({"steps": 1, "kinds": "a"}, "kinds: there is no such key; did you mean kind?"),
        ({"steps": 1, "inner": {"sizes": 1}}, "inner.sizes: .* did you mean size?"),
        ({"steps": 1, "zzzzz": 1}, "zzzzz: .* known are steps, kind"),
        ({"steps": 1, "kind": "c"}, "kind is 'c'; choose from a, b"),
        ({"steps": "many"}, "steps is 'many'; it must be a whole number"),
        ({"steps": True}, "steps is True; it must be a whole number"),
        ({"steps": 1.5}, "steps is 1.5; it must be a whole number"),
        ({"steps": 1, "inner": 3}, "inner is 3; it must be keys and values"),
        ({"steps": 1, "inner": {"rate": "fast"}}, "inner.rate is 'fast'; it must be a number"),
        ({"steps": 1, "inner": {"size": 0}}, "inner: size is 0; it must be at least 1"),
        ({"steps": 1, "many": [{}, {"size": "x"}]}, r"many\[1\].size is 'x'"),
        ({"steps": 1, "many": "x"}, "many is 'x'; it must be a list"),
        ({"steps": 1, "pair": [1]}, "pair has 1 entries; it must have 2"),
        ({}, "the recipe lacks steps"),
        ([], "the recipe is .*; it must be keys and values"),
    ],
)
def test_what_breaks_a_rule_is_named_by_its_key(raw: object, says: str) -> None:
    with pytest.raises(TrainingError, match=says):
        read_settings(Outer, raw)


def test_an_override_sets_a_key_at_any_depth() -> None:
    raw: dict[str, Any] = {"steps": 1}
    override(raw, "inner.size", 5)
    override(raw, "steps", 2)
    assert raw == {"steps": 2, "inner": {"size": 5}}


def test_an_override_below_a_value_is_refused() -> None:
    with pytest.raises(TrainingError, match=r"steps.x: steps is 1, it has no keys"):
        override({"steps": 1}, "steps.x", 1)
