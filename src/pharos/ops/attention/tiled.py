"""Exact attention that never holds a matrix of all pairs (FlashAttention: Dao et al. 2022,
arXiv:2205.14135), in plain torch, for any device: the fast path of the CPU.

The pairs are cut into tiles (`tiles.py`). From tile to tile a query's softmax is kept up to date as
keys come in (Milakov and Gimelshein 2018, arXiv:1805.02867): the greatest score so far, the sum of
exponentials relative to it, and the sum of the values weighted with them; when a greater score
arrives, both sums fade by the exponential of the difference. The backward pass computes the scores
again. What is kept for it is one number per query, the logarithm of its sum: memory grows with the
number of tokens, not with its square. The mask says which tiles are not computed at all, and which
need no mask: time falls with its density.

Shapes: B sequences, G key-value heads, H = G·E query heads, T queries, S keys, K width of a head,
R distances of a bias; P = B·G; a tile has E·Q rows, written R too, and C keys.
"""

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from pharos.ops.attention.scoring import Scoring
from pharos.ops.attention.tiles import HIDDEN, Tile, Tiling

LOWEST = -60.0  # smaller exponentials lead to denormal products, hundreds of times slower


def tiled_attention(q_BHTK: Tensor, k_BGSK: Tensor, v_BGSK: Tensor, scoring: Scoring) -> Tensor:
    """`softmax(scale · q kᵀ + bias) v` in memory that grows with T + S. Sums are kept in float32
    (float64 if q is); a query that may look at nothing gets zeros. Gradients reach q, k, v and the
    values of the bias, once."""
    values_HR = None if scoring.bias is None else scoring.bias.values_HR
    if values_HR is not None:
        values_HR = values_HR.expand(q_BHTK.shape[1], -1)
    out_BHTK: Tensor = _TiledAttention.apply(  # type: ignore[no-untyped-call]
        q_BHTK, k_BGSK, v_BGSK, values_HR, scoring
    )
    return out_BHTK


class _TiledAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        q_BHTK: Tensor,
        k_BGSK: Tensor,
        v_BGSK: Tensor,
        values_HR: Tensor | None,
        scoring: Scoring,
    ) -> Tensor:
        inputs = _Inputs(q_BHTK, k_BGSK, v_BGSK, values_HR, scoring)
        out_BHTK = q_BHTK.new_empty(*q_BHTK.shape[:3], v_BGSK.shape[3])
        log_sum_BHT1 = q_BHTK.new_empty(*q_BHTK.shape[:3], 1, dtype=inputs.dtype)
        for queries, tiles in inputs.tiling:
            q_PRK = inputs.scaled(queries)
            softmax = OnlineSoftmax(q_PRK, width=v_BGSK.shape[3])
            for tile in tiles:
                softmax.add(inputs.scores(q_PRK, tile), inputs.v_PSK[tile.of_P, tile.keys], tile)
            inputs.tiling.put(softmax.mean(), queries, out_BHTK)
            inputs.tiling.put(softmax.log_sum(), queries, log_sum_BHT1)
        ctx.save_for_backward(q_BHTK, k_BGSK, v_BGSK, values_HR, out_BHTK, log_sum_BHT1)
        ctx.scoring = scoring
        return out_BHTK

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, do_BHTK: Tensor) -> tuple[Tensor | None, ...]:
        given: tuple[Tensor, Tensor, Tensor, Tensor | None] = ctx.saved_tensors[:4]
        out_BHTK, log_sum_BHT1 = ctx.saved_tensors[4:]
        inputs = _Inputs(*given, ctx.scoring)
        gradients = _Gradients(inputs, with_bias=ctx.needs_input_grad[3])
        for queries, tiles in inputs.tiling:
            gradients.add_block(queries, tiles, do_BHTK, out_BHTK, log_sum_BHT1)
        return *gradients.of(*given), None


class _Inputs:
    """The tensors of a call as its tiles need them; k and v in the number format of the sums."""

    def __init__(
        self,
        q_BHTK: Tensor,
        k_BGSK: Tensor,
        v_BGSK: Tensor,
        values_HR: Tensor | None,
        scoring: Scoring,
    ) -> None:
        self.scale = scoring.scale
        self.dtype = torch.promote_types(q_BHTK.dtype, torch.float32)
        self.tiling = Tiling.of(q_BHTK, k_BGSK, scoring)
        self.q_BHTK = q_BHTK
        self.k_PSK = k_BGSK.to(self.dtype).flatten(0, 1)
        self.v_PSK = v_BGSK.to(self.dtype).flatten(0, 1)
        self.values_HR = None if values_HR is None else values_HR.to(self.dtype)
        self._memory = q_BHTK.new_empty(0, dtype=self.dtype)

    def scaled(self, queries: slice) -> Tensor:
        return self.tiling.take(self.q_BHTK, queries, self.dtype) * self.scale

    def scores(self, q_PRK: Tensor, tile: Tile) -> Tensor:
        """`[len(of_P), R, C]`, until the next call: all are written to the same memory."""
        k_PCK = self.k_PSK[tile.of_P, tile.keys]
        shape = (len(k_PCK), q_PRK.shape[1], k_PCK.shape[1])
        if math.prod(shape) > len(self._memory):
            self._memory = self._memory.new_empty(math.prod(shape))
        scores_PRC = self._memory[: math.prod(shape)].view(shape)
        torch.bmm(q_PRK[tile.of_P], k_PCK.mT, out=scores_PRC)
        scores_PEQC = self.tiling.by_head(scores_PRC)
        if self.values_HR is not None:
            scores_PEQC += self.tiling.bias(self.values_HR, tile)
        if tile.hidden is not None:
            scores_PEQC += tile.hidden
        return scores_PRC


