"""What a model writes while it learns, to be read."""

import sys
from collections.abc import Sequence
from typing import cast

from torch import nn

from pharos.core.errors import TrainingError
from pharos.core.nouns import SamplingParams
from pharos.data.tokenizer import Tokenizer
from pharos.models.generation import Generation
from pharos.models.heads import CausalLM
from pharos.train.recipe import SampleSection
from pharos.train.rl.actor_critic import ActorCritic


class Sampler:
    """Continues the prompts with a model of at most `most` positions. Raises TrainingError, before
    hours of training, for a prompt that leaves no room."""

    def __init__(
        self,
        section: SampleSection,
        prompts: Sequence[Sequence[int]],
        tokenizer: Tokenizer,
        *,
        most: int | None,
        seed: int,
    ) -> None:
        self._prompts, self._tokenizer = prompts, tokenizer
        longest = max(map(len, prompts))
        room = (most or sys.maxsize) - longest
        if room < 1:
            raise TrainingError(
                f"sample.prompts: one has {longest} tokens, and the model {most} positions, which "
                "leaves none to write in; shorten it"
            )
        self._params = SamplingParams(
            max_tokens=min(section.max_tokens, room),
            temperature=section.temperature,
            top_k=section.top_k,
            seed=seed,
        )

    def __call__(self, model: nn.Module) -> tuple[str, ...]:
        """Each prompt with what the model makes of it."""
        decoder = cast(CausalLM, model.policy if isinstance(model, ActorCritic) else model)
        written = [list(prompt) for prompt in self._prompts]
        eos_ids = self._tokenizer.eos_ids
        for token in Generation(decoder, self._prompts, self._params, eos_ids=eos_ids):
            written[token.sequence].append(token.id)
        return tuple(self._tokenizer.decode(ids) for ids in written)
