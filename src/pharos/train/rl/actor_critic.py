"""A policy with a second head that foresees its reward.

Shapes: B sequences, T places, D hidden width.
"""

from torch import Tensor, nn

from pharos.models.heads import CausalLM
from pharos.train.completions import hidden_states, spoken_log_probs
from pharos.train.objective import Batch


class ActorCritic(nn.Module):
    """`value` reads the same hidden states as the policy's own head; it begins at zero, since
    nothing is known yet."""

    def __init__(self, policy: CausalLM) -> None:
        super().__init__()
        self.policy = policy
        weight = policy.body.embedding.weight
        self.value = nn.Linear(policy.config.hidden_size, 1, device=weight.device)
        nn.init.zeros_(self.value.weight)
        nn.init.zeros_(self.value.bias)

    def read(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Log-probabilities of what was said, and the value of each place before it: `[B, T]`, in
        float32, from one pass."""
        x_BTD = hidden_states(self.policy, batch)
        values_BT = self.value(x_BTD).float()[..., 0]
        return spoken_log_probs(self.policy, x_BTD, batch["labels"]), values_BT
