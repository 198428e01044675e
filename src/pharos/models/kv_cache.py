"""Keys and values of the tokens read so far, so that each new token costs one step.

A decoder's attention layer does not know where its keys are kept: it calls `attend`, which without
a cache is plain attention. With one, the cache keeps the new keys and values and attends over all
that it has. The contiguous cache is here; another may keep them in pages.

Shapes: B sequences, H query heads, G key-value heads, T new tokens, S tokens in all, K head width.
"""

from typing import Protocol

import torch
from torch import Tensor

from pharos.ops.attention import attention
from pharos.ops.masks import Mask
from pharos.ops.positions import DistanceBias

FIRST_CAPACITY = 256


class Cache(Protocol):
    """`length` tokens are kept; while a forward pass runs, still those from before it. `attend` is
    called once per layer and pass, and `advance` after the last layer."""

    @property
    def length(self) -> int: ...

    def attend(
        self,
        layer: int,
        q_BHTK: Tensor,
        k_BGTK: Tensor,
        v_BGTK: Tensor,
        *,
        mask: Mask,
        bias: DistanceBias | None,
        scale: float | None,
    ) -> Tensor: ...

    def advance(self, num_tokens: int) -> None: ...


def attend(
    cache: Cache | None,
    layer: int,
    q_BHTK: Tensor,
    k_BGTK: Tensor,
    v_BGTK: Tensor,
    *,
    mask: Mask,
    bias: DistanceBias | None = None,
    scale: float | None = None,
    dropout: float = 0.0,
) -> Tensor:
    """Attention over the new tokens, and over those in the cache if there is one."""
    if cache is None:
        return attention(q_BHTK, k_BGTK, v_BGTK, mask=mask, bias=bias, scale=scale, dropout=dropout)
    return cache.attend(layer, q_BHTK, k_BGTK, v_BGTK, mask=mask, bias=bias, scale=scale)


class KVCache:
    """One stretch of memory per layer, doubled when it is full. `capacity` tokens fit at first."""

    def __init__(self, *, num_layers: int, capacity: int = FIRST_CAPACITY) -> None:
        self.length = 0
        self.capacity = capacity
        self._kv_2BGSK: list[Tensor | None] = [None] * num_layers

    def attend(
        self,
        layer: int,
        q_BHTK: Tensor,
        k_BGTK: Tensor,
        v_BGTK: Tensor,
        *,
        mask: Mask,
        bias: DistanceBias | None,
        scale: float | None,
    ) -> Tensor:
        k_BGSK, v_BGSK = self.extend(layer, k_BGTK, v_BGTK)
        return attention(q_BHTK, k_BGSK, v_BGSK, mask=mask, bias=bias, scale=scale)

    def extend(self, layer: int, k_BGTK: Tensor, v_BGTK: Tensor) -> tuple[Tensor, Tensor]:
        """Keep a layer's new keys and values; all of them so far, as views."""
        end = self.length + k_BGTK.shape[2]
        kv_2BGSK = self._with_room_for(layer, end, k_BGTK)
        kv_2BGSK[0, :, :, self.length : end] = k_BGTK
        kv_2BGSK[1, :, :, self.length : end] = v_BGTK
        k_BGSK, v_BGSK = kv_2BGSK[:, :, :, :end]
        return k_BGSK, v_BGSK

    def advance(self, num_tokens: int) -> None:
        self.length += num_tokens

    def select(self, rows_B: Tensor) -> None:
        """Keep these sequences, in this order; one may be taken several times (beam search)."""
        for layer, kv in enumerate(self._kv_2BGSK):
            if kv is not None:
                room_2BGSK = kv.new_empty(2, len(rows_B), *kv.shape[2:])
                room_2BGSK[:, :, :, : self.length] = kv[:, rows_B, :, : self.length]
                self._kv_2BGSK[layer] = room_2BGSK

    def truncate(self, length: int) -> None:
        """Forget the tokens from position `length` on."""
        self.length = min(self.length, length)

    @property
    def num_bytes(self) -> int:
        return sum(kv.nbytes for kv in self._kv_2BGSK if kv is not None)

    def _with_room_for(self, layer: int, length: int, like_BGTK: Tensor) -> Tensor:
        kept = self._kv_2BGSK[layer]
        if kept is not None and kept.shape[3] >= length:
            return kept
        while self.capacity < length:
            self.capacity *= 2
        batch, groups, _, width = like_BGTK.shape
        room_2BGSK = like_BGTK.new_empty(2, batch, groups, self.capacity, width)
        if kept is not None:
            room_2BGSK[:, :, :, : self.length] = kept[:, :, :, : self.length]
        self._kv_2BGSK[layer] = room_2BGSK
        return room_2BGSK


def next_positions(ids_BT: Tensor, cache: Cache | None) -> Tensor:
    """The positions `[1, T]` of new tokens: those after the ones in the cache."""
    start = 0 if cache is None else cache.length
    return torch.arange(start, start + ids_BT.shape[1], device=ids_BT.device)[None]
