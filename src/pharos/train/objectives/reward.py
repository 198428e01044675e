"""Learn from pairs to score answers: a reward model (Bradley & Terry 1952; Ouyang et al. 2022,
arXiv:2203.02155).

That the chosen answer of a pair is better has the probability σ(r_chosen - r_rejected), and the
loss is its negative logarithm. Only differences are learned, so scores may drift together; the
`centre` term, (r_chosen + r_rejected)², holds them around zero (Eisenstein et al. 2023,
arXiv:2312.09244).

A score is read at the last token that is not padding, wherever that stands.

Shapes: B pairs; a batch has the chosen answers in its first B rows and the rejected in its last; T
tokens of the longest.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from pharos.data.rows import Row
from pharos.models.family import Task
from pharos.models.heads import Reward
from pharos.train.objective import Batch
from pharos.train.objectives.preference import KINDS
from pharos.train.objectives.supervised import check_head, collate_texts, head_output
from pharos.train.objectives.vocabulary import Vocabulary


@dataclass(frozen=True, kw_only=True, slots=True)
class RewardConfig:
    """`centre_weight` is that of the term which holds the scores around zero; 0.01 is usual."""

    centre_weight: float = 0.0

    def __post_init__(self) -> None:
        if self.centre_weight < 0:
            raise ValueError(f"centre_weight is {self.centre_weight}; it must be 0 or more")


class RewardModelling:
    """Rows are those of DPO."""

    task: ClassVar[Task] = "reward"
    """What the model is made for."""

    def __init__(self, config: RewardConfig, vocabulary: Vocabulary) -> None:
        self.config, self.pad_id = config, vocabulary.pad_id

    @property
    def weights(self) -> Mapping[str, float]:
        centre = {"centre": self.config.centre_weight} if self.config.centre_weight else {}
        return {"bradley_terry": 1.0, **centre}

    def example(self, row: Row, generator: np.random.Generator) -> Row:
        return row

    def collate(self, examples: Sequence[Row]) -> Batch:
        texts = [
            {"ids": np.concatenate([example["prompt_ids"], example[f"{kind}_ids"]])}
            for kind in KINDS
            for example in examples
        ]
        return collate_texts(texts, pad_id=self.pad_id)

    def count(self, batch: Batch) -> Mapping[str, int]:
        return dict.fromkeys(self.weights, len(batch["ids"]) // 2)

    def losses(self, model: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
        """Also, as sums over the pairs: how many are told right (`accuracy`), and the scores."""
        check_head(model, (Reward,), self.task)
        chosen_B, rejected_B = head_output(model, batch).float()[:, 0].chunk(2)
        terms = {"bradley_terry": bradley_terry_loss(chosen_B, rejected_B).sum()}
        if self.config.centre_weight:
            terms["centre"] = (chosen_B + rejected_B).square().sum()
        with torch.no_grad():
            told = {
                "accuracy": (chosen_B > rejected_B).float().sum(),
                "chosen_score": chosen_B.sum(),
                "rejected_score": rejected_B.sum(),
            }
        return terms | told


def bradley_terry_loss(chosen_B: Tensor, rejected_B: Tensor) -> Tensor:
    """`[B]`."""
    return -logsigmoid(chosen_B - rejected_B)
