"""FlashAttention on a GPU, block-sparse, by our own Triton kernels (`triton_kernels.py`).

The mask becomes lists of the blocks to visit (`block_lists.py`); what remains of it for the kernels
are the pairs of the blocks that it cuts through. Triton is needed only when this is called; torch's
builds for CUDA bring it.

Shapes: B sequences, H query heads, G key-value heads, T queries, S keys, K width of queries and
keys, V of values, R distances of a bias.
"""

import importlib.util
import math
import os
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import pad

from pharos.ops.attention.block_lists import BlockLists, Grid, plan_blocks
from pharos.ops.attention.scoring import Scoring

WIDEST = 128
LOG2_E = math.log2(math.e)


def can_use_triton(q_BHTK: Tensor) -> bool:
    """Triton is there, and the queries are on a GPU with matrix units for their number format, and
    of a width that the kernels take. With TRITON_INTERPRET=1 Triton runs on the CPU, for tests; it
    has no bfloat16 there."""
    if importlib.util.find_spec("triton") is None or q_BHTK.shape[3] > WIDEST:
        return False
    if os.environ.get("TRITON_INTERPRET") == "1":
        return q_BHTK.dtype in (torch.float32, torch.float16)
    if not q_BHTK.is_cuda or torch.cuda.get_device_capability(q_BHTK.device) < (8, 0):
        return False
    return q_BHTK.dtype in (torch.float32, torch.float16, torch.bfloat16)


def triton_attention(q_BHTK: Tensor, k_BGSK: Tensor, v_BGSK: Tensor, scoring: Scoring) -> Tensor:
    """`softmax(scale · q kᵀ + bias) v`: products of q's number format, sums in float32. A query
    that may look at nothing gets zeros. Gradients reach q, k, v and the values of the bias, once.
    `ValueError` for what `can_use_triton` excludes."""
    if not can_use_triton(q_BHTK):
        raise ValueError(
            f"q {tuple(q_BHTK.shape)} {q_BHTK.dtype} on {q_BHTK.device}: the triton backend needs "
            f"the triton package, an NVIDIA GPU of compute capability 8 or more, heads of at most "
            f"{WIDEST}, and float32, float16 or bfloat16; the tiled backend takes anything"
        )
    values_HR = None
    if scoring.bias is not None:
        values_HR = scoring.bias.values_HR.expand(q_BHTK.shape[1], -1)
    width = v_BGSK.shape[3]
    inputs = (_widened(x.to(q_BHTK.dtype)) for x in (q_BHTK, k_BGSK, v_BGSK))
    out_BHTV: Tensor = _TritonAttention.apply(  # type: ignore[no-untyped-call]
        *inputs, values_HR, scoring
    )
    return out_BHTV[..., :width]


def _widened(x_BHTK: Tensor) -> Tensor:
    """With zeros, to a width that the matrix units take: a power of two, 16 or more."""
    width = x_BHTK.shape[3]
    return pad(x_BHTK, (0, max(1 << (width - 1).bit_length(), 16) - width)).contiguous()


class Launch(NamedTuple):
    """The size of the blocks, and for each pass over how many warps a program is spread and how
    many blocks it loads ahead. Chosen so that (almost) nothing spills out of the registers and the
    shared memory of an A100 suffices."""

    queries: int
    keys: int
    forward: tuple[int, int]
    backward: tuple[int, int]

    @classmethod
    def of(cls, dtype: torch.dtype, width: int) -> "Launch":
        if dtype == torch.float32:
            return cls(64 if width <= 64 else 32, 32, (4, 2), (4, 2 if width <= 64 else 1))
        return cls(128, 64, (4 if width <= 64 else 8, 3), (8, 2 if width <= 64 else 1))


