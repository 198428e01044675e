"""Extractive question answering: where in a text the answer begins and ends (Rajpurkar et al. 2016,
arXiv:1606.05250). `pharos.data.question_answering` makes the rows: a text that is too long is read
in windows, and without an answer both ends point to the first token, `[CLS]`.

Shapes: B windows, T tokens of the longest.
"""

from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from pharos.data.rows import Row
from pharos.models.encoder_heads import QuestionAnswering as QuestionAnsweringHead
from pharos.models.family import Task
from pharos.train.objective import Batch
from pharos.train.objectives.supervised import check_head, collate_texts, head_output
from pharos.train.objectives.vocabulary import Vocabulary


class QuestionAnswering:
    """Rows have `ids`, maybe `token_types`, and `start` and `end`: the places in `ids` of the
    answer's first and last token. A window's loss is the mean of its two ends'."""

    task: ClassVar[Task] = "question_answering"
    """What the model is made for."""
    weights: Mapping[str, float] = {"answer_span": 1.0}

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.pad_id = vocabulary.pad_id

    def example(self, row: Row, generator: np.random.Generator) -> Row:
        return row

    def collate(self, examples: Sequence[Row]) -> Batch:
        ends = {
            name: torch.tensor([int(example[name]) for example in examples])
            for name in ("start", "end")
        }
        return collate_texts(examples, pad_id=self.pad_id) | ends

    def count(self, batch: Batch) -> Mapping[str, int]:
        return {"answer_span": len(batch["start"])}

    def losses(self, model: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
        """Also `exact`: how many windows have both ends right."""
        check_head(model, (QuestionAnsweringHead,), self.task)
        ends = head_output(model, batch)
        is_padding_BT = ~batch["valid"]
        start_BT = ends.start.float().masked_fill(is_padding_BT, -torch.inf)
        end_BT = ends.end.float().masked_fill(is_padding_BT, -torch.inf)
        loss = cross_entropy(start_BT, batch["start"], reduction="sum") / 2
        loss = loss + cross_entropy(end_BT, batch["end"], reduction="sum") / 2
        is_exact_B = start_BT.argmax(-1) == batch["start"]
        is_exact_B &= end_BT.argmax(-1) == batch["end"]
        return {"answer_span": loss, "exact": is_exact_B.float().sum()}
