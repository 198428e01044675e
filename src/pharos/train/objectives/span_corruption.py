"""Write what was cut out (T5; Raffel et al. 2019, arXiv:1910.10683).

Spans of three tokens on average, 15% of all, are each replaced by one sentinel; what is to be
written is the spans, each after its sentinel:

    row      Thank you for inviting me to your party last week
    source   Thank you <extra_id_0> me to your party <extra_id_1> week </s>
    target   <extra_id_0> for inviting <extra_id_1> last </s>

How many tokens are cut out, and in how many spans, follows from the row's length alone; only where
they lie is drawn. So rows of one length become sources of one length and targets of one length, and
`raw_length` turns it round: the longest row whose source fits. Lengths, spans and ends are those of
the published code (`random_spans_noise_mask`, `compute_input_and_target_lengths`).

Shapes: B rows, S source tokens, T target tokens, L tokens of a row.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import count, takewhile
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pharos.core.errors import TrainingError
from pharos.data.rows import Row
from pharos.models.family import Task
from pharos.models.seq2seq import Seq2SeqLM
from pharos.train.objective import IGNORED, Batch
from pharos.train.objectives.single_document import only_document
from pharos.train.objectives.supervised import pad
from pharos.train.objectives.token_loss import token_loss, with_head
from pharos.train.objectives.vocabulary import Vocabulary

Ids = NDArray[np.integer[Any]]


@dataclass(frozen=True, kw_only=True, slots=True)
class SpanCorruptionConfig:
    """`rate` is the share of tokens that are cut out, `mean_length` that of a span."""

    rate: float = 0.15
    mean_length: float = 3.0

    def __post_init__(self) -> None:
        if not 0 < self.rate < 1:
            raise ValueError(f"rate is {self.rate}; it must be between 0 and 1, 0.15 for T5")
        if self.mean_length < 1:
            raise ValueError(f"mean_length is {self.mean_length}; it must be at least 1 token")


class Cut(NamedTuple):
    """How many tokens of a row are cut out, and in how many spans; what stays lies before each."""

    tokens: int
    spans: int

    @classmethod
    def of(cls, length: int, config: SpanCorruptionConfig) -> "Cut":
        """Halves are rounded to even numbers, as in the published code. At least one token goes
        and one stays, so a row has two."""
        tokens = min(max(round(length * config.rate), 1), length - 1)
        spans = max(round(tokens / config.mean_length), 1)
        return cls(tokens, min(spans, tokens, length - tokens))


class Lengths(NamedTuple):
    source: int
    target: int


def corrupted_lengths(length: int, config: SpanCorruptionConfig) -> Lengths:
    """Of the source and the target of a row: a sentinel for each span, and an end for both."""
    cut = Cut.of(length, config)
    return Lengths(length - cut.tokens + cut.spans + 1, cut.tokens + cut.spans + 1)


def raw_length(source_length: int, config: SpanCorruptionConfig) -> int:
    """The longest row whose source has at most that length. Raises ValueError if none is so
    short."""
    if corrupted_lengths(2, config).source > source_length:
        raise ValueError(
            f"a source of {source_length} tokens has no room for a token, a sentinel and the end"
        )
    fits = (corrupted_lengths(n, config).source <= source_length for n in count(3))
    return 2 + sum(takewhile(bool, fits))


def cut_mask(
    length: int, config: SpanCorruptionConfig, generator: np.random.Generator
) -> NDArray[np.bool_]:
    """`[L]`: which tokens are cut out. All ways to lay the spans are equally likely; the first
    token stays and the last goes."""
    cut = Cut.of(length, config)
    gone = _random_parts(cut.tokens, cut.spans, generator)
    kept = _random_parts(length - cut.tokens, cut.spans, generator)
    lengths = np.stack([kept, gone], axis=1).ravel()
    return np.repeat(np.arange(len(lengths)) % 2 == 1, lengths)


def _random_parts(total: int, parts: int, generator: np.random.Generator) -> NDArray[np.int64]:
    """`parts` numbers of 1 or more that are `total` together, each such list equally likely."""
    cuts = np.sort(generator.permutation(total - 1)[: parts - 1]) + 1
    return np.diff(cuts, prepend=0, append=total)


def with_sentinels(ids: Ids, is_cut: NDArray[np.bool_], sentinels: Ids) -> Ids:
    """The ids with each span that is cut out replaced by one sentinel, in their order."""
    begins = is_cut & ~np.concatenate([[False], is_cut[:-1]])
    order = np.cumsum(begins) - 1
    replaced = np.where(begins, sentinels[order.clip(0)], ids)
    kept: Ids = replaced[begins | ~is_cut]
    return kept


class SpanCorruption:
    """Rows are `{"ids"}` without special tokens."""

    task: ClassVar[Task] = "seq2seq_lm"
    """What the model is made for."""
    weights: Mapping[str, float] = {"span_corruption": 1.0}

    def __init__(self, config: SpanCorruptionConfig, vocabulary: Vocabulary) -> None:
        self.config = config
        self.eos_id = vocabulary.id_of("eos", "span_corruption ends its texts with it")
        self.pad_id = vocabulary.id_of("pad", "span_corruption begins its targets with it, as T5")
        self.sentinels = np.array(vocabulary.sentinels)

    def row_length(self, sequence_length: int) -> int:
        """The ids of a row for a source of so many places."""
        length = raw_length(sequence_length, self.config)
        self._check_sentinels(length)
        return length

    def example(self, row: Row, generator: np.random.Generator) -> Row:
        ids = only_document(row, "span_corruption")
        if len(ids) < 2:  # a rest of a corpus: nothing to ask
            return {"source_ids": np.append(ids, self.eos_id), "labels": ids[:0]}
        self._check_sentinels(len(ids))
        is_cut = cut_mask(len(ids), self.config, generator)
        source = with_sentinels(ids, is_cut, self.sentinels)
        target = with_sentinels(ids, ~is_cut, self.sentinels)
        return {
            "source_ids": np.append(source, self.eos_id),
            "labels": np.append(target, self.eos_id),
        }

    def _check_sentinels(self, length: int) -> None:
        needed = Cut.of(length, self.config).spans
        if len(self.sentinels) < needed:
            raise TrainingError(
                f"rows of {length} tokens have {needed} spans, and the tokenizer has "
                f"{len(self.sentinels)} sentinels; train it with special_tokens <extra_id_0> to "
                f"<extra_id_{needed - 1}>, or make the sequence shorter"
            )

    def collate(self, examples: Sequence[Row]) -> Batch:
        """`ids` are the labels one place later, after the padding token that T5 begins with.
        `source_valid` is there only where something is padded."""
        labels = pad(examples, "labels", IGNORED)
        starts = torch.full((len(labels), 1), self.pad_id)
        ids = torch.cat([starts, labels[:, :-1]], dim=1)
        batch = {
            "source_ids": pad(examples, "source_ids", self.pad_id),
            "ids": ids.where(ids != IGNORED, self.pad_id),
            "labels": labels,
        }
        lengths_B = torch.tensor([len(example["source_ids"]) for example in examples])
        length = batch["source_ids"].shape[1]
        if int(lengths_B.min()) < length:
            batch["source_valid"] = torch.arange(length) < lengths_B[:, None]
        return batch

    def count(self, batch: Batch) -> Mapping[str, int]:
        return {"span_corruption": int((batch["labels"] != IGNORED).sum())}

    def losses(self, model: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
        """Also `correct`: how many targets had the highest score."""
        model = with_head(model, Seq2SeqLM, self.task)  # type: ignore[type-abstract]
        valid_BS = batch.get("source_valid")
        states_BSD = model.encode(batch["source_ids"], valid_BS)
        x_BTD = model.body.decode(batch["ids"], states_BSD, valid_BS)
        loss = token_loss(model, x_BTD, batch["labels"])
        return {"span_corruption": loss.loss_sum, "correct": loss.num_correct}
