"""Pharos: ask your documents, and check every word of the answer.

>>> from pharos import Library
>>> library = Library.open("manuals.library")
>>> library.ingest(["manuals/"])
>>> print(library.ask("How is a role dropped?").answer)

`Library` is imported when it is first used, so that `import pharos` costs nothing.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pharos.rag.library import Library

__version__ = "0.1.0"
__all__ = ["Library", "__version__"]


def __getattr__(name: str) -> object:
    if name == "Library":
        from pharos.rag.library import Library

        return Library
    raise AttributeError(f"module 'pharos' has no attribute {name!r}")
