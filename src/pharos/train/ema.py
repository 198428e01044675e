"""Averaged weights: an exponential moving average over the steps, which often evaluates better than
any one step's weights (Polyak and Juditsky 1992).

The decay starts low, (1 + n) / (10 + n) after n updates, so that the first weights, which are
random, are soon forgotten.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


class EMA:
    """Averages of the parameters that are trained, in float32, dealt to the processes as these are.
    Buffers, and what is frozen, are not averaged."""

    def __init__(self, model: nn.Module, *, decay: float) -> None:
        if not 0 < decay < 1:
            raise ValueError(f"ema is {decay}; it must be between 0 and 1, 0.999 for example")
        self.decay, self.num_updates = decay, 0
        self.averages: dict[str, Tensor] = {
            name: parameter.detach().float().clone() for name, parameter in _trained(model)
        }

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Take in the weights after an optimizer step."""
        self.num_updates += 1
        decay = min(self.decay, (1 + self.num_updates) / (10 + self.num_updates))
        for name, parameter in _trained(model):
            self.averages[name].lerp_(parameter.detach().float(), 1 - decay)

    @contextmanager
    def applied(self, model: nn.Module) -> Iterator[None]:
        """Within the block the model computes with the averages; afterwards with its own weights
        again, whatever happened."""
        own = {name: parameter.detach().clone() for name, parameter in _trained(model)}
        try:
            _copy_into(model, self.averages)
            yield
        finally:
            _copy_into(model, own)

    def state_dict(self) -> dict[str, Any]:
        return {"num_updates": self.num_updates, "averages": self.averages}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Raises ValueError for the averages of another model."""
        if state["averages"].keys() != self.averages.keys():
            names = sorted(state["averages"].keys() ^ self.averages.keys())
            raise ValueError(
                f"the averaged weights are those of another model: {', '.join(names[:3])} are in "
                "one of them only; resume with the model that was saved"
            )
        self.num_updates = state["num_updates"]
        with torch.no_grad():
            for name, average in self.averages.items():
                average.copy_(state["averages"][name])


@torch.no_grad()
def _copy_into(model: nn.Module, values: Mapping[str, Tensor]) -> None:
    for name, parameter in _trained(model):
        parameter.copy_(values[name])


def _trained(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    return ((name, p) for name, p in model.named_parameters() if p.requires_grad)
