"""The libraries that we are measured beside. They are no dependencies: a benchmark takes those that
its interpreter has, and says which it lacks."""

import importlib.util
import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from pharos.models.resolve import DEFAULT_ENCODER, find_model


def load_peers(packages: Sequence[str]) -> dict[str, Any] | None:
    """The modules by name, or None, with a word on standard error, if one is not installed.

    `packages` are named as pip knows them; the module is the same with underscores, but for
    PyStemmer's.
    """
    modules = {package: _module_name(package) for package in packages}
    missing = [p for p, module in modules.items() if importlib.util.find_spec(module) is None]
    if missing:
        print(
            f"no peers in this run: {', '.join(missing)} not installed in {sys.prefix} "
            f"(pip install {' '.join(missing)})",
            file=sys.stderr,
        )
        return None
    return {package: import_module(module) for package, module in modules.items()}


def sentence_transformer(sentence_transformers: Any) -> Any:
    """The peers' encoder: the files that ours is loaded from, at the settings they come with."""
    folder = str(find_model(DEFAULT_ENCODER).path)
    return sentence_transformers.SentenceTransformer(folder, device="cpu")


def versions(packages: Sequence[str]) -> str:
    """`torch 2.11.0, bm25s 0.3.16`, without those that are not installed."""
    found = []
    for package in packages:
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    return ", ".join(found)


def _module_name(package: str) -> str:
    return {"PyStemmer": "Stemmer"}.get(package, package.replace("-", "_"))
