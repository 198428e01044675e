"""The limits of the server."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True, slots=True)
class HttpConfig:
    """`max_pending` requests may run or wait; one more is told to come back later. A request may
    have a body of `max_body_bytes`, ask for `max_choices` and `max_output_tokens` (None: what the
    context holds), and take `timeout_s`. A silent stream sends a comment every `keep_alive_s`. On
    SIGTERM, what runs has `drain_s` to end. `adapters_folder` is where clients may load adapters
    from; None: from nowhere. Without `api_keys`, everybody who reaches the server may use it; where
    `is_local`, only programs of this machine are meant to, and no web page."""

    max_pending: int = 256
    max_body_bytes: int = 16 << 20
    max_choices: int = 16
    max_output_tokens: int | None = None
    timeout_s: float = 600.0
    keep_alive_s: float = 15.0
    drain_s: float = 30.0
    adapters_folder: Path | None = None
    api_keys: frozenset[str] = frozenset()
    is_local: bool = True

    def __post_init__(self) -> None:
        for name in ("max_pending", "max_body_bytes", "max_choices"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.max_output_tokens is not None and self.max_output_tokens < 1:
            raise ValueError(
                f"max_output_tokens is {self.max_output_tokens}; it must be at least 1"
            )
        for name in ("timeout_s", "keep_alive_s", "drain_s"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be above 0")


def read_keys(path: Path) -> frozenset[str]:
    """The keys in a file, one a line; blank lines and what follows a # are none."""
    lines = (line.partition("#")[0].strip() for line in path.read_text("utf-8").splitlines())
    keys = frozenset(filter(None, lines))
    if not keys:
        raise ValueError(f"{path} holds no keys; write one a line")
    return keys
