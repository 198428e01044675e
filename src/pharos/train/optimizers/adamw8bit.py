"""AdamW whose two running means take one byte each (Dettmers et al. 2022, arXiv:2110.02861).

A step takes a parameter chunk by chunk: its state is brought to float32, AdamW is computed there,
and the state goes back to 8 bits; so the float32 copies never exceed a chunk. Parameters smaller
than 4096 (norms, biases) keep their state in float32: they cost nothing and are the most sensitive.

One thing differs from the paper. It stores v, the mean of squares, whose seven decades are only
three and a half of the gradient's: a number whose gradients are rare and small (a row of an
embedding) has its v rounded to zero while its m is not, and the next step divides by ε. Stored here
is √v, and never zero, so that quotient stays as it is in AdamW.

`paged` keeps the state of parameters on a GPU in the host's pinned memory. Chunks move to the GPU
and back on the stream that computes, so a page is never read before it is written. On a CPU, and
for small parameters, there is nothing to move.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from pharos.train.optimizers.adamw import adamw_
from pharos.train.optimizers.dynamic_map import BLOCK, dequantize, quantize
from pharos.train.optimizers.exact_state import ExactStateOptimizer
from pharos.train.shards import gradient_of, local_shard

SMALL = 4096
CHUNKS = {"cpu": 256, "cuda": 1 << 16}
"""Blocks that are worked on at a time: on a CPU, as many as its cache holds."""


class AdamW8bit(ExactStateOptimizer):
    """Takes the arguments of `torch.optim.AdamW`, and `paged`. Of a sharded parameter (a DTensor)
    each process keeps the state of its shard."""

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        *,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
        paged: bool = False,
    ) -> None:
        self.paged = paged
        super().__init__(
            params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        )

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        assert closure is None, "AdamW8bit takes one step for one gradient"
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, group)
        return None

    def state_dict(self) -> dict[str, Any]:
        """As torch's. What pages are still on their way has arrived."""
        if self.paged and torch.cuda.is_available():
            torch.cuda.synchronize()
        return super().state_dict()

    def _update(self, parameter: Tensor, group: dict[str, Any]) -> None:
        shard, gradient = local_shard(parameter), local_shard(gradient_of(parameter))
        state = self.state[parameter]
        if not state:
            state.update(self._fresh_state(shard))
        state["step"] += 1
        if "exp_avg_sq" in state:
            update_small(shard, gradient, state, group)
        else:
            update_blocks(shard, gradient, state, group)

    def _fresh_state(self, shard: Tensor) -> dict[str, Any]:
        if shard.numel() < SMALL:
            zeros = torch.zeros_like(shard, dtype=torch.float32)
            return {"step": torch.zeros(()), "exp_avg": zeros, "exp_avg_sq": zeros.clone()}
        num_blocks = -(-shard.numel() // BLOCK)
        zero_code, _ = quantize(torch.zeros(1, 1), signed=True)
        place = self._place(shard)
        return {
            "step": torch.zeros(()),
            "exp_avg": torch.empty(num_blocks, BLOCK, dtype=torch.uint8, **place).fill_(
                int(zero_code)
            ),
            "exp_avg_scale": torch.zeros(num_blocks, 1, **place),
            "rms": torch.zeros(num_blocks, BLOCK, dtype=torch.uint8, **place),
            "rms_scale": torch.zeros(num_blocks, 1, **place),
        }

    def _place(self, shard: Tensor) -> dict[str, Any]:
        is_paged = self.paged and shard.is_cuda
        return {"device": "cpu", "pin_memory": True} if is_paged else {"device": shard.device}

    def _placed(self, value: Tensor, parameter: Tensor) -> Tensor:
        is_paged = self.paged and parameter.is_cuda and parameter.numel() >= SMALL
        return value.cpu().pin_memory() if is_paged else super()._placed(value, parameter)


def update_small(
    shard: Tensor, gradient: Tensor, state: dict[str, Any], group: dict[str, Any]
) -> None:
    """AdamW on a state in float32."""
    moments = state["exp_avg"], state["exp_avg_sq"]
    values = shard.float()
    adamw_(values, gradient.float(), *moments, step=int(state["step"]), group=group)
    if values is not shard:
        shard.copy_(values)


def update_blocks(
    shard: Tensor, gradient: Tensor, state: dict[str, Any], group: dict[str, Any]
) -> None:
    """AdamW on a state in 8 bits, a chunk at a time."""
    flat, gradient = shard.contiguous().view(-1), gradient.contiguous().view(-1)
    num_blocks = len(state["exp_avg"])
    size = CHUNKS.get(flat.device.type, CHUNKS["cuda"])
    for first in range(0, num_blocks, size):
        blocks = slice(first, min(first + size, num_blocks))
        numbers = slice(blocks.start * BLOCK, blocks.stop * BLOCK)
        _update_chunk(flat[numbers], gradient[numbers], blocks, state, group)
    if not shard.is_contiguous():
        shard.copy_(flat.view(shard.shape))


def _update_chunk(
    values: Tensor, gradient: Tensor, blocks: slice, state: dict[str, Any], group: dict[str, Any]
) -> None:
    here = {name: state[name][blocks] for name in ("exp_avg", "exp_avg_scale", "rms", "rms_scale")}
    codes = {name: page.to(values.device, non_blocking=True) for name, page in here.items()}
    mean_NC = dequantize(codes["exp_avg"], codes["exp_avg_scale"], signed=True)
    square_NC = dequantize(codes["rms"], codes["rms_scale"], signed=False).square_()
    values_NC = as_blocks(values.float())
    gradient_NC = as_blocks(gradient.float())
    adamw_(values_NC, gradient_NC, mean_NC, square_NC, step=int(state["step"]), group=group)
    if values_NC.data_ptr() != values.data_ptr():
        values.copy_(values_NC.view(-1)[: values.numel()])
    codes["exp_avg"], codes["exp_avg_scale"] = quantize(mean_NC, signed=True)
    codes["rms"], codes["rms_scale"] = quantize(square_NC.sqrt_(), signed=False)
    codes["rms"].clamp_(min=1)
    for name, page in here.items():
        page.copy_(codes[name], non_blocking=True)


def as_blocks(flat: Tensor) -> Tensor:
    """Numbers as `[N, 256]`, the last block filled up with zeros if need be; else not a copy."""
    missing = -len(flat) % BLOCK
    return (pad(flat, (0, missing)) if missing else flat).view(-1, BLOCK)
