"""How fast this machine moves blocks and reads tokens: the faster of the two is done.

What left the device is a copy on the host: it is moved back, or its tokens are read again. Each
takes a time per block, which is measured while the engine runs, as sums that fade: the last steps
say most.
"""

from collections.abc import Sequence as Seq

FADING = 0.9
"""What is left of a measurement at the next one."""
RETRY_AFTER = 200
"""Where moves do not pay there are none, and none are measured: after so many steps that read, they
are given another chance."""


class _Speed:
    """Work done and the time that it took."""

    def __init__(self) -> None:
        self._amount = 0.0
        self._seconds = 0.0

    def note(self, amount: int, seconds: float) -> None:
        self._amount = FADING * self._amount + amount
        self._seconds = FADING * self._seconds + seconds

    @property
    def seconds_each(self) -> float | None:
        """None before it was measured."""
        return self._seconds / self._amount if self._amount else None


class Pace:
    """For blocks of `block_size` tokens. What was not measured yet is taken to pay."""

    def __init__(self, block_size: int) -> None:
        self._block_size = block_size
        self._moves = _Speed()
        self._reading = _Speed()
        self._num_unmoved = 0

    def note_moves(self, num_blocks: int, seconds: float) -> None:
        self._moves.note(num_blocks, seconds)
        self._num_unmoved = 0

    def note_reading(self, num_tokens: int, seconds: float) -> None:
        """Of a step that mostly reads: what is written takes longer for a token."""
        self._reading.note(num_tokens, seconds)
        self._num_unmoved += 1
        if self._num_unmoved >= RETRY_AFTER:
            self._moves = _Speed()

    @property
    def move_s(self) -> float | None:
        """Seconds to move a block."""
        return self._moves.seconds_each

    @property
    def read_s(self) -> float | None:
        """Seconds to read a block's tokens."""
        each = self._reading.seconds_each
        return None if each is None else each * self._block_size

    def pays_to_keep(self) -> bool:
        """Whether to move a block out and back in is faster than to read it."""
        move_s, read_s = self.move_s, self.read_s
        return move_s is None or read_s is None or 2 * move_s <= read_s

    def num_worth(self, are_copies: Seq[bool]) -> int:
        """Of a prefix's blocks, how many to take so that it is there the soonest: those that are
        copies are moved, and what is not taken is read."""
        move_s, read_s = self.move_s, self.read_s
        if move_s is None or read_s is None:
            return len(are_copies)
        gain = best_gain = 0.0
        best = 0
        for count, is_copy in enumerate(are_copies, start=1):
            gain += read_s - move_s * is_copy
            if gain >= best_gain:
                best, best_gain = count, gain
        return best
