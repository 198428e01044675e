"""Classes for whole texts and for tokens.

Rows have `ids`, maybe `token_types` (the two segments of a pair), and the answer: `label` of a
text, `labels` of its tokens. IGNORED stands where there is none: at the special tokens, and at all
but the first token of a word, if words are classified.

Shapes: B texts, T tokens of the longest, C classes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, mse_loss

from pharos.core.errors import TrainingError
from pharos.data.rows import Row
from pharos.models import encoder_heads, heads
from pharos.models.family import Task
from pharos.train.objective import IGNORED, Batch
from pharos.train.objectives.supervised import check_head, collate_texts, head_output, pad
from pharos.train.objectives.vocabulary import Vocabulary

ProblemType = Literal["single_label_classification", "multi_label_classification", "regression"]
TEXT_HEADS = (encoder_heads.FirstTokenClassifier, heads.LastTokenClassifier)
TOKEN_HEADS = (encoder_heads.TokenClassifier, heads.TokenClassifier)


@dataclass(frozen=True, kw_only=True, slots=True)
class SequenceClassificationConfig:
    """What `label` is: a class (`single_label_classification`), for each class 0 or 1
    (`multi_label_classification`), or a number, or several (`regression`, by the squared error)."""

    problem_type: ProblemType = "single_label_classification"


class SequenceClassification:
    """One answer for a text. Each class of several, and each number, counts as a target."""

    task: ClassVar[Task] = "sequence_classification"
    """What the model is made for."""

    def __init__(self, config: SequenceClassificationConfig, vocabulary: Vocabulary) -> None:
        self.problem_type, self.pad_id = config.problem_type, vocabulary.pad_id

    @property
    def weights(self) -> Mapping[str, float]:
        return {self.term: 1.0}

    @property
    def term(self) -> str:
        return "regression" if self.problem_type == "regression" else "classification"

    def example(self, row: Row, generator: np.random.Generator) -> Row:
        return row

    def collate(self, examples: Sequence[Row]) -> Batch:
        is_class = self.problem_type == "single_label_classification"
        labels = np.stack([example["label"] for example in examples])
        labels = labels.astype(np.int64 if is_class else np.float32)
        return collate_texts(examples, pad_id=self.pad_id) | {"labels": torch.from_numpy(labels)}

    def count(self, batch: Batch) -> Mapping[str, int]:
        labels = batch["labels"]
        return {self.term: int((labels != IGNORED).sum()) if labels.ndim == 1 else labels.numel()}

    def losses(self, model: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
        """With classes also `correct`: how many were right."""
        check_head(model, TEXT_HEADS, self.task)
        y_BC, labels = head_output(model, batch).float(), batch["labels"]
        if self.problem_type == "single_label_classification":
            return class_losses(self.term, y_BC, labels)
        labels = labels.view(len(labels), -1)
        if labels.shape != y_BC.shape:
            raise TrainingError(
                f"a label holds {labels.shape[1]} numbers, and the model answers with "
                f"{y_BC.shape[1]}; give the model as many classes (id2label)"
            )
        if self.problem_type == "regression":
            return {self.term: mse_loss(y_BC, labels, reduction="sum")}
        loss = binary_cross_entropy_with_logits(y_BC, labels, reduction="sum")
        return {self.term: loss, "correct": ((y_BC > 0) == (labels > 0.5)).float().sum()}


class TokenClassification:
    """A class for each token whose label is not IGNORED."""

    task: ClassVar[Task] = "token_classification"
    """What the model is made for."""
    weights: Mapping[str, float] = {"token_classification": 1.0}

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.pad_id = vocabulary.pad_id

    def example(self, row: Row, generator: np.random.Generator) -> Row:
        return row

    def collate(self, examples: Sequence[Row]) -> Batch:
        labels_BT = pad(examples, "labels", IGNORED)
        return collate_texts(examples, pad_id=self.pad_id) | {"labels": labels_BT}

    def count(self, batch: Batch) -> Mapping[str, int]:
        return {"token_classification": int((batch["labels"] != IGNORED).sum())}

    def losses(self, model: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
        """Also `correct`: how many were right."""
        check_head(model, TOKEN_HEADS, self.task)
        y_NC = head_output(model, batch).float().flatten(0, 1)
        return class_losses("token_classification", y_NC, batch["labels"].flatten())


def class_losses(term: str, y_NC: Tensor, labels_N: Tensor) -> dict[str, Tensor]:
    loss = cross_entropy(y_NC, labels_N, ignore_index=IGNORED, reduction="sum")
    return {term: loss, "correct": (y_NC.argmax(-1) == labels_N).float().sum()}
