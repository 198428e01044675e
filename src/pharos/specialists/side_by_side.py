"""Texts in batches, and batches on threads.

Texts are sorted by length and packed into batches small enough for the processor's cache. Each
batch is computed by one thread, several side by side: threads that share an operator wait for each
other hundreds of times a batch, and where another process holds a core, each wait is a time slice
of the scheduler (on a busy machine a question took 600 ms so, 10 ms on one thread).
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Thread
from typing import TypeVar

import torch

Batch = TypeVar("Batch")
Result = TypeVar("Result")

BATCH_TOKENS = 2048
LEAST_BATCH_TOKENS = 256
"""Below this, a batch is not worth splitting between threads."""


class SideBySide:
    """Threads that each use one core."""

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self._pool = ThreadPoolExecutor(threads, "encoder", _use_one_core)

    def num_batches(self, num_tokens: int) -> int:
        """In how many batches so many tokens are computed: as many for each thread."""
        rounds = math.ceil(num_tokens / (self.threads * BATCH_TOKENS))
        return max(1, min(self.threads * rounds, num_tokens // LEAST_BATCH_TOKENS))

    def map(self, compute: Callable[[Batch], Result], batches: Iterable[Batch]) -> Iterator[Result]:
        """Results in the order of the batches."""
        return self._pool.map(compute, batches)


def plan_batches(lengths: Sequence[int], num_batches: int) -> list[list[int]]:
    """Indices of texts, longest first, in at most so many batches of about equal length. (Filled
    one after another, two full ones would leave a third with hardly anything in it.)"""
    batches: list[list[int]] = [[] for _ in range(num_batches)]
    total = sum(lengths)
    before = 0
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        middle = before + lengths[i] / 2
        batches[int(middle * num_batches / total)].append(i)
        before += lengths[i]
    return [batch for batch in batches if batch]


def _use_one_core() -> None:
    """Let torch's operators run in the calling thread alone.

    `set_num_threads` also sets what threads to come start with; a passing thread puts that back.
    """
    default = torch.get_num_threads()
    torch.set_num_threads(1)
    restore = Thread(target=torch.set_num_threads, args=(default,))
    restore.start()
    restore.join()
