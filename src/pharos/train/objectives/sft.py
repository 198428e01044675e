"""Supervised fine-tuning: predict the next token, where it is one that is to be learned.

Rows have `ids` and `labels`: at each place the id that stands there if it is learned, else IGNORED
(see `data.rendering`). Conversations that share a row do not see each other, as in `causal_lm`.

Shapes: B rows, T places of the longest, P tokens of a prompt that is trained.
"""

from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from pharos.adapt import virtual_ids, with_prompt
from pharos.data.rows import Row
from pharos.models.family import Task
from pharos.train.objective import IGNORED, Batch
from pharos.train.objectives.causal_lm import CausalLM, CausalLMConfig
from pharos.train.objectives.vocabulary import Vocabulary


class SupervisedFineTuning:
    """The keys are those of `causal_lm`."""

    task: ClassVar[Task] = "causal_lm"
    """What the model is made for."""
    weights: Mapping[str, float] = {"sft": 1.0}

    def __init__(self, config: CausalLMConfig, vocabulary: Vocabulary) -> None:
        self.next_token = CausalLM(config, vocabulary)

    def example(self, row: Row, generator: np.random.Generator) -> Row:
        example = self.next_token.example(row, generator)
        is_learned = row["labels"][1:] != IGNORED
        return {**example, "labels": np.where(is_learned, example["labels"], IGNORED)}

    def collate(self, examples: Sequence[Row]) -> Batch:
        return self.next_token.collate(examples)

    def count(self, batch: Batch) -> Mapping[str, int]:
        return {"sft": int((batch["labels"] != IGNORED).sum())}

    def losses(self, model: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
        """Also `correct`: how many targets had the highest score."""
        sums = self.next_token.losses(model, behind_prompt(model, batch))
        return {"sft": sums["causal_lm"], "correct": sums["correct"]}


def behind_prompt(model: nn.Module, batch: Batch) -> Batch:
    """The batch behind the trained prompt of a model, if it has one (prompt tuning)."""
    count = len(virtual_ids(model))
    if not count:
        return batch
    assert "documents" not in batch, "the recipe is checked: a row has one conversation"
    labels_BT, positions_BT = batch["labels"], batch["positions"]
    prompt_BP = torch.arange(count, device=positions_BT.device).expand(len(positions_BT), -1)
    return {
        "ids": with_prompt(model, batch["ids"]),
        "labels": pad(labels_BT, (count, 0), value=IGNORED),
        "positions": torch.cat([prompt_BP, positions_BT + count], dim=1),
    }
