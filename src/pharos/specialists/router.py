"""The router: which of a user's own routes (a FAQ, a knowledge base, a human; intents of any kind)
a text belongs to, or that it belongs to none.

    router = Router.train([("where is my parcel?", "orders"), ...], load_encoder())
    router.save("routes"); router = Router.load("routes", load_encoder())
    router.route("my parcel is late")     # Route(intent="orders", probability=0.93, ...)

A handful of examples a route is enough: the vectors of a sentence encoder, and logistic regression
on top. Where there are many, an adapter is trained on them first (`pharos train`, sequence
classification), and `AdapterFeatures` gives the vectors; the rest stays the same.

Whether a text is in scope is told by two signs (`scope`), calibrated with the routes. What is in
scope is learned from the examples, each seen by a model that was fitted without it. What is not:
from the examples of routes that are left out in turn, as if they were none, from sentences about
anything (`ELSEWHERE`), and from examples that the user gives. The threshold would send one in
twenty of the examples away.
"""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from pharos.core import Embedder, ModelError
from pharos.core.json_files import read_object, write_object
from pharos.core.logistic import Logistic
from pharos.specialists.logistic_head import Array, LogisticHead, fit_head
from pharos.specialists.scope import (
    FOLDS,
    Labels,
    Scope,
    Vectors,
    calibrate,
    folds_of,
    held_out_signs,
    keeping,
    left_out_signs,
    named,
)

CONFIG_FILE, WEIGHTS_FILE = "router.json", "router.safetensors"
PENALTY = 0.1
"""Divided by the number of examples: the ridge of the regression."""
SCOPE_TENSORS = ("examples_ED", "white_CD", "center_D", "of_class_DD", "of_all_DD")
TEMPERATURES = np.geomspace(0.5, 5.0, 31)
ELSEWHERE = (
    "what will the weather be like in oslo tomorrow",
    "how many calories are in a slice of cheese pizza",
    "who won the cup final in 1998",
    "write a poem about the sea in autumn",
    "translate good evening into portuguese",
    "what is the square root of two hundred and fifty six",
    "my cat refuses to eat dry food",
    "which river flows through vienna",
    "recommend a science fiction novel",
    "how do i repot an orchid",
    "play something by miles davis",
    "is a tomato a fruit or a vegetable",
    "why is the sky red at sunset",
    "when does the train to milan leave",
    "the meeting was moved to the other building",
    "how tall is the eiffel tower",
    "explain how a diesel engine works",
    "what do dreams about falling mean",
    "asdf qwer zxcv",
    "tell me a joke about penguins",
    "how long should i boil an egg",
    "are there mountains on the moon",
    "name three composers of the baroque",
    "can you repeat that in simpler words",
)
"""Sentences that hardly any set of routes is about."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Route:
    """The likeliest route and its probability among the routes; `in_scope` is the probability that
    the text belongs to any of them."""

    intent: str
    probability: float
    in_scope: float
    is_out_of_scope: bool


class Router:
    """Make one with `Router.train` or `Router.load`."""

    def __init__(
        self,
        embedder: Embedder,
        intents: Sequence[str],
        head: LogisticHead,
        scope: Scope,
        *,
        in_scope: Logistic,
        threshold: float,
    ) -> None:
        self.intents = tuple(intents)
        self._embedder, self._head, self._scope = embedder, head, scope
        self._in_scope, self._threshold = in_scope, threshold

    @classmethod
    def train(
        cls,
        examples: Iterable[tuple[str, str]],
        embedder: Embedder,
        *,
        out_of_scope: Sequence[str] = (),
    ) -> "Router":
        """From texts and the route of each; `out_of_scope` are texts that belong to none. Raises
        ValueError for fewer than two routes, or a route with fewer than two examples."""
        texts, routes = zip(*examples, strict=True) if (examples := list(examples)) else ((), ())
        intents = sorted(set(routes))
        label_N = np.array([intents.index(route) for route in routes], dtype=np.intp)
        _check(intents, np.bincount(label_N, minlength=len(intents)))
        x_ND = embedder.embed(texts)
        strange = embedder.embed([*ELSEWHERE, *out_of_scope])
        scope = Scope.fit(x_ND, label_N, len(intents))
        inside = held_out_signs(x_ND, label_N, len(intents))
        left_out = left_out_signs(x_ND, label_N, len(intents))
        outside = np.concatenate([scope.signs(strange), *left_out])
        in_scope = calibrate(inside, outside)
        return cls(
            embedder,
            intents,
            calibrated_head(x_ND, label_N, len(intents)),
            scope,
            in_scope=in_scope,
            threshold=keeping(in_scope, inside),
        )

    def route(self, text: str) -> Route:
        return self.route_all([text])[0]

    def route_all(self, texts: Sequence[str]) -> list[Route]:
        x_ND = self._embedder.embed(texts)
        logits = self._head.logits(x_ND)
        log_p = logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)
        in_scope = [self._in_scope.probability(named(row)) for row in self._scope.signs(x_ND)]
        return [
            Route(
                intent=self.intents[int(row.argmax())],
                probability=float(np.exp(row.max())),
                in_scope=inside,
                is_out_of_scope=inside < self._threshold,
            )
            for row, inside in zip(log_p, in_scope, strict=True)
        ]

    def save(self, folder: str | Path, *, base: str | None = None) -> None:
        """`router.json` and `router.safetensors`; the examples' texts are not kept. `base` is the
        encoder's name, or folder, for whoever opens the folder alone (`router_recipe`)."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        tensors: dict[str, NDArray[Any]] = {
            "weight": self._head.weight_CD.astype(np.float32),
            "bias": self._head.bias_C.astype(np.float32),
            **{name: getattr(self._scope, name) for name in SCOPE_TENSORS},
        }
        save_file(tensors, folder / WEIGHTS_FILE)
        config = {
            "encoder": self._embedder.name,
            "base": base,
            "intents": list(self.intents),
            "in_scope": asdict(self._in_scope),
            "threshold": self._threshold,
        }
        write_object(folder / CONFIG_FILE, config)

    @classmethod
    def load(cls, folder: str | Path, embedder: Embedder) -> "Router":
        """Raises ModelError if it was trained on the vectors of another encoder, or is damaged."""
        folder = Path(folder)
        config = read_object(folder / CONFIG_FILE)
        if config.get("encoder") != embedder.name:
            raise ModelError(
                f"{folder} was trained on vectors of {config.get('encoder')!r}, and this encoder "
                f"is {embedder.name!r}; give it that one, or train it again"
            )
        try:
            tensors = load_file(folder / WEIGHTS_FILE)
            head = LogisticHead(
                tensors["weight"].astype(np.float64), tensors["bias"].astype(np.float64)
            )
            return cls(
                embedder,
                config["intents"],
                head,
                Scope(**{name: tensors[name] for name in SCOPE_TENSORS}),
                in_scope=Logistic(**config["in_scope"]),
                threshold=float(config["threshold"]),
            )
        except (OSError, KeyError, TypeError, ValueError) as error:
            raise ModelError(
                f"{folder} is no router, or damaged: {error!r}; train it again"
            ) from error


