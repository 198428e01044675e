"""Several adapters in one batch: each row goes through the adapter of whoever asked for it.

    with adapters.route([("legal", 12), (None, 3), ("medical", 1)]):
        x_1ND = model.body(ids_1N, cache=cache)             # 16 rows
    with adapters.route([("legal", 1), (None, 1), ("medical", 1)]):
        logits_RV = model.logits(x_1ND[0, last_R])          # 3 rows

The base multiplies all rows at once, as it does without adapters; the parts of an adapter then see
its own rows and no others. Rows are the tokens of a flat batch `[1, N]`, of a packed one `[N]` or
of a padded one `[B, T]`, counted in that order. A head that is given fewer rows needs a route of
its own. What holds is per thread (and per asyncio task): batches may run side by side.

Shapes: N rows.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from pharos.core.errors import ModelError
from pharos.models.family import Model
from pharos.ops.experts import MixtureOfExperts

P = TypeVar("P")
Add = Callable[[Sequence[P], Tensor, Tensor], Tensor]
"""Adds parts to what a base gave: of the parts, the input's rows and the output's."""

Rows = slice | Tensor
"""Which rows of a batch: neighbours, or their numbers."""

MIXES_ROWS = ("big_bird", "deberta-v2", "longformer")
"""Whose linears see other rows than the batch's: blocks of it, global tokens, distances."""


class Group(NamedTuple):
    """All rows of one adapter; None stands for the base alone."""

    name: str | None
    rows: Rows


@dataclass(frozen=True, slots=True)
class Route:
    """`groups` have each row of the batch once. `owner` are the adapters that it speaks of."""

    owner: object
    num_rows: int
    groups: tuple[Group, ...]

    def apply(
        self, x: Tensor, y: Tensor, parts_of: Callable[[str], list[P]], add: Add[P]
    ) -> Tensor:
        """`y`, which a base gave for `x`, with the parts of each adapter added to its own rows."""
        num_rows = y.shape[:-1].numel()
        is_alone = len(self.groups) < 2  # an expert or a head may be given some of its rows
        if num_rows > self.num_rows or (num_rows < self.num_rows and not is_alone):
            raise ValueError(
                f"a module of {num_rows} rows within a route of {self.num_rows}; a head that is "
                "given other rows than the body needs a route of its own"
            )
        x_N = x.reshape(num_rows, *x.shape[y.ndim - 1 :])
        y_NO = y.contiguous().view(num_rows, -1)
        for name, rows in self.groups:
            if name is not None and (parts := parts_of(name)):
                y_NO[rows] = add(parts, x_N[rows], y_NO[rows])
        return y_NO.view(y.shape)


_routes: ContextVar[tuple[Route, ...]] = ContextVar("pharos_adapter_routes", default=())
"""Those that hold in this thread, the innermost first: each of another model's adapters, or within
one of the same."""


def current_route(owner: object) -> Route | None:
    """The route that holds in this thread for these adapters."""
    return next((route for route in _routes.get() if route.owner is owner), None)


@contextmanager
def routed(route: Route) -> Iterator[None]:
    token = _routes.set((route, *_routes.get()))
    try:
        yield
    finally:
        _routes.reset(token)


def make_route(
    owner: object, parts: Sequence[tuple[str | None, int]], *, device: torch.device
) -> Route:
    """A batch made of `parts`: an adapter's name (or None), and how many rows follow for it."""
    spans: dict[str | None, list[range]] = {}
    start = 0
    for name, num_rows in parts:
        if num_rows < 0:
            raise ValueError(f"{num_rows} rows for adapter {name!r}; it must be at least 0")
        if num_rows:
            spans.setdefault(name, []).append(range(start, start + num_rows))
        start += num_rows
    groups = (Group(name, _rows(found, device)) for name, found in spans.items())
    return Route(owner, start, tuple(groups))


def _rows(spans: Sequence[range], device: torch.device) -> Rows:
    numbers = [row for span in spans for row in span]
    if numbers[-1] - numbers[0] + 1 == len(numbers):
        return slice(numbers[0], numbers[-1] + 1)
    return torch.tensor(numbers, device=device)


def check_routable(model: Model, in_experts: Collection[str | None] = ()) -> None:
    """Raises ModelError for a model whose linears see other rows than the batch's, and for the
    adapters named `in_experts`: an expert sees rows in another order."""
    kind = model.config.model_type
    if kind in MIXES_ROWS or hasattr(model, "decode"):
        raise ModelError(
            f"a batch of several adapters needs a model that keeps its rows apart; {kind} does "
            "not: activate one adapter at a time"
        )
    if in_experts:
        raise ModelError(
            f"adapter {next(iter(in_experts))!r} changes experts, which see the rows of a batch in "
            "an order of their own: give it batches to itself, or train one for attention alone"
        )


def is_expert(model: Model, ours: str) -> bool:
    names = ours.split(".")
    around = (".".join(names[:count]) for count in range(1, len(names)))
    return any(isinstance(model.get_submodule(name), MixtureOfExperts) for name in around) and (
        "experts" in names
    )
