"""Weights to begin training with: normal matrices, norms of one, biases of zero."""

import torch
from torch import nn

from pharos.models.family import Model


def initialize(model: Model, *, seed: int) -> None:
    """Give every parameter its first value, in place; the same for the same seed.

    Matrices and embeddings are normal with the config's `initializer_range` (BERT, GPT-2, Llama),
    the gains of norms one, biases zero.
    """
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            _initialize(module, name, parameter, model.config.initializer_range, generator)


@torch.no_grad()
def _initialize(
    module: nn.Module, name: str, parameter: nn.Parameter, std: float, generator: torch.Generator
) -> None:
    if parameter.ndim >= 2:
        parameter.normal_(std=std, generator=generator)
    elif name == "weight":
        parameter.fill_(1.0)
    else:
        parameter.zero_()
