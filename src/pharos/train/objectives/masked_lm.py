"""Fill in what was hidden (BERT; Devlin et al. 2018, arXiv:1810.04805).

Of the tokens, 15% are chosen, anew each time that a row is read. Of those, each by itself, 80%
become `[MASK]`, 10% another token, and 10% stay: a model that sees no mask in use must not rely on
one. With `whole_words`, words are chosen, and all tokens of one together. Special tokens are never
chosen and never put in.

With `next_sentence`, rows are pairs, and a second term asks whether the second part follows the
first in its text.

Shapes: B rows, T tokens of the longest, N tokens of a row or chosen ones of a batch.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from pharos.core.errors import TrainingError
from pharos.data.rows import Row
from pharos.models.bert import BertPreTraining
from pharos.models.encoder_heads import MaskedLM as MaskedLMHead
from pharos.models.family import Task
from pharos.train.objective import IGNORED, Batch
from pharos.train.objectives.single_document import only_document
from pharos.train.objectives.supervised import pad
from pharos.train.objectives.token_loss import token_loss, with_head
from pharos.train.objectives.vocabulary import Vocabulary

Ids = NDArray[np.integer[Any]]


@dataclass(frozen=True, kw_only=True, slots=True)
class MaskedLMConfig:
    """`rate` is the share of tokens that are chosen, `mask_share` and `random_share` those of them
    that become the mask and any token."""

    rate: float = 0.15
    mask_share: float = 0.8
    random_share: float = 0.1
    whole_words: bool = False
    next_sentence: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.rate <= 1:
            raise ValueError(f"rate is {self.rate}; it must be above 0 and at most 1, mostly 0.15")
        for name in ("mask_share", "random_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be 0 to 1")
        if self.mask_share + self.random_share > 1:
            raise ValueError(
                f"mask_share {self.mask_share} and random_share {self.random_share} are more than "
                "1 together; what they leave stays as it is"
            )


class MaskedLM:
    """Rows are `{"ids"}` without special tokens, or `{"ids_a", "ids_b", "is_next"}` with
    `next_sentence`. `[CLS]` and `[SEP]` are put around them."""

    def __init__(self, config: MaskedLMConfig, vocabulary: Vocabulary) -> None:
        why = "masked_lm puts it into texts"
        self.config, self.vocabulary = config, vocabulary
        self.mask_id = vocabulary.id_of("mask", why)
        self.cls_id, self.sep_id = vocabulary.id_of("cls", why), vocabulary.id_of("sep", why)
        self.is_special_V = vocabulary.marks_of_special()
        self.ordinary_ids = np.flatnonzero(~self.is_special_V)
        if config.whole_words and vocabulary.starts_word_V is None:
            raise TrainingError(
                "objective.whole_words is true, and the tokenizer's tokens do not tell where words "
                "begin; take a WordPiece tokenizer, or leave it out"
            )

    @property
    def task(self) -> Task:
        """What the model is made for."""
        return "pretraining" if self.config.next_sentence else "masked_lm"

    @property
    def weights(self) -> Mapping[str, float]:
        return {"masked_lm": 1.0} | ({"next_sentence": 1.0} if self.config.next_sentence else {})

    def row_length(self, sequence_length: int) -> int:
        """The ids of a row (of a pair: of both) for so many places."""
        return sequence_length - (3 if self.config.next_sentence else 2)

    def example(self, row: Row, generator: np.random.Generator) -> Row:
        extra: Row = {}
        if self.config.next_sentence:
            ids, token_types = self._pair(row["ids_a"], row["ids_b"])
            label = 0 if row["is_next"] else 1
            extra = {"token_types": token_types, "next_sentence": np.array(label)}
        else:
            ids = self._surrounded(only_document(row, "masked_lm"))
        masked, labels = self.mask(ids, generator)
        return {"ids": masked, "labels": labels, **extra}

    def mask(self, ids: Ids, generator: np.random.Generator) -> tuple[Ids, Ids]:
        """The ids with some hidden, and the labels: at the chosen places what stood there."""
        chosen = self._choose(ids, generator)
        num_chosen = int(chosen.sum())
        fate = generator.random(num_chosen)
        others = generator.choice(self.ordinary_ids, num_chosen)
        is_mask = fate < self.config.mask_share
        is_random = ~is_mask & (fate < self.config.mask_share + self.config.random_share)
        masked = ids.copy()
        masked[chosen] = np.select([is_mask, is_random], [self.mask_id, others], ids[chosen])
        return masked, np.where(chosen, ids, IGNORED)

    def _choose(self, ids: Ids, generator: np.random.Generator) -> NDArray[np.bool_]:
        """Each word with probability `rate`, at least one of them if there is any."""
        can_hide = ~self.is_special_V[ids]
        word_N = np.cumsum(self._starts_word(ids, can_hide)) - 1
        chances = generator.random(len(ids))
        threshold = self.config.rate
        if can_hide.any():
            threshold = max(threshold, chances[word_N[can_hide]].min())
        chosen: NDArray[np.bool_] = can_hide & (chances[word_N] <= threshold)
        return chosen

    def _starts_word(self, ids: Ids, can_hide: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """A special token is a word, and so ends the one before it."""
        starts_V = self.vocabulary.starts_word_V
        if not self.config.whole_words or starts_V is None:
            return np.ones(len(ids), dtype=bool)
        after_special = np.concatenate([[True], ~can_hide[:-1]])
        starts: NDArray[np.bool_] = starts_V[ids] | ~can_hide | after_special
        return starts

    def _surrounded(self, ids: Ids) -> Ids:
        return np.concatenate([[self.cls_id], ids, [self.sep_id]])

    def _pair(self, ids_a: Ids, ids_b: Ids) -> tuple[Ids, Ids]:
        ids = np.concatenate([self._surrounded(ids_a), ids_b, [self.sep_id]])
        return ids, np.repeat([0, 1], [len(ids_a) + 2, len(ids_b) + 1])

    def collate(self, examples: Sequence[Row]) -> Batch:
        """`valid` is there only where something is padded."""
        batch = {
            "ids": pad(examples, "ids", self.vocabulary.pad_id),
            "labels": pad(examples, "labels", IGNORED),
        }
        lengths_B = torch.tensor([len(example["ids"]) for example in examples])
        length = batch["ids"].shape[1]
        if int(lengths_B.min()) < length:
            batch["valid"] = torch.arange(length) < lengths_B[:, None]
        if self.config.next_sentence:
            batch["token_types"] = pad(examples, "token_types", 0)
            batch["next_sentence"] = torch.tensor([int(e["next_sentence"]) for e in examples])
        return batch

    def count(self, batch: Batch) -> Mapping[str, int]:
        counts = {"masked_lm": int((batch["labels"] != IGNORED).sum())}
        return counts | ({"next_sentence": len(batch["ids"])} if self.config.next_sentence else {})

    def losses(self, model: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
        """Also `correct`, and `next_sentence_correct`. The scores of the vocabulary are computed
        at the chosen places only."""
        kind = BertPreTraining if self.config.next_sentence else MaskedLMHead
        model = with_head(model, kind, self.task)
        x_BTD = model.body(
            batch["ids"], valid_BT=batch.get("valid"), token_types_BT=batch.get("token_types")
        )
        chosen_BT = batch["labels"] != IGNORED
        loss = token_loss(model, x_BTD[chosen_BT], batch["labels"][chosen_BT])
        losses = {"masked_lm": loss.loss_sum, "correct": loss.num_correct}
        if self.config.next_sentence and isinstance(model, BertPreTraining):
            losses |= _next_sentence(model.next_sentence_logits(x_BTD), batch["next_sentence"])
        return losses


def _next_sentence(logits_B2: Tensor, labels_B: Tensor) -> dict[str, Tensor]:
    loss = cross_entropy(logits_B2.float(), labels_B, reduction="sum")
    num_correct = (logits_B2.argmax(dim=1) == labels_B).sum()
    return {"next_sentence": loss, "next_sentence_correct": num_correct.float()}