def calibrated_head(x_ND: Vectors, label_N: Labels, num_routes: int) -> LogisticHead:
    """Fitted to all examples, its logits divided by the temperature under which those of a fold
    are likeliest to a head that has not seen them (Guo et al. 2017, arXiv:1706.04599)."""
    held = folds_of(label_N) == FOLDS - 1
    if not held.any():
        held = folds_of(label_N) == 1
    ridge = PENALTY / len(x_ND)
    unseen = fit_head(x_ND[~held], label_N[~held], num_routes, ridge=ridge).logits(x_ND[held])
    temperature = best_temperature(unseen, label_N[held])
    head = fit_head(x_ND, label_N, num_routes, ridge=ridge)
    return LogisticHead(head.weight_CD / temperature, head.bias_C / temperature)


def best_temperature(logits: Array, label_N: Labels) -> float:
    def loss(temperature: float) -> float:
        scaled = logits / temperature
        right = scaled[np.arange(len(scaled)), label_N]
        return float((np.logaddexp.reduce(scaled, axis=1) - right).mean())

    return float(min(TEMPERATURES, key=loss))


def _check(intents: Sequence[str], counts: NDArray[np.intp]) -> None:
    if len(intents) < 2:
        shown = ", ".join(intents) or "none"
        raise ValueError(f"a router needs examples of at least two routes; there is {shown}")
    for intent, count in zip(intents, counts, strict=True):
        if count < 2:
            raise ValueError(f"route {intent!r} has {count} example; give it at least two")
