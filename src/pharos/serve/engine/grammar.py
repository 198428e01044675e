"""What an output may say next: a grammar as masks over the vocabulary.

Shapes: R rows (a sequence's newest position and one for each of its drafts), W words of 32 tokens.
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class GrammarState(Protocol):
    """How far one output has got in its grammar. Token `t` is legal where bit `t % 32` of word
    `t // 32` of a mask is set; the tokens that end an output are legal where the grammar accepts
    what is there. Once an end was accepted nothing is legal any more."""

    @property
    def is_over(self) -> bool:
        """Whether an end token was accepted, or nothing but an end is legal."""
        ...

    def accept(self, tokens: Sequence[int]) -> None:
        """The output goes on with these. Raises ValueError for one that is not legal."""
        ...

    def roll_back(self, num_tokens: int) -> None:
        """Forget the last so many of the accepted tokens."""
        ...

    def legal_drafts(self, drafts: Sequence[int]) -> int:
        """How many of the drafts, from the first on, are legal one after the other."""
        ...

    def fill(self, mask_RW: NDArray[np.int32], drafts: Sequence[int] = ()) -> None:
        """Masks of what may come after the accepted tokens, and after each of the drafts, into
        `1 + len(drafts)` rows. The state stays where it is. After a draft that is not legal every
        token is: those rows are never used."""
        ...
