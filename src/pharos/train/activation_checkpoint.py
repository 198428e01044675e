"""Activation checkpointing (Chen et al. 2016, arXiv:1604.06174): what a block computed on the way
forward is thrown away and computed again on the way back. Memory for time.

- `full` keeps a block's input and nothing else: about a third more computing.
- `selective` keeps the results of the matrix multiplications and of torch's own attention, and
  computes again what is cheap: norms, activations, rotations (Korthikanti et al. 2022,
  arXiv:2205.05198).

The blocks do not know: it is their `forward` that is wrapped, from outside.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, Literal

import torch
from torch import nn
from torch.utils.checkpoint import (
    CheckpointPolicy,
    checkpoint,
    create_selective_checkpoint_contexts,
)

Checkpointing = Literal["none", "selective", "full"]

_aten = torch.ops.aten
COSTLY = frozenset(
    {
        _aten.mm.default,
        _aten.addmm.default,
        _aten._scaled_dot_product_flash_attention.default,
        _aten._scaled_dot_product_efficient_attention.default,
        _aten._scaled_dot_product_cudnn_attention.default,
        _aten._scaled_dot_product_flash_attention_for_cpu.default,
    }
)
"""What `selective` computes once. (Batched multiplications are those of attention without a fused
kernel: their results are large and are not kept.)"""


def checkpoint_activations(model: nn.Module, how: Checkpointing) -> None:
    """Have every block of `model` recompute in its backward pass, in place. Call it before the
    module is sharded, so that a block's parameters are gathered once for both."""
    if how == "none":
        return
    options: dict[str, Any] = {"use_reentrant": False}
    if how == "selective":
        options["context_fn"] = _selective
    for block in blocks_of(model):
        block.forward = partial(checkpoint, block.forward, **options)


def blocks_of(module: nn.Module) -> Iterator[nn.Module]:
    """The repeated parts of a network: what its outermost lists of modules hold."""
    for child in module.children():
        if isinstance(child, nn.ModuleList):
            yield from child
        else:
            yield from blocks_of(child)


def _selective() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    contexts: Callable[..., Any] = create_selective_checkpoint_contexts
    pair: tuple[AbstractContextManager[None], AbstractContextManager[None]] = contexts(_policy)
    return pair


def _policy(_context: object, operation: object, *_args: object, **_kwargs: object) -> object:
    is_costly = operation in COSTLY
    return CheckpointPolicy.MUST_SAVE if is_costly else CheckpointPolicy.PREFER_RECOMPUTE
