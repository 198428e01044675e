"""Where a text must end: before the stop string that is complete first (or after it, if it is to be
included), in whatever pieces the text comes.

Of a stream, the end is held back for as long as it may be the beginning of a stop string, and not
one character more.
"""

from collections.abc import Sequence


class StopStrings:
    """`push` pieces of a text for what may be passed on; once it is `stopped_by` one of the
    strings, nothing more comes. Of several that are complete at once, the longest counts."""

    def __init__(self, stop: Sequence[str], *, include: bool = False) -> None:
        self._stop = tuple(stop)
        self._include = include
        self._held = ""
        self.stopped_by: str | None = None

    @property
    def is_stopped(self) -> bool:
        return self.stopped_by is not None

    def push(self, piece: str) -> str:
        if self.is_stopped:
            return ""
        self._held += piece
        starts = {text: self._held.find(text) for text in self._stop}
        found = [(at + len(text), at, text) for text, at in starts.items() if at >= 0]
        if found:
            end, start, self.stopped_by = min(found)
            return self._take(end if self._include else start)
        return self._take(len(self._held) - self._beginning())

    def flush(self) -> str:
        """What was held back, at the end of a text that did not go on to a stop string."""
        return self._take(0 if self.is_stopped else len(self._held))

    def _beginning(self) -> int:
        """How many characters at the end begin a stop string."""
        longest = max(map(len, self._stop), default=0) - 1
        for size in range(min(longest, len(self._held)), 0, -1):
            if any(text.startswith(self._held[-size:]) for text in self._stop):
                return size
        return 0

    def _take(self, size: int) -> str:
        passed, self._held = self._held[:size], self._held[size:]
        return passed
