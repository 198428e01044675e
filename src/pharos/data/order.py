"""The order in which rows are read: another one each epoch, known without being stored.

A permutation of millions of rows would take memory and, at the start of each epoch, a second in
which training waits. Here the place of a row is computed instead, by a cipher on the numbers below
4^k: a Feistel network (Luby & Rackoff 1988), which is a permutation whatever its round function
is. Numbers that come out too large go through it again until one fits ("cycle walking", Black &
Rogaway 2002): more than three times only where there are very few rows.

So any row of any epoch is found in microseconds, and resuming is to go on counting.
"""

from dataclasses import dataclass
from functools import lru_cache

from pharos.core.errors import TrainingError
from pharos.data.rows import Row, Rows, row_generator

ROUNDS = 6
LEAST_HALF_BITS = 4
"""A cipher on fewer than 256 numbers would favour some orders."""
_WORD = (1 << 64) - 1


@dataclass(frozen=True, slots=True)
class Permutation:
    """Of the numbers 0 to `size` - 1: `permutation[i]` is which of them comes at place i."""

    size: int
    half_bits: int
    keys: tuple[int, ...]

    def __getitem__(self, index: int) -> int:
        if not 0 <= index < self.size:
            raise IndexError(f"place {index} of a permutation of {self.size} numbers")
        number = self._encipher(index)
        while number >= self.size:
            number = self._encipher(number)
        return number

    def _encipher(self, number: int) -> int:
        bits = self.half_bits
        mask = (1 << bits) - 1
        left, right = number >> bits, number & mask
        for key in self.keys:
            left, right = right, left ^ (_scramble(right ^ key) & mask)
        return left << bits | right


@lru_cache(maxsize=64)
def epoch_permutation(size: int, seed: int, epoch: int, name: str = "") -> Permutation:
    """The order of an epoch. Sources with different names have different ones."""
    generator = row_generator(f"order {name}", seed, epoch)
    keys = generator.integers(_WORD, size=ROUNDS, dtype="uint64", endpoint=True)
    half_bits = max(LEAST_HALF_BITS, ((size - 1).bit_length() + 1) // 2)
    return Permutation(size, half_bits, tuple(keys.tolist()))


class Shuffled:
    """A `Stream` over the rows of a set: all of them, in an order drawn anew for each epoch."""

    def __init__(self, rows: Rows, seed: int, name: str = "") -> None:
        if len(rows) == 0:
            which = f"{name!r}" if name else "the data"
            raise TrainingError(f"{which} has no rows; check what was read and filtered")
        self.rows = rows
        self.seed = seed
        self.name = name

    def __getitem__(self, number: int) -> Row:
        epoch, place = divmod(number, len(self.rows))
        order = epoch_permutation(len(self.rows), self.seed, epoch, self.name)
        return self.rows.row(order[place], epoch)


def _scramble(word: int) -> int:
    """Every bit of the result depends on every bit of the word (the finaliser of SplitMix64,
    Steele et al. 2014)."""
    word = (word ^ word >> 30) * 0xBF58476D1CE4E5B9 & _WORD
    word = (word ^ word >> 27) * 0x94D049BB133111EB & _WORD
    return word ^ word >> 31
