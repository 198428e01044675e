"""What the HTTP server asks of an engine, wherever that runs: in a process of its own, or here."""

from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Protocol

from pharos.serve.engine.request import Output, Request
from pharos.serve.engine.stats import EngineStats


class Engine(Protocol):
    """`max_len` is the longest sequence, prompt and text, that it can hold.

    `generate` gives the outputs of one request, and aborts it when it is closed. It raises
    ValueError for a request that can never be answered, before its first output. The names of
    adapters are those of `load_adapter`; a name that is loaded already is loaded anew, for the
    requests that come after. Loading and unloading raise ValueError for what cannot be, and
    ModelError while the engine does not run. `is_healthy` is whether it still makes progress.
    """

    @property
    def max_len(self) -> int: ...

    @property
    def is_healthy(self) -> bool: ...

    def generate(self, request: Request) -> AsyncGenerator[Output, None]: ...

    async def load_adapter(self, name: str, folder: Path) -> None: ...

    async def unload_adapter(self, name: str) -> None: ...

    def stats(self) -> EngineStats: ...
