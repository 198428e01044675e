"""What a recipe's model would see and be asked for: the first rows, decoded, before anything is
trained."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from typing import Any, NamedTuple

import torch

from pharos.data.rows import row_generator
from pharos.data.tokenizer import Tokenizer
from pharos.train.objective import IGNORED, Batch
from pharos.train.recipe import Recipe
from pharos.train.run import Parts, Say

ROWS = 3
MEASURED = 256


class Stretch(NamedTuple):
    """Neighbouring tokens that are all targets, or all not."""

    text: str
    is_target: bool


class Sample(NamedTuple):
    """A row: what it reads (for an encoder-decoder: its source), and what is asked of it."""

    reads: list[Stretch]
    asked: list[Stretch]


@dataclass(frozen=True, kw_only=True, slots=True)
class Preview:
    """`tokens` and `targets` are of the rows that were looked at; so are the lengths."""

    samples: list[Sample]
    rows: int
    tokens: int
    targets: Mapping[str, int]
    shortest: int
    longest: int
    summary: str

    def as_object(self) -> dict[str, Any]:
        found = asdict(self)
        found["samples"] = [
            {name: [stretch._asdict() for stretch in part] for name, part in s._asdict().items()}
            for s in self.samples
        ]
        return found


def preview(recipe: Recipe, say: Say) -> Preview:
    """Prepares the data as a run would, and looks at its first rows."""
    parts = Parts.of(recipe, say, lambda make: make())
    objective, stream = parts.objective, parts.data.stream
    examples = [
        objective.example(stream[n], row_generator("example", recipe.seed, n))
        for n in range(MEASURED)
    ]
    batch = objective.collate(examples[: max(ROWS, recipe.training.batch_size)])
    lengths = [max(len(x) for x in example.values() if x.ndim) for example in examples]
    return Preview(
        samples=samples(batch, parts.tokenizer),
        rows=len(examples),
        tokens=sum(lengths),
        targets=objective.count(objective.collate(examples)),
        shortest=min(lengths),
        longest=max(lengths),
        summary=parts.data.summary,
    )


def samples(batch: Batch, tokenizer: Tokenizer) -> list[Sample]:
    """The first rows of a batch."""
    first = "source_ids" if "source_ids" in batch else "ids"
    if first not in batch:  # pairs
        return [
            Sample(
                _plain(batch["first_ids"][i], tokenizer), _plain(batch["second_ids"][i], tokenizer)
            )
            for i in range(ROWS)
        ]
    found = []
    for i in range(min(ROWS, len(batch[first]))):
        ids, labels = batch[first][i].tolist(), batch.get("labels")
        has_labels = labels is not None and labels.ndim == 2 and labels.shape == batch["ids"].shape
        row = labels[i].tolist() if has_labels and labels is not None else [IGNORED] * len(ids)
        is_beside = first == "ids" and len(row) == len(ids)
        marks = [label != IGNORED for label in row] if is_beside else [False] * len(ids)
        wanted = [(label, True) for label in row if label != IGNORED]
        found.append(Sample(_stretches(ids, marks, tokenizer), _asked(wanted, tokenizer)))
    return found


def _asked(wanted: Sequence[tuple[int, bool]], tokenizer: Tokenizer) -> list[Stretch]:
    ids = [id_ for id_, _ in wanted]
    return [Stretch(tokenizer.decode(ids, skip_special=False), True)] if ids else []


def _plain(ids: torch.Tensor, tokenizer: Tokenizer) -> list[Stretch]:
    return _stretches(ids.tolist(), [False] * len(ids), tokenizer)


def _stretches(
    ids: Sequence[int], is_target: Sequence[bool], tokenizer: Tokenizer
) -> list[Stretch]:
    return [
        Stretch(tokenizer.decode([id_ for id_, _ in group], skip_special=False), mark)
        for mark, group in (
            (mark, list(group))
            for mark, group in groupby(zip(ids, is_target, strict=True), key=lambda pair: pair[1])
        )
    ]
