"""Extractive question answering: where in a text the answer begins and ends (Rajpurkar et al. 2016,
arXiv:1606.05250). A text that is too long is read in windows; in a window without the answer, and
for a question without one (arXiv:1806.03822), both ends point to the first token, `[CLS]`.

Shapes: B windows, T tokens of the longest.
"""

from collections.abc import Iterator, Mapping, Sequence
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

NO_ANSWER = 0
"""The place that both ends point to: that of `[CLS]`."""


def answer_windows(
    question: Sequence[int],
    context: Sequence[int],
    answer: tuple[int, int] | None,
    *,
    max_length: int,
    overlap: int,
    cls_id: int,
    sep_id: int,
) -> Iterator[Row]:
    """The rows `[CLS] question [SEP] window [SEP]` of a text. `answer` is its first and its last
    token in the context; windows share `overlap` tokens with the next. A window has the answer if
    it holds all of it. Raises ValueError where nothing is left for a window to go ahead by."""
    room = max_length - len(question) - 3
    if room <= overlap:
        raise ValueError(
            f"max_length {max_length} leaves {room} tokens for a window beside a question of "
            f"{len(question)}, and windows overlap by {overlap}; make max_length larger"
        )
    begin = [cls_id, *question, sep_id]
    for first in range(0, max(len(context) - overlap, 1), room - overlap):
        window = context[first : first + room]
        start, end = _ends_in_window(answer, first, len(window), len(begin))
        ids = np.array([*begin, *window, sep_id], dtype=np.int32)
        token_types = np.repeat([0, 1], [len(begin), len(window) + 1]).astype(np.int32)
        yield {
            "ids": ids,
            "token_types": token_types,
            "start": np.array(start),
            "end": np.array(end),
        }


def _ends_in_window(
    answer: tuple[int, int] | None, first: int, length: int, offset: int
) -> tuple[int, int]:
    if answer is None or answer[0] < first or answer[1] >= first + length:
        return NO_ANSWER, NO_ANSWER
    return answer[0] - first + offset, answer[1] - first + offset


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
