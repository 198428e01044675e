"""What models are trained for, by the name that a recipe gives it.

objective = new_objective("masked_lm", {"whole_words": True}, Vocabulary.of(tokenizer))
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from pharos.core.errors import TrainingError
from pharos.models.load import load_model
from pharos.train.objective import Objective
from pharos.train.objectives.causal_lm import CausalLM, CausalLMConfig
from pharos.train.objectives.classification import (
    SequenceClassification,
    SequenceClassificationConfig,
    TokenClassification,
)
from pharos.train.objectives.contrastive import ContrastiveConfig, InfoNCE, SigmoidPairs
from pharos.train.objectives.distillation import (
    Distillation,
    DistillationKeys,
    LanguageModelling,
)
from pharos.train.objectives.masked_lm import MaskedLM, MaskedLMConfig
from pharos.train.objectives.preference import DPO, DPOConfig
from pharos.train.objectives.question_answering import QuestionAnswering
from pharos.train.objectives.reward import RewardConfig, RewardModelling
from pharos.train.objectives.sft import SupervisedFineTuning
from pharos.train.objectives.span_corruption import SpanCorruption, SpanCorruptionConfig
from pharos.train.objectives.vocabulary import Vocabulary
from pharos.train.reference import Reference
from pharos.train.rl.grpo import GRPO, GRPOConfig
from pharos.train.rl.ppo import PPO, PPOConfig
from pharos.train.settings import read_settings

__all__ = ["OBJECTIVES", "Entry", "Vocabulary", "new_objective"]


class Entry(NamedTuple):
    """The fields of `config` are the keys of a recipe; `build` makes the objective of one."""

    config: type
    build: Callable[[Any, Vocabulary], Objective]


@dataclass(frozen=True)
class NoKeys:
    """Of an objective that nothing can be said about."""


def _distillation(keys: DistillationKeys, vocabulary: Vocabulary) -> Objective:
    settings = {key: value for key, value in keys.hard.items() if key != "name"}
    hard = new_objective(keys.hard["name"], settings, vocabulary, where="objective.hard")
    if not isinstance(hard, LanguageModelling):
        raise TrainingError(
            f"objective.hard.name is {keys.hard['name']}, and distillation compares the scores of "
            "tokens; choose from causal_lm, masked_lm, span_corruption"
        )
    return Distillation(keys, hard, load_model(keys.teacher, task=hard.task))


OBJECTIVES: Mapping[str, Entry] = {
    "causal_lm": Entry(CausalLMConfig, CausalLM),
    "masked_lm": Entry(MaskedLMConfig, MaskedLM),
    "span_corruption": Entry(SpanCorruptionConfig, SpanCorruption),
    "sequence_classification": Entry(SequenceClassificationConfig, SequenceClassification),
    "token_classification": Entry(NoKeys, lambda _, vocabulary: TokenClassification(vocabulary)),
    "question_answering": Entry(NoKeys, lambda _, vocabulary: QuestionAnswering(vocabulary)),
    "info_nce": Entry(ContrastiveConfig, InfoNCE),
    "sigmoid_pairs": Entry(ContrastiveConfig, SigmoidPairs),
    "sft": Entry(CausalLMConfig, SupervisedFineTuning),
    "dpo": Entry(DPOConfig, DPO),
    "reward": Entry(RewardConfig, RewardModelling),
    "ppo": Entry(PPOConfig, lambda config, _: PPO(config, Reference.load(config.reference))),
    "grpo": Entry(GRPOConfig, lambda config, _: GRPO(config, Reference.load(config.reference))),
    "distillation": Entry(DistillationKeys, _distillation),
}


def new_objective(
    name: str, keys: Mapping[str, Any], vocabulary: Vocabulary, *, where: str = "objective"
) -> Objective:
    """The objective of that name. Raises TrainingError for a name or a key that there is none of;
    `where` is what the keys stand under in the recipe."""
    if name not in OBJECTIVES:
        known = ", ".join(sorted(OBJECTIVES))
        raise TrainingError(f"unknown objective {name!r}; choose from {known}")
    entry = OBJECTIVES[name]
    return entry.build(read_settings(entry.config, keys, where), vocabulary)
