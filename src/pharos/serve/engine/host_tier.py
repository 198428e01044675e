"""Blocks that had to leave the device, kept in the host's memory: which of them holds what."""

from collections import OrderedDict
from typing import NamedTuple


class _Copy(NamedTuple):
    id: int
    tokens: tuple[int, ...]


class HostTier:
    """`num_blocks` blocks; the one that was asked for the longest ago makes room for the next.

    A block that a step reads or writes is held until `release`, so that none is written to twice,
    or after it was read: moves may be made in any order, those out before those in.
    """

    def __init__(self, num_blocks: int) -> None:
        self.num_blocks = num_blocks
        self._free = list(reversed(range(num_blocks)))
        self._copies: OrderedDict[bytes, _Copy] = OrderedDict()
        self._held: set[bytes] = set()

    @property
    def num_used(self) -> int:
        return len(self._copies)

    def find(self, key: bytes, tokens: tuple[int, ...]) -> int | None:
        copy = self._copies.get(key)
        return copy.id if copy is not None and copy.tokens == tokens else None

    def read(self, key: bytes) -> int:
        """The block that is to be copied back to the device."""
        self._hold(key)
        return self._copies[key].id

    def write(self, key: bytes, tokens: tuple[int, ...]) -> int | None:
        """The block to copy to; None where there is a copy already, or no room for one."""
        if key in self._copies:
            self._hold(key)
            return None
        block = self._free.pop() if self._free else self._evict()
        if block is not None:
            self._copies[key] = _Copy(block, tokens)
            self._hold(key)
        return block

    def release(self) -> None:
        self._held.clear()

    def clear(self) -> None:
        """Forget all copies."""
        self._free += [copy.id for copy in self._copies.values()]
        self._copies.clear()
        self._held.clear()

    def check(self) -> None:
        ids = self._free + [copy.id for copy in self._copies.values()]
        assert sorted(ids) == list(range(self.num_blocks)), "a host block is lost, or there twice"
        assert self._held <= self._copies.keys(), "a host block is held that holds nothing"

    def _hold(self, key: bytes) -> None:
        self._copies.move_to_end(key)
        self._held.add(key)

    def _evict(self) -> int | None:
        """What is held was touched last: if the oldest is, all are."""
        oldest = next(iter(self._copies), None)
        return None if oldest is None or oldest in self._held else self._copies.pop(oldest).id
