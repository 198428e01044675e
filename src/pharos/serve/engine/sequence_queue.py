"""Sequences in the order in which they are served: by priority, then by arrival."""

from bisect import bisect_left, insort
from collections.abc import Iterator

from pharos.serve.engine.request import Sequence


def _rank(sequence: Sequence) -> tuple[int, int]:
    return sequence.request.priority, sequence.arrival


class SequenceQueue:
    """A sorted list. It may change while it is iterated over: those who were in it then are met."""

    def __init__(self) -> None:
        self._sequences: list[Sequence] = []

    def add(self, sequence: Sequence) -> None:
        insort(self._sequences, sequence, key=_rank)

    def remove(self, sequence: Sequence) -> None:
        index = bisect_left(self._sequences, _rank(sequence), key=_rank)
        assert self._sequences[index] is sequence, f"two sequences arrived as {sequence.arrival}"
        del self._sequences[index]

    @property
    def last(self) -> Sequence:
        return self._sequences[-1]

    def from_last(self) -> Iterator[Sequence]:
        return reversed(self._sequences[:])

    def __len__(self) -> int:
        return len(self._sequences)

    def __iter__(self) -> Iterator[Sequence]:
        return iter(self._sequences[:])
