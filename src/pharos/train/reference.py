"""The model that a policy is compared with, or must stay near to.

It is a frozen model of its own, or, where the policy is an adapter on a frozen base, that base:
then there is no second model in memory. Either way its dropout is off and it has no gradients, and
it reads the same padded batch in the same precision as the policy. So where the two are the same
model, their log-probabilities are the same numbers.
"""

import torch
from torch import Tensor

from pharos.adapt import disabled
from pharos.adapt.layers import wrappers
from pharos.core.errors import TrainingError
from pharos.models.heads import CausalLM
from pharos.models.load import load_model
from pharos.train.completions import log_probs_of
from pharos.train.objective import Batch


class Reference:
    """Of a frozen `model`, or with None of the policy without its adapters."""

    def __init__(self, model: CausalLM | None = None) -> None:
        self.model = None if model is None else model.eval().requires_grad_(False)

    @classmethod
    def load(cls, name: str | None) -> "Reference":
        """The model in a folder (or of a name), in float32 as the policy is."""
        if name is None:
            return cls()
        model = load_model(name, task="causal_lm", dtype=torch.float32)
        assert isinstance(model, CausalLM)
        return cls(model)

    @torch.no_grad()
    def log_probs(self, policy: CausalLM, batch: Batch) -> Tensor:
        """`[B, T]`. Raises TrainingError where there is nothing to compare with."""
        if self.model is not None:
            return log_probs_of(self.model.to(batch["ids"].device), batch)
        if not any(wrappers(policy)):
            raise TrainingError(
                "there is no reference: the model has no adapter that could be switched off; name "
                "the folder of the model that training begins with as objective.reference, or "
                "train an adapter"
            )
        was_training = policy.training
        try:
            with disabled(policy):
                return log_probs_of(policy.eval(), batch)
        finally:
            policy.train(was_training)
