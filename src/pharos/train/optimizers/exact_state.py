"""What optimizers of our own share: a state that is loaded as it was saved."""

from collections.abc import Mapping
from itertools import chain
from typing import Any

import torch
from torch import Tensor


class ExactStateOptimizer(torch.optim.Optimizer):
    """torch casts a loaded state to the dtype of its parameter; codes of 8 bits, and float32 beside
    parameters in bfloat16, would not survive that."""

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        super().load_state_dict(dict(state_dict))
        saved = chain.from_iterable(group["params"] for group in state_dict["param_groups"])
        ours = chain.from_iterable(group["params"] for group in self.param_groups)
        for id_, parameter in zip(saved, ours, strict=True):
            if id_ in state_dict["state"]:
                self.state[parameter] = {
                    name: value.clone() if name == "step" else self._placed(value, parameter)
                    for name, value in state_dict["state"][id_].items()
                }

    def _placed(self, value: Tensor, parameter: Tensor) -> Tensor:
        """A copy of a saved tensor, where this optimizer keeps it."""
        return value.to(parameter.device, copy=True)
