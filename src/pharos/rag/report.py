"""What an ingest tells while it runs, and what it says at the end."""

from dataclasses import dataclass, field
from typing import Literal

Stage = Literal["discover", "ingest", "index"]


@dataclass(frozen=True, kw_only=True, slots=True)
class IngestProgress:
    """`files` and `bytes` count what is to be read (unchanged files are not), `passages` those
    made so far."""

    stage: Stage
    files_done: int = 0
    files_total: int = 0
    bytes_done: int = 0
    bytes_total: int = 0
    passages: int = 0
    current: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Duplicate:
    """A document left out because the library holds its text; `similarity` is 1 for exact."""

    source: str
    duplicate_of: str
    kind: Literal["exact", "near"]
    similarity: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Failure:
    source: str
    reason: str


@dataclass(kw_only=True, slots=True)
class IngestReport:
    """`added`, `changed`, `unchanged`, `removed` and `readers_changed` count documents of this
    run; `documents` and `passages` what the library then holds."""

    added: int = 0
    changed: int = 0
    unchanged: int = 0
    removed: int = 0
    readers_changed: int = 0
    documents: int = 0
    passages: int = 0
    bytes: int = 0
    duplicates: list[Duplicate] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    seconds: float = 0.0
