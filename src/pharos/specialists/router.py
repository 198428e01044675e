"""The router: which of a user's own routes (a FAQ, a knowledge base, a human; intents of any kind) a
text belongs to, or that it belongs to none.

    router = Router.train([("where is my parcel?", "orders"), ...], load_encoder())
    router.save("routes"); router = Router.load("routes", load_encoder())
    router.route("my parcel is late")     # Route(intent="orders", probability=0.93, ...)

A handful of examples a route is enough: the vectors of a sentence encoder, and logistic regression
on top. Where there are many, an adapter is trained on them first (`pharos train`, sequence
classification), and `AdapterFeatures` gives the vectors; the rest stays the same.

Whether a text is in scope is a logistic model over four signs, which is fitted with the routes:
- `confidence`: the log odds of the likeliest route
- `energy`: log Σ exp of the logits (Liu et al. 2020, arXiv:2010.03759)
- `nearest`: the cosine to the nearest example, `typical`: that to the mean of the nearest route

What is in scope is learned from the examples, each seen by a model that was fitted without it. What
is not: from the examples of routes that are left out in turn, as if they were none, from sentences
about anything (`ELSEWHERE`), and from examples that the user gives.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from pharos.core import Embedder, ModelError
from pharos.core.json_files import read_object, write_object
from pharos.core.logistic import Logistic, log_odds
from pharos.specialists.logistic_head import Array, LogisticHead, fit_head

CONFIG_FILE, WEIGHTS_FILE = "router.json", "router.safetensors"
SIGNS = ("confidence", "energy", "nearest", "typical")
FOLDS = 4
PENALTY = 0.1
"""Divided by the number of examples: the ridge of the regression."""
SIGN_RIDGE = 1e-2
TEMPERATURES = np.geomspace(0.2, 5.0, 41)
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


@dataclass(frozen=True, eq=False, slots=True)
class Model:
    """What is fitted to the vectors of examples. Shapes: N examples, D width, C routes."""

    head: LogisticHead
    examples_ND: NDArray[np.float32]
    means_CD: NDArray[np.float32]

    @classmethod
    def fit(cls, x_ND: NDArray[np.float32], label_N: NDArray[np.intp], num_routes: int) -> "Model":
        means = [x_ND[label_N == c].mean(axis=0) for c in range(num_routes)]
        means_CD = np.stack([mean / max(float(np.linalg.norm(mean)), 1e-6) for mean in means])
        head = fit_head(x_ND, label_N, num_routes, ridge=PENALTY / len(x_ND))
        return cls(head, x_ND, means_CD)

    def signs(self, x_ND: NDArray[np.float32]) -> Array:
        """`[N, 4]`, in the order of SIGNS."""
        logits = self.head.logits(x_ND)
        energy = np.logaddexp.reduce(logits, axis=1)
        best = np.exp(logits.max(axis=1) - energy)
        confidence = [log_odds(float(p)) for p in best]
        nearest = (x_ND @ self.examples_ND.T).max(axis=1)
        typical = (x_ND @ self.means_CD.T).max(axis=1)
        return np.stack([np.array(confidence), energy, nearest, typical], axis=1)


class Router:
    """Make one with `Router.train` or `Router.load`."""

    def __init__(
        self,
        embedder: Embedder,
        intents: Sequence[str],
        model: Model,
        *,
        temperature: float,
        scope: Logistic,
        threshold: float,
    ) -> None:
        self.intents = tuple(intents)
        self._embedder, self._model = embedder, model
        self._temperature, self._scope, self._threshold = temperature, scope, threshold

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
        model = Model.fit(x_ND, label_N, len(intents))
        logits, inside = _held_out(x_ND, label_N, len(intents))
        outside = [model.signs(strange), *_left_out(x_ND, label_N, len(intents))]
        scope = fit_scope(inside, np.concatenate(outside))
        return cls(
            embedder,
            intents,
            model,
            temperature=_temperature(logits, label_N),
            scope=scope,
            threshold=_threshold(scope, inside, np.concatenate(outside)),
        )

    def route(self, text: str) -> Route:
        return self.route_all([text])[0]

    def route_all(self, texts: Sequence[str]) -> list[Route]:
        x_ND = self._embedder.embed(texts)
        logits = self._model.head.logits(x_ND) / self._temperature
        log_p = logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)
        in_scope = [
            self._scope.probability(dict(zip(SIGNS, row, strict=True)))
            for row in self._model.signs(x_ND).tolist()
        ]
        return [
            Route(
                intent=self.intents[int(row.argmax())],
                probability=float(np.exp(row.max())),
                in_scope=inside,
                is_out_of_scope=inside < self._threshold,
            )
            for row, inside in zip(log_p, in_scope, strict=True)
        ]

    def save(self, folder: str | Path) -> None:
        """`router.json` and `router.safetensors`; the examples' texts are not kept."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        tensors: dict[str, NDArray[Any]] = {
            "weight": self._model.head.weight_CD.astype(np.float32),
            "bias": self._model.head.bias_C.astype(np.float32),
            "examples": self._model.examples_ND.astype(np.float16),
            "means": self._model.means_CD,
        }
        save_file(tensors, folder / WEIGHTS_FILE)
        config = {
            "encoder": self._embedder.name,
            "intents": list(self.intents),
            "temperature": self._temperature,
            "scope": {"weights": dict(self._scope.weights), "bias": self._scope.bias},
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
            model = Model(head, tensors["examples"].astype(np.float32), tensors["means"])
            return cls(
                embedder,
                config["intents"],
                model,
                temperature=float(config["temperature"]),
                scope=Logistic(**config["scope"]),
                threshold=float(config["threshold"]),
            )
        except (OSError, KeyError, TypeError, ValueError) as error:
            raise ModelError(
                f"{folder} is no router, or damaged: {error!r}; train it again"
            ) from error


def fit_scope(inside: Array, outside: Array) -> Logistic:
    """From signs of texts that are in scope, and that are not: both count alike."""
    signs = np.concatenate([inside, outside])
    mean, spread = signs.mean(axis=0), signs.std(axis=0) + 1e-6
    label = np.r_[np.ones(len(inside), dtype=np.intp), np.zeros(len(outside), dtype=np.intp)]
    head = fit_head((signs - mean) / spread, label, 2, ridge=SIGN_RIDGE)
    weights = (head.weight_CD[1] - head.weight_CD[0]) / spread
    bias = float(head.bias_C[1] - head.bias_C[0] - weights @ mean)
    return Logistic(weights=dict(zip(SIGNS, weights.tolist(), strict=True)), bias=bias)


def _held_out(
    x_ND: NDArray[np.float32], label_N: NDArray[np.intp], num_routes: int
) -> tuple[Array, Array]:
    """The logits and the signs of each example, by a model that was fitted without it."""
    fold_N = _folds(label_N)
    logits, signs = np.zeros((len(x_ND), num_routes)), np.zeros((len(x_ND), len(SIGNS)))
    for fold in np.unique(fold_N):
        rest, held = fold_N != fold, fold_N == fold
        model = Model.fit(x_ND[rest], label_N[rest], num_routes)
        logits[held], signs[held] = model.head.logits(x_ND[held]), model.signs(x_ND[held])
    return logits, signs


def _folds(label_N: NDArray[np.intp]) -> NDArray[np.intp]:
    """A number below FOLDS for each example; every route has examples with different ones, so none
    is ever without any."""
    fold_N = np.zeros(len(label_N), dtype=np.intp)
    for label in np.unique(label_N):
        members = np.flatnonzero(label_N == label)
        fold_N[members] = np.arange(len(members)) % FOLDS
    return fold_N


def _left_out(
    x_ND: NDArray[np.float32], label_N: NDArray[np.intp], num_routes: int
) -> Iterator[Array]:
    """The signs of each route's examples, by a model that does not know a share of the routes."""
    num_groups = min(FOLDS, num_routes)
    for group in range(num_groups if num_routes > 2 else 0):
        known = [c for c in range(num_routes) if c % num_groups != group]
        is_known = np.isin(label_N, known)
        labels = np.searchsorted(known, label_N[is_known])
        yield Model.fit(x_ND[is_known], labels, len(known)).signs(x_ND[~is_known])


def _temperature(logits: Array, label_N: NDArray[np.intp]) -> float:
    """The one under which held-out examples are likeliest (Guo et al. 2017, arXiv:1706.04599)."""

    def loss(temperature: float) -> float:
        scaled = logits / temperature
        right = scaled[np.arange(len(scaled)), label_N]
        return float((np.logaddexp.reduce(scaled, axis=1) - right).mean())

    return float(min(TEMPERATURES, key=loss))


def _threshold(scope: Logistic, inside: Array, outside: Array) -> float:
    """Where the shares of both kinds that are told right are largest in sum."""
    p_in, p_out = (
        np.array([scope.probability(dict(zip(SIGNS, row, strict=True))) for row in signs.tolist()])
        for signs in (inside, outside)
    )
    candidates = np.unique(np.r_[p_in, p_out, 0.5])
    told = [(p_in >= at).mean() + (p_out < at).mean() for at in candidates]
    return float(candidates[int(np.argmax(told))])


def _check(intents: Sequence[str], counts: NDArray[np.intp]) -> None:
    if len(intents) < 2:
        shown = ", ".join(intents) or "none"
        raise ValueError(f"a router needs examples of at least two routes; there is {shown}")
    for intent, count in zip(intents, counts, strict=True):
        if count < 2:
            raise ValueError(f"route {intent!r} has {count} example; give it at least two")
