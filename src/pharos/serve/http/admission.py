"""How many requests may be under way: a queue with an end, so that those in it are answered in
time and those behind it know at once."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic

from pharos.serve.http.errors import ApiError

LONGEST_WAIT_S = 60
WEIGHT = 0.1
"""Of the newest request, in the mean of how long they take."""


class Admission:
    """Counts what is under way. What comes when there are fewer than `max_pending` is let in whole,
    however many texts it is about: there would be no better moment."""

    def __init__(self, max_pending: int) -> None:
        self._max_pending = max_pending
        self._mean_s = 1.0
        self.num_pending = 0

    @contextmanager
    def admitted(self, count: int) -> Iterator[None]:
        """While `count` requests are under way. Raises ApiError 429 where there is no room."""
        if self.num_pending >= self._max_pending:
            raise ApiError(
                f"{self.num_pending} requests run or wait, and the queue is full at "
                f"{self._max_pending}; come back later",
                status=429,
                code="queue_full",
                retry_after_s=self._retry_after_s(),
            )
        self.num_pending += count
        started = monotonic()
        try:
            yield
        finally:
            self.num_pending -= count
            self._mean_s += WEIGHT * (monotonic() - started - self._mean_s)

    def _retry_after_s(self) -> int:
        """About when one will have ended."""
        return min(max(math.ceil(self._mean_s), 1), LONGEST_WAIT_S)
