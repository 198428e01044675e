"""Which rows of a flat batch are whose, and how their keys are read: planned on the host, once for
all layers of a pass.

Shapes: N rows of the flat batch, T rows of a sequence, S keys of it, B sequences of a group.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

M = TypeVar("M")

MOST_GATHERED = 96
"""Keys of a sequence that is read together with others: a longer one is soonest read alone."""
MOST_ROWS = 8
"""Rows of such a sequence: the newest token, and drafts."""


class Segment(NamedTuple):
    """The rows of one sequence: its tokens at the positions `start` to `start + num_tokens`. Their
    keys and those of all tokens before stand in the blocks `table`, in order."""

    table: Sequence[int]
    start: int
    num_tokens: int

    @property
    def stop(self) -> int:
        return self.start + self.num_tokens


class Alone(NamedTuple):
    """A sequence that is read by itself: `num_rows` rows, and the `num_keys` keys up to the last
    one's. `first_slot` counts tokens through all blocks; or, where the blocks do not follow each
    other, through `blocks`. Where it `is_cut`, some row is too far from one of the keys."""

    first_row: int
    num_rows: int
    num_keys: int
    first_slot: int
    blocks: Tensor | None
    is_cut: bool


class Group(NamedTuple):
    """Sequences with equally many rows, whose keys are gathered to one padded batch. `slots_BS`
    count tokens through all blocks. `allowed_B1TS` is None where each row sees all keys."""

    rows_BT: Tensor
    slots_BS: Tensor
    allowed_B1TS: Tensor | None


class Reads(NamedTuple):
    """First those alone, then the groups; row n of the batch is row `order_N[n]` of what comes of
    it (None: they are in the order of the batch)."""

    alone: list[Alone]
    groups: list[Group]
    order_N: Tensor | None


class FlatBatch:
    """The sequences of a flat batch, in the order of their rows. Raises ValueError for a table that
    does not reach as far as its sequence."""

    def __init__(
        self, segments: Sequence[Segment], *, block_size: int, device: torch.device | None = None
    ) -> None:
        for segment in segments:
            if segment.stop > len(segment.table) * block_size:
                raise ValueError(
                    f"a sequence of {segment.stop} tokens has {len(segment.table)} blocks of "
                    f"{block_size}; allocate its blocks before it is computed"
                )
        self.segments = segments
        self.block_size = block_size
        self.device = device
        slots = [slot for segment in segments for slot in self._slots(segment, segment.start)]
        self.slots_N = self._tensor(slots)
        self._made: dict[Any, Any] = {}

    def once(self, key: object, make: Callable[[], M]) -> M:
        """What `make` gives: it is called for the first layer that asks, and the others get the
        same."""
        if key not in self._made:
            self._made[key] = make()
        made: M = self._made[key]
        return made

    def reads(self, look_back: int | None, *, gather: bool) -> Reads:
        """How the keys are read that lie at most `look_back` tokens (None: any number) before a
        row. Unless `gather`, each sequence is read alone."""
        return self.once((look_back, gather), lambda: self._plan(look_back, gather))

    def _plan(self, look_back: int | None, gather: bool) -> Reads:
        alone: list[_Placed] = []
        similar: dict[tuple[int, int], list[_Placed]] = defaultdict(list)
        for placed in self._placed(look_back):
            num_rows, num_keys = placed.segment.num_tokens, placed.num_keys
            if gather and num_rows <= MOST_ROWS and num_keys <= MOST_GATHERED:
                similar[num_rows, num_keys.bit_length()].append(placed)
            else:
                alone.append(placed)
        return Reads(
            [self._alone(placed, look_back) for placed in alone],
            [self._group(members, look_back) for members in similar.values()],
            self._order([*alone, *chain.from_iterable(similar.values())]),
        )

    def _placed(self, look_back: int | None) -> Iterator["_Placed"]:
        row = 0
        for segment in self.segments:
            first = 0 if look_back is None else max(segment.start - look_back, 0)
            yield _Placed(segment, row, first)
            row += segment.num_tokens

    def _order(self, read: "Sequence[_Placed]") -> Tensor | None:
        rows = [placed.row + i for placed in read for i in range(placed.segment.num_tokens)]
        return None if rows == list(range(len(rows))) else self._tensor(rows).argsort()

    def _alone(self, placed: "_Placed", look_back: int | None) -> Alone:
        segment, size = placed.segment, self.block_size
        first_block, offset = divmod(placed.first, size)
        ids = list(segment.table[first_block : -(-segment.stop // size)])
        blocks = None
        if ids == list(range(ids[0], ids[0] + len(ids))):
            offset += ids[0] * size
        else:
            blocks = self._tensor(ids)
        is_cut = look_back is not None and placed.num_keys > look_back + 1
        return Alone(placed.row, segment.num_tokens, placed.num_keys, offset, blocks, is_cut)

    def _group(self, members: "Sequence[_Placed]", look_back: int | None) -> Group:
        """Padding is the sequence's last key once more: only slots that were written may be read,
        since nothing times NaN is NaN."""
        longest, num_rows = max(m.num_keys for m in members), members[0].segment.num_tokens
        own = [self._slots(member.segment, member.first) for member in members]
        slots_BS = self._tensor([slots + slots[-1:] * (longest - len(slots)) for slots in own])
        rows_BT = self._tensor([m.row for m in members])[:, None] + self._range(num_rows)
        if num_rows == 1 and all(len(slots) == longest for slots in own):
            return Group(rows_BT, slots_BS, None)
        starts_B = self._tensor([m.segment.start - m.first for m in members])
        behind_BTS = (starts_B[:, None] + self._range(num_rows))[..., None] - self._range(longest)
        allowed_BTS = behind_BTS >= 0
        if look_back is not None:
            allowed_BTS &= behind_BTS <= look_back
        return Group(rows_BT, slots_BS, allowed_BTS[:, None])

    def _slots(self, segment: Segment, first: int) -> list[int]:
        """Where the keys from position `first` on stand, counted in tokens through all blocks."""
        size, first_block = self.block_size, first // self.block_size
        blocks = segment.table[first_block : -(-segment.stop // size)]
        slots = [slot for id_ in blocks for slot in range(id_ * size, (id_ + 1) * size)]
        return slots[first - first_block * size : segment.stop - first_block * size]

    def _tensor(self, values: Sequence[int] | Sequence[Sequence[int]]) -> Tensor:
        return torch.tensor(values, dtype=torch.long, device=self.device)

    def _range(self, count: int) -> Tensor:
        return torch.arange(count, device=self.device)


class _Placed(NamedTuple):
    """A segment with its first row, and the position of the first key that any of them sees."""

    segment: Segment
    row: int
    first: int

    @property
    def num_keys(self) -> int:
        return self.segment.stop - self.first
