"""Attention over keys and values that stand in blocks (PagedAttention: Kwon et al. 2023,
arXiv:2309.06180).

A flat batch is the new tokens of many sequences, one after another. The keys and values of each
sequence, the new ones included, are in the blocks that its table names. How they are read is
planned once for all layers of a pass (`FlatBatch`), and on a CPU nothing is copied that need not
be: where the blocks of a sequence follow each other, its keys are a view. Only short sequences are
gathered on purpose, many together, since a call for each would cost more than the copy.

Shapes: N rows of the flat batch, H query heads, G key-value heads (R = H / G queries share one),
K head width, P blocks of C tokens, T rows of a sequence, S keys of it, B sequences of a group.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from pharos.ops.attention import attention
from pharos.ops.attention.chunk import chunk_attention
from pharos.ops.masks import Both, Causal, Mask, Window
from pharos.ops.positions import DistanceBias

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
        self._reads: dict[tuple[int | None, bool], Reads] = {}

    def reads(self, look_back: int | None, *, gather: bool) -> Reads:
        """How the keys are read that lie at most `look_back` tokens (None: any number) before a
        row. Unless `gather`, each sequence is read alone."""
        key = (look_back, gather)
        if key not in self._reads:
            self._reads[key] = self._plan(look_back, gather)
        return self._reads[key]

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


def store(kv_2PCGK: Tensor, k_NGK: Tensor, v_NGK: Tensor, batch: FlatBatch) -> None:
    """Put the keys and values of a flat batch where its sequences' tables say."""
    kv_2SGK = kv_2PCGK.flatten(1, 2)
    kv_2SGK[0].index_copy_(0, batch.slots_N, k_NGK)
    kv_2SGK[1].index_copy_(0, batch.slots_N, v_NGK)


def paged_attention(
    q_NHK: Tensor,
    kv_2PCGK: Tensor,
    batch: FlatBatch,
    *,
    mask: Mask,
    bias: DistanceBias | None = None,
    scale: float | None = None,
) -> Tensor:
    """Each row over the stored keys of its own sequence, `[N, H, K]`. Mask and bias go by the
    tokens' positions in their sequence. Raises ValueError for a mask that lets a token see later
    ones, or is not a window."""
    reads = batch.reads(look_back(mask), gather=bias is None)
    q_NGRK = q_NHK.view(len(q_NHK), kv_2PCGK.shape[3], -1, q_NHK.shape[2])
    every_key = _by_head(kv_2PCGK)
    outputs = [
        _attend_alone(
            q_NGRK.narrow(0, one.first_row, one.num_rows),
            *_keys_of(one, kv_2PCGK, every_key),
            mask=mask if one.is_cut else Causal(),
            bias=bias,
            scale=scale,
        )
        for one in reads.alone
    ]
    outputs += [_attend_together(q_NGRK, kv_2PCGK, group, scale) for group in reads.groups]
    out_NHK = torch.cat(outputs).view(q_NHK.shape)
    return out_NHK if reads.order_N is None else out_NHK[reads.order_N]


def plain_paged_attention(
    q_NHK: Tensor,
    kv_2PCGK: Tensor,
    batch: FlatBatch,
    *,
    mask: Mask,
    bias: DistanceBias | None = None,
    scale: float | None = None,
) -> Tensor:
    """The twin: one sequence after another, all of its blocks gathered, in float32."""
    outputs, row = [], 0
    for segment in batch.segments:
        blocks = torch.tensor(list(segment.table), device=q_NHK.device)
        k_1GSK, v_1GSK = (x[:, :, : segment.stop] for x in _by_head(kv_2PCGK[:, blocks]))
        q_1HTK = q_NHK[row : row + segment.num_tokens].transpose(0, 1)[None]
        out_1HTK = attention(
            q_1HTK, k_1GSK, v_1GSK, mask=mask, bias=bias, scale=scale, backend="plain"
        )
        outputs.append(out_1HTK[0].transpose(0, 1))
        row += segment.num_tokens
    return torch.cat(outputs)


def look_back(mask: Mask) -> int | None:
    """How many tokens before itself a token sees by this mask: None if there is no limit. Raises
    ValueError for a mask that is not causal, or more than a window."""
    parts = list(_conditions(mask))
    if Causal() not in parts or not all(isinstance(part, Causal | Window) for part in parts):
        raise ValueError(
            f"keys in blocks are read with {mask}; choose Causal(), or Causal() & Window(left=...)"
        )
    return min((part.left for part in parts if isinstance(part, Window)), default=None)


def _conditions(mask: Mask) -> Iterator[Mask]:
    if isinstance(mask, Both):
        yield from _conditions(mask.one)
        yield from _conditions(mask.other)
    else:
        yield mask


def _by_head(kv_2PCGK: Tensor) -> tuple[Tensor, Tensor]:
    """All keys and values of some blocks, `[1, G, P·C, K]`: views where the blocks are one."""
    k_1GSK, v_1GSK = kv_2PCGK.flatten(1, 2).transpose(1, 2)[:, None].unbind()
    return k_1GSK, v_1GSK


def _keys_of(
    one: Alone, kv_2PCGK: Tensor, every_key: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor]:
    k_1GSK, v_1GSK = (
        every_key if one.blocks is None else _by_head(kv_2PCGK.index_select(1, one.blocks))
    )
    first, count = one.first_slot, one.num_keys
    return k_1GSK.narrow(2, first, count), v_1GSK.narrow(2, first, count)


def _attend_alone(
    q_TGRK: Tensor,
    k_1GSK: Tensor,
    v_1GSK: Tensor,
    *,
    mask: Mask,
    bias: DistanceBias | None,
    scale: float | None,
) -> Tensor:
    """`[T, G, R, K]`. A single row sees every key that is read for it."""
    if len(q_TGRK) == 1 and bias is None:
        return scaled_dot_product_attention(q_TGRK, k_1GSK, v_1GSK, scale=scale)
    q_1HTK = q_TGRK.flatten(1, 2).transpose(0, 1)[None]
    if bias is None and isinstance(mask, Causal) and q_TGRK.device.type == "cpu":
        out_1HTK = chunk_attention(q_1HTK, k_1GSK, v_1GSK, scale=scale)
    else:
        out_1HTK = attention(q_1HTK, k_1GSK, v_1GSK, mask=mask, bias=bias, scale=scale)
    return out_1HTK[0].transpose(0, 1).view(q_TGRK.shape)


def _attend_together(q_NGRK: Tensor, kv_2PCGK: Tensor, group: Group, scale: float | None) -> Tensor:
    """`[B·T, G, R, K]`. The heads that share keys are but more rows of one head."""
    num_sequences, num_rows = group.rows_BT.shape
    q_BGRTK = q_NGRK[group.rows_BT].permute(0, 2, 3, 1, 4)
    allowed = group.allowed_B1TS
    if allowed is not None and num_rows > 1:
        allowed = allowed.repeat(1, 1, q_BGRTK.shape[2], 1)
    k_BGSK, v_BGSK = (
        x_SGK.index_select(0, group.slots_BS.flatten())
        .view(num_sequences, -1, *x_SGK.shape[1:])
        .transpose(1, 2)
        for x_SGK in kv_2PCGK.flatten(1, 2)
    )
    out_BGXK = scaled_dot_product_attention(
        q_BGRTK.flatten(2, 3), k_BGSK, v_BGSK, attn_mask=allowed, scale=scale
    )
    return out_BGXK.view(q_BGRTK.shape).permute(0, 3, 1, 2, 4).flatten(0, 1)
