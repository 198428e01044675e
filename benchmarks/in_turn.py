"""Two sides measured in turn, each in a process of its own: what else happens on the machine
happens to both."""

import multiprocessing
from collections import defaultdict
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any

Measure = Callable[[], Any]
loaded: list[Measure] = []
"""In a process of one side: what it measures with."""


def load(make: Callable[..., Measure], arguments: tuple[Any, ...]) -> None:
    loaded.append(make(*arguments))
    loaded[0]()  # to warm up


def is_loaded() -> bool:
    return bool(loaded)


def measure(_: int) -> Any:
    return loaded[0]()


def in_turn(
    sides: Mapping[str, Callable[..., Measure]], arguments: tuple[Any, ...], *, rounds: int
) -> dict[str, list[Any]]:
    """What each side's measure returned, round by round. `sides` are functions of a module, which
    make a measure of the arguments."""
    found: dict[str, list[Any]] = defaultdict(list)
    context = multiprocessing.get_context("spawn")
    with ExitStack() as stack:
        pools = {
            side: stack.enter_context(context.Pool(1, load, (make, arguments)))
            for side, make in sides.items()
        }
        for pool in pools.values():
            pool.apply(is_loaded)  # nobody is measured while another one loads
        for number in range(rounds):
            for side, pool in pools.items():
                found[side].append(pool.apply(measure, (number,)))
    return dict(found)
