"""Predict the next token (GPT; Radford et al. 2018).

A row of L ids becomes L - 1 places: what stands there, and what comes next. If documents share a
row, each place sees its own document only, positions begin anew with each, and the last token of
one is not asked for the first of the next: the gradients are those of the documents one by one.

Which places are targets is told by where they stand, never by an id: the end of a document may have
the id that padding has, and is learned all the same.

Shapes: B rows, T places of the longest.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from pharos.core.errors import TrainingError
from pharos.data.packing import PADDING
from pharos.data.rows import Row
from pharos.models.family import Task
from pharos.models.heads import CausalLM as CausalLMHead
from pharos.ops.experts import load_balancing_loss
from pharos.ops.masks import Causal, Documents, Mask
from pharos.train.objective import IGNORED, Batch
from pharos.train.objectives.supervised import pad
from pharos.train.objectives.token_loss import token_loss, with_head
from pharos.train.objectives.vocabulary import Vocabulary


@dataclass(frozen=True, kw_only=True, slots=True)
class CausalLMConfig:
    """`label_smoothing` is the share of the probability that is wanted everywhere instead of on the
    right token. `load_balancing` is the weight of the loss that keeps a mixture's experts evenly
    used (Fedus et al. 2021, arXiv:2101.03961; 0.01 there), in each micro-batch by itself."""

    label_smoothing: float = 0.0
    load_balancing: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.load_balancing < math.inf:
            raise ValueError(f"load_balancing is {self.load_balancing}; it must be 0 or more")
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(
                f"label_smoothing is {self.label_smoothing}; it must be 0 or more, below 1"
            )


class CausalLM:
    """Rows are `{"ids"}`, with `"document"` if several share a row."""

    task: ClassVar[Task] = "causal_lm"
    """What the model is made for."""

    def __init__(self, config: CausalLMConfig, vocabulary: Vocabulary) -> None:
        self.config = config
        self.pad_id = vocabulary.pad_id

    @property
    def weights(self) -> Mapping[str, float]:
        balance = self.config.load_balancing
        return {"causal_lm": 1.0} | ({"load_balancing": balance} if balance else {})

    def row_length(self, sequence_length: int) -> int:
        """The ids of a row for so many places."""
        return sequence_length + 1

    def example(self, row: Row, generator: np.random.Generator) -> Row:
        ids = row["ids"]
        document = row.get("document", np.zeros(len(ids), dtype=np.int32))
        is_target = (document[1:] == document[:-1]) & (document[1:] != PADDING)
        return {
            "ids": ids[:-1],
            "labels": np.where(is_target, ids[1:], IGNORED),
            "positions": positions_within(document)[:-1],
            "documents": document[:-1],
        }

    def collate(self, examples: Sequence[Row]) -> Batch:
        """`documents` is there only where a row has several: without, attention is plainly causal,
        and what is padded on the right no token sees."""
        fills = {"ids": self.pad_id, "labels": IGNORED, "positions": 0}
        batch = {name: pad(examples, name, fill) for name, fill in fills.items()}
        if any(example["documents"].max(initial=0) > 0 for example in examples):
            batch["documents"] = pad(examples, "documents", PADDING)
        return batch

    def count(self, batch: Batch) -> Mapping[str, int]:
        return dict.fromkeys(self.weights, int((batch["labels"] != IGNORED).sum()))

    def losses(self, model: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
        """Also `correct`: how many targets had the highest score."""
        model = with_head(model, CausalLMHead, self.task)
        mask: Mask = Causal()
        if "documents" in batch:
            mask = mask & Documents(batch["documents"])
        routers: list[Tensor] = []
        watched = {"router_logits": routers} if self.config.load_balancing else {}
        self._check_routers(model)
        x_BTD = model.body(batch["ids"], positions_BT=batch["positions"], mask=mask, **watched)
        loss = token_loss(
            model, x_BTD, batch["labels"], label_smoothing=self.config.label_smoothing
        )
        losses = {"causal_lm": loss.loss_sum, "correct": loss.num_correct}
        if routers:
            is_target_BT = batch["labels"] != IGNORED
            balance = load_balancing_loss(
                routers, top_k=model.config.num_experts_per_tok, valid_BT=is_target_BT
            )
            losses["load_balancing"] = balance * is_target_BT.sum()
        return losses

    def _check_routers(self, model: CausalLMHead) -> None:
        if self.config.load_balancing and not hasattr(model.config, "num_experts_per_tok"):
            raise TrainingError(
                f"objective.load_balancing is {self.config.load_balancing}, and a "
                f"{model.config.model_type} has no experts to balance; leave it out"
            )


def positions_within(document: NDArray[np.integer]) -> NDArray[np.int64]:
    """The place of each token within its document, documents lying one after another."""
    places = np.arange(len(document))
    is_first = np.diff(document, prepend=document[:1] - 1) != 0
    return places - np.maximum.accumulate(np.where(is_first, places, 0))
