"""Ctrl-C, so that it leaves things whole: the first one ends the run after the step it is in, a
second one at once."""

import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Self

SIGNALS = (signal.SIGINT, signal.SIGTERM)
SAME_S = 1.0
"""Signals that are so near are one: `timeout` sends its own to a process and to its group."""


class Interruption:
    """While entered, `is_asked` becomes true at the first SIGINT or SIGTERM. (Signals reach the
    main thread only: in another one nothing is changed.)"""

    def __init__(self) -> None:
        self._asked_at: float | None = None
        self._before: dict[signal.Signals, object] = {}

    @property
    def is_asked(self) -> bool:
        return self._asked_at is not None

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._before = {sent: signal.signal(sent, self._note) for sent in SIGNALS}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._restore()

    def _note(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self._asked_at is None:
            self._asked_at = now
        elif now - self._asked_at > SAME_S:
            self._restore()
            signal.raise_signal(number)

    def _restore(self) -> None:
        for sent, handler in self._before.items():
            signal.signal(sent, handler)  # type: ignore[arg-type]
        self._before = {}