def _exponentials(scores_PRC: Tensor, top_PR1: Tensor, tile: Tile) -> Tensor:
    """exp(score - top), in place; exactly 0 for a pair that is not allowed."""
    p_PRC = scores_PRC.sub_(top_PR1).clamp_(LOWEST, 0.0).exp_()
    return p_PRC if tile.hidden is None else torch.threshold_(p_PRC, math.exp(LOWEST + 1), 0.0)


class OnlineSoftmax:
    """Of each row: the greatest score so far, and relative to it the sum of the exponentials and
    the sum of the values weighted with them."""

    def __init__(self, q_PRK: Tensor, width: int) -> None:
        self._top_PR1 = torch.full_like(q_PRK[..., :1], HIDDEN / 2)
        self._sum_PR1 = torch.zeros_like(self._top_PR1)
        self._values_PRK = q_PRK.new_zeros(*q_PRK.shape[:2], width)

    def add(self, scores_PRC: Tensor, v_PCK: Tensor, tile: Tile) -> None:
        """A tile's scores, which are overwritten, and the values of its keys."""
        top_PR1 = self._top_PR1[tile.of_P]
        new_top_PR1 = torch.maximum(top_PR1, scores_PRC.amax(-1, keepdim=True))
        p_PRC = _exponentials(scores_PRC, new_top_PR1, tile)
        fade_PR1 = (top_PR1 - new_top_PR1).clamp_(LOWEST).exp_()
        self._sum_PR1[tile.of_P].mul_(fade_PR1).add_(p_PRC.sum(-1, keepdim=True))
        self._values_PRK[tile.of_P].mul_(fade_PR1).baddbmm_(p_PRC, v_PCK)
        top_PR1.copy_(new_top_PR1)

    def mean(self) -> Tensor:
        return self._values_PRK / self._sum_PR1.where(self._sum_PR1 > 0, 1.0)

    def log_sum(self) -> Tensor:
        """log Σ exp(score); +inf for a row without any key, so that all its shares are zero."""
        log_sum_PR1 = self._top_PR1 + self._sum_PR1.log()
        return log_sum_PR1.where(self._sum_PR1 > 0, float("inf"))


class _Gradients:
    """Sums up, tile by tile, what the loss changes by with q, k, v and the bias.

    With p the softmax and do the gradient of the output, dv = pᵀ do; through the softmax comes
    ds = p · (do vᵀ - Σ_k do · out); and dq = scale · ds k, dk = scale · dsᵀ q.
    """

    def __init__(self, inputs: _Inputs, *, with_bias: bool) -> None:
        self.inputs = inputs
        self.dq_BHTK = torch.empty_like(inputs.q_BHTK)
        self.dk_PSK, self.dv_PSK = torch.zeros_like(inputs.k_PSK), torch.zeros_like(inputs.v_PSK)
        self.dvalues_HR: Tensor | None = None
        if with_bias:
            assert inputs.values_HR is not None
            self.dvalues_HR = torch.zeros_like(inputs.values_HR)

    def add_block(
        self,
        queries: slice,
        tiles: Iterable[Tile],
        do_BHTK: Tensor,
        out_BHTK: Tensor,
        log_sum_BHT1: Tensor,
    ) -> None:
        inputs, tiling = self.inputs, self.inputs.tiling
        do_PRK, out_PRK, log_sum_PR1 = (
            tiling.take(x_BHTK, queries, inputs.dtype)
            for x_BHTK in (do_BHTK, out_BHTK, log_sum_BHT1)
        )
        mean_PR1 = (do_PRK * out_PRK).sum(-1, keepdim=True)
        q_PRK = inputs.scaled(queries)
        dq_PRK = torch.zeros_like(q_PRK)
        for tile in tiles:
            of_P, keys = tile.of_P, tile.keys
            p_PRC = _exponentials(inputs.scores(q_PRK, tile), log_sum_PR1[of_P], tile)
            self.dv_PSK[of_P, keys].baddbmm_(p_PRC.mT, do_PRK[of_P])
            ds_PRC = torch.bmm(do_PRK[of_P], inputs.v_PSK[of_P, keys].mT)
            ds_PRC.sub_(mean_PR1[of_P]).mul_(p_PRC)
            dq_PRK[of_P].baddbmm_(ds_PRC, inputs.k_PSK[of_P, keys])
            self.dk_PSK[of_P, keys].baddbmm_(ds_PRC.mT, q_PRK[of_P])
            if self.dvalues_HR is not None:
                tiling.add_by_distance(ds_PRC, tile, self.dvalues_HR)
        tiling.put(dq_PRK.mul_(inputs.scale), queries, self.dq_BHTK)

    def of(
        self, q_BHTK: Tensor, k_BGSK: Tensor, v_BGSK: Tensor, values_HR: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        """In the shapes and number formats of what was given."""
        dk_BGSK = self.dk_PSK.view(k_BGSK.shape).to(k_BGSK.dtype)
        dv_BGSK = self.dv_PSK.view(v_BGSK.shape).to(v_BGSK.dtype)
        dvalues_HR = self.dvalues_HR
        if dvalues_HR is not None and values_HR is not None:
            dvalues_HR = dvalues_HR.to(values_HR.dtype)
        return self.dq_BHTK, dk_BGSK, dv_BGSK, dvalues_HR
