"""Where a text must end: before the first stop string in it.

Of a stream, the end is held back for as long as it may be the beginning of a stop string, and not
one character more.
"""

from collections.abc import Sequence


class StopStrings:
    """`push` pieces of a text for what may be passed on; once `is_stopped`, nothing more comes."""

    def __init__(self, stop: Sequence[str]) -> None:
        self._stop = tuple(stop)
        self._held = ""
        self.is_stopped = False

    def push(self, piece: str) -> str:
        if self.is_stopped:
            return ""
        self._held += piece
        found = [start for text in self._stop if (start := self._held.find(text)) >= 0]
        if found:
            self.is_stopped = True
            return self._take(min(found))
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
