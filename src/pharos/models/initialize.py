"""Weights to begin training with: normal matrices, norms of one, biases of zero."""

from collections.abc import Collection

import torch
from torch import nn

from pharos.models.family import Model


def initialize(model: Model, *, seed: int, only: Collection[str] | None = None) -> None:
    """Give every parameter, or `only` those of these names, its first value, in place; the same for
    the same seed.

    Matrices and embeddings are normal with the deviation that the model gives them (mostly the
    config's `initializer_range`), the gains of norms one, biases zero.
    """
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if only is None or name in only:
            _initialize(name, parameter, model.initial_std(name), generator)


@torch.no_grad()
def _initialize(name: str, parameter: nn.Parameter, std: float, generator: torch.Generator) -> None:
    if parameter.ndim >= 2:
        parameter.normal_(std=std, generator=generator)
    elif name.endswith("weight"):
        parameter.fill_(1.0)
    else:
        parameter.zero_()
