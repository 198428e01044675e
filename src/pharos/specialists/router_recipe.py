"""A router from a recipe: a handful of examples a route, and a folder that routes.

    output: runs/support_router
    routes:
      faq: [when are you open, where do i find your address, ...]
      knowledge_base: examples/manual_questions.txt       # one a line
    out_of_scope: [what is the capital of france, ...]    # if you know any

`pharos train` reads it, and `pharos route` asks what came of it. Where examples are many, `adapter`
names the folder of a classifier that was trained on them (sequence classification, see
docs/fine-tuning.md): its vectors are taken, and it is kept beside the router.
"""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pharos.core import Embedder, ModelError
from pharos.core.json_files import read_object
from pharos.models.resolve import DEFAULT_ENCODER
from pharos.specialists.adapter_features import AdapterFeatures
from pharos.specialists.cards import WEIGHTS_FILE
from pharos.specialists.embed import load_encoder
from pharos.specialists.logistic_head import fit_head
from pharos.specialists.router import CONFIG_FILE, PENALTY, Router
from pharos.specialists.scope import FOLDS, Labels, Vectors, folds_of
from pharos.specialists.shared_encoder import load_shared_encoder

ADAPTER_FOLDER = "adapter"
ADAPTER_FILES = ("adapter_config.json", WEIGHTS_FILE)
LARGEST_FILE = 64 << 20

Examples = tuple[str, ...] | str
"""Texts, or a file with one a line."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RouterRecipe:
    """`routes` has examples of each; `out_of_scope` are some of what belongs to none. The vectors
    are those of `encoder`, a name or a folder, with `adapter`, the folder of a classifier's, if
    there is one. `output` is the folder of the router; `about` and `measured` are for readers."""

    output: str
    routes: Mapping[str, Examples]
    out_of_scope: Examples = ()
    encoder: str = DEFAULT_ENCODER
    adapter: str | None = None
    about: str = ""
    measured: Mapping[str, Any] = field(default_factory=dict)


class Trained(NamedTuple):
    """How many examples there were of each route, and the share of them that go right by routers
    that have seen three quarters of the others; None if there are too few to tell."""

    examples: Mapping[str, int]
    accuracy: float | None


def train_router(recipe: RouterRecipe) -> Trained:
    """Trains, and writes the folder. Raises ValueError for examples that are too few, or that stand
    under two routes."""
    examples = {route: read_examples(given) for route, given in recipe.routes.items()}
    check_apart(examples)
    pairs = [(text, route) for route, texts in examples.items() for text in texts]
    adapter = Path(recipe.adapter) if recipe.adapter else None
    embedder = vectors_of(recipe.encoder, adapter)
    router = Router.train(pairs, embedder, out_of_scope=read_examples(recipe.out_of_scope))
    router.save(recipe.output, base=findable(recipe.encoder))
    if adapter is not None:
        keep_adapter(adapter, Path(recipe.output) / ADAPTER_FOLDER)
    labels = np.array([router.intents.index(route) for _, route in pairs], dtype=np.intp)
    x_ND = embedder.embed([text for text, _ in pairs])
    counts = {route: len(texts) for route, texts in examples.items()}
    return Trained(counts, held_out_accuracy(x_ND, labels, len(router.intents)))


def open_router(folder: str | Path) -> Router:
    """What `train_router` has written, with the encoder that it was trained on. Raises ModelError
    if one of the two is missing, or altered."""
    folder = Path(folder)
    base = read_object(folder / CONFIG_FILE).get("base")
    if not isinstance(base, str):
        raise ModelError(
            f"{folder / CONFIG_FILE} names no base; train the router by a recipe, or open it with "
            "Router.load and its encoder"
        )
    adapter = folder / ADAPTER_FOLDER
    return Router.load(folder, vectors_of(base, adapter if adapter.is_dir() else None))


def vectors_of(encoder: str, adapter: Path | None) -> Embedder:
    if adapter is None:
        return load_encoder(encoder)
    return AdapterFeatures(load_shared_encoder(encoder), adapter)


def read_examples(given: Examples) -> list[str]:
    """Each once, without those that are blank."""
    if isinstance(given, str):
        path = Path(given)
        if path.stat().st_size > LARGEST_FILE:
            raise ValueError(f"{path} has more than {LARGEST_FILE:,} bytes; are these examples?")
        given = tuple(path.read_text(encoding="utf-8").splitlines())
    return list(dict.fromkeys(text.strip() for text in given if text.strip()))


def check_apart(examples: Mapping[str, Sequence[str]]) -> None:
    """Raises ValueError for a text that is an example of two routes."""
    route_of: dict[str, str] = {}
    for route, texts in examples.items():
        for text in texts:
            if route_of.setdefault(text, route) != route:
                raise ValueError(
                    f"{text!r} is an example of {route_of[text]} and of {route}; keep one of them"
                )


def findable(encoder: str) -> str:
    """Wherever one stands: a folder by its whole path, a name as it is."""
    return str(Path(encoder).resolve()) if Path(encoder).is_dir() else encoder


def keep_adapter(adapter: Path, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in ADAPTER_FILES:
        if (adapter / name).resolve() != (folder / name).resolve():
            shutil.copy(adapter / name, folder / name)


def held_out_accuracy(x_ND: Vectors, label_N: Labels, num_routes: int) -> float | None:
    """Each fold is routed by a head that was fitted to the others; None if one of them would lack a
    route."""
    fold_N = folds_of(label_N)
    ridge = PENALTY / len(x_ND)
    is_right = np.zeros(len(x_ND), dtype=bool)
    for fold in range(FOLDS):
        held = fold_N == fold
        if not held.any():
            continue
        if len(set(label_N[~held].tolist())) < num_routes:
            return None
        head = fit_head(x_ND[~held], label_N[~held], num_routes, ridge=ridge)
        is_right[held] = head.logits(x_ND[held]).argmax(axis=1) == label_N[held]
    return float(is_right.mean())
