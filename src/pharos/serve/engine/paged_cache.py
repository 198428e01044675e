"""The caches of a forward pass over many sequences: what a decoder's layers ask for attention, over
keys and values in blocks.

The model is to be given the tokens' positions; a cache's `length` is how far the longest sequence
has been read, for tables that reach over all distances. The blocks belong to the scheduler: nothing
is kept here beyond the pass.

Shapes: N new tokens of all sequences (the batch is one row), H query heads, G key-value heads, K
head width.
"""

from collections.abc import Sequence

from torch import Tensor

from pharos.ops.masks import Mask
from pharos.ops.paged_attention import DecodeBatch, FlatBatch, Segment, paged_attention, store
from pharos.ops.positions import DistanceBias
from pharos.serve.engine.paged_kv import PagedKV


class _Cache:
    """A `models.kv_cache.Cache` for one pass over a batch `[1, N]`."""

    def __init__(self, kv: PagedKV, batch: FlatBatch | DecodeBatch, length: int) -> None:
        self.length = length
        self._layers_2GPCK = kv.layers_2GPCK
        self._batch = batch

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
        kv_2GPCK, q_NHK = self._layers_2GPCK[layer], q_BHTK[0].transpose(0, 1)
        store(kv_2GPCK, k_BGTK[0], v_BGTK[0], self._batch)
        out_NHK = paged_attention(q_NHK, kv_2GPCK, self._batch, mask=mask, bias=bias, scale=scale)
        return out_NHK.transpose(0, 1)[None]

    def advance(self, num_tokens: int) -> None:
        """How far each sequence has got is the scheduler's to say: drafts may be rejected."""


class PagedCache(_Cache):
    """Over the new tokens of `segments`, planned on the host."""

    def __init__(self, kv: PagedKV, segments: Sequence[Segment]) -> None:
        self._flat = FlatBatch(segments, block_size=kv.block_size, device=kv.device)
        super().__init__(kv, self._flat, max(segment.start for segment in segments))

    def pages(self) -> tuple[Sequence[Tensor], FlatBatch]:
        """The keys and values of all layers, and whose rows the new ones are: for a model that
        stores and reads them itself."""
        return self._layers_2GPCK, self._flat


class DecodeCache(_Cache):
    """Over one new token of each of many sequences. How long they are only the device knows, so
    `length` is as much as they have room for."""

    def __init__(self, kv: PagedKV, batch: DecodeBatch) -> None:
        super().__init__(kv, batch, batch.longest - 1)