class _Call:
    """What the kernels are told alike."""

    def __init__(
        self,
        q_BHTK: Tensor,
        k_BGSK: Tensor,
        v_BGSV: Tensor,
        values_HR: Tensor | None,
        scoring: Scoring,
    ) -> None:
        from pharos.ops.attention import triton_kernels

        self.kernels: Any = triton_kernels
        sequences, heads, num_queries, width = q_BHTK.shape
        groups, num_keys = k_BGSK.shape[1:3]
        self.launch = Launch.of(q_BHTK.dtype, max(width, v_BGSV.shape[3]))
        block = (self.launch.queries, self.launch.keys)
        grid = Grid(scoring.q_start, num_queries, num_keys, block, q_BHTK.device)
        self.plan = plan_blocks(scoring.mask, grid)
        self.query_programs = (len(grid.query_blocks.first), sequences * heads)
        self.key_programs = (len(grid.key_blocks.first), sequences * groups)
        self.problem = self.kernels.Problem(
            heads, groups, num_queries, num_keys, scoring.scale * LOG2_E
        )
        self.bias = None
        if values_HR is not None and scoring.bias is not None:
            zero = scoring.bias.zero - scoring.q_start
            table_HR = (values_HR.float() * LOG2_E).contiguous()
            self.bias = self.kernels.Bias(table_HR, zero, table_HR.shape[1])
        self.constants = {"K": width, "V": v_BGSV.shape[3], "Q": block[0], "C": block[1]}

    def forward(self, *tensors: Tensor) -> None:
        self._run(self.kernels.forward_kernel, tensors, self.plan.of_queries, self.launch.forward)

    def query_gradient(self, *tensors: Tensor | None, scale: float) -> None:
        kernel, lists = self.kernels.query_gradient_kernel, self.plan.of_queries
        self._run(kernel, (*tensors, scale), lists, self.launch.backward)

    def key_gradient(self, *tensors: Tensor, scale: float) -> None:
        kernel, lists = self.kernels.key_gradient_kernel, self.plan.of_keys
        self._run(kernel, (*tensors, scale), lists, self.launch.backward)

    def _run(
        self, kernel: Any, given: tuple[Any, ...], lists: BlockLists, spread: tuple[int, int]
    ) -> None:
        """A program for each block of each head."""
        programs = self.query_programs if lists is self.plan.of_queries else self.key_programs
        kernel[programs](
            *given,
            self.problem,
            self.bias,
            self._with_steps(lists, programs[0]),
            **self.constants,
            DOT="tf32x3",  # float32 as three products of the matrix units; no matter to the others
            num_warps=spread[0],
            num_stages=spread[1],
        )

    def _with_steps(self, lists: BlockLists, num_blocks: int) -> Any:
        """Where sequences or heads are alike, the step from one to the next is 0."""
        of_sequence = self.plan.num_heads * num_blocks if self.plan.num_sequences > 1 else 0
        of_head = num_blocks if self.plan.num_heads > 1 else 0
        return self.kernels.Lists(*lists, self.plan.masks_XQC, of_sequence, of_head)


class _TritonAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        q_BHTK: Tensor,
        k_BGSK: Tensor,
        v_BGSV: Tensor,
        values_HR: Tensor | None,
        scoring: Scoring,
    ) -> Tensor:
        call = _Call(q_BHTK, k_BGSK, v_BGSV, values_HR, scoring)
        out_BHTV = q_BHTK.new_empty(*q_BHTK.shape[:3], v_BGSV.shape[3])
        log_sum_BHT = q_BHTK.new_empty(q_BHTK.shape[:3], dtype=torch.float32)
        call.forward(q_BHTK, k_BGSK, v_BGSV, out_BHTV, log_sum_BHT)
        ctx.save_for_backward(q_BHTK, k_BGSK, v_BGSV, values_HR, out_BHTV, log_sum_BHT)
        ctx.call, ctx.scale = call, scoring.scale
        return out_BHTV

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, do_BHTV: Tensor) -> tuple[Tensor | None, ...]:
        q_BHTK, k_BGSK, v_BGSV, values_HR, out_BHTV, log_sum_BHT = ctx.saved_tensors
        call: _Call = ctx.call
        delta_BHT = (do_BHTV.float() * out_BHTV).sum(-1)
        given = (q_BHTK, k_BGSK, v_BGSV, do_BHTV.contiguous(), log_sum_BHT, delta_BHT)
        dq_BHTK, dk_BGSK, dv_BGSV = (torch.empty_like(x) for x in (q_BHTK, k_BGSK, v_BGSV))
        dvalues_HR = None
        if ctx.needs_input_grad[3]:
            dvalues_HR = values_HR.new_zeros(values_HR.shape, dtype=torch.float32)
        call.query_gradient(*given, dq_BHTK, dvalues_HR, scale=ctx.scale)
        call.key_gradient(*given, dk_BGSK, dv_BGSV, scale=ctx.scale)
        if dvalues_HR is not None:
            dvalues_HR = dvalues_HR.to(values_HR.dtype)
        return dq_BHTK, dk_BGSK, dv_BGSV, dvalues_HR, None
