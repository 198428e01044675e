"""The libraries that we are measured beside. They are no dependencies: a benchmark takes those that
its interpreter has, and says which it lacks."""

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from pharos.models.resolve import DEFAULT_ENCODER, find_model

UNLIKE_THEIR_PACKAGE = {
    "PyStemmer": "Stemmer",
    "scikit-learn": "sklearn",
    "llama-cpp-python": "llama_cpp",
    "llama-index-core": "llama_index.core",
    "llama-index-readers-file": "llama_index.readers.file",
    "llama-index-embeddings-huggingface": "llama_index.embeddings.huggingface",
}


def load_peers(packages: Sequence[str]) -> dict[str, Any] | None:
    """The modules by name, or None, with a word on standard error, if one is not installed.

    `packages` are named as pip knows them.
    """
    missing = [package for package in packages if not versions([package])]
    if missing:
        print(
            f"no peers in this run: {', '.join(missing)} not installed in {sys.prefix} "
            f"(pip install {' '.join(missing)})",
            file=sys.stderr,
        )
        return None
    return {package: import_module(_module_name(package)) for package in packages}


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
    return UNLIKE_THEIR_PACKAGE.get(package, package.replace("-", "_"))
