"""The library: ingest documents, search them, and answer from them with citations.

Names are imported when first used: workers and `--help` need none of LanceDB.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pharos.rag.ingest import IngestConfig
    from pharos.rag.library import Library, LibraryStats
    from pharos.rag.report import Duplicate, Failure, IngestProgress, IngestReport
    from pharos.rag.schema import DocumentRecord

_HOMES = {
    "DocumentRecord": "schema",
    "Duplicate": "report",
    "Failure": "report",
    "IngestConfig": "ingest",
    "IngestProgress": "report",
    "IngestReport": "report",
    "Library": "library",
    "LibraryStats": "library",
}

__all__ = [
    "DocumentRecord",
    "Duplicate",
    "Failure",
    "IngestConfig",
    "IngestProgress",
    "IngestReport",
    "Library",
    "LibraryStats",
]


def __getattr__(name: str) -> object:
    if name in _HOMES:
        from importlib import import_module

        return getattr(import_module(f"pharos.rag.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'pharos.rag' has no attribute {name!r}")
