"""A recipe's `data:` section: texts for language modelling, or labelled records.

data: {sources: {licence: {path: LICENSE}}, sequence_length: 32}
data: {train: chat.jsonl, template: chatml, max_tokens: 1024}
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pharos.data.formats import FormatName
from pharos.data.text_sources import Division

OWN_FOLDERS = ("validation", "tokenizer")
SOURCE_NAME = re.compile(r"(?!\.)[\w.-]+")


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceSection:
    """`path` is a file or folder: of documents of any kind that is parsed, plain text (each file,
    line or paragraph a document, by `division`), JSON lines or Parquet with a column `text`; or
    token shards. `weight` is its share in the mixture."""

    path: str
    weight: float = 1.0
    text: str = "text"
    division: Division = "file"


@dataclass(frozen=True, kw_only=True, slots=True)
class MilestoneSection:
    """From optimizer step `step` on, the sources have these weights."""

    step: int
    weights: Mapping[str, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class TextData:
    """Texts, for language modelling. `packing` is how documents become rows: whole and kept apart
    (`best_fit`, usual for causal_lm), end to end (`concat`), or as pairs for next sentence
    prediction. `validation` is the share that is held out, or a path, read as the first source is.
    `clean` and `deduplicate` are steps on the way; `filter` drops documents of poor quality.
    `milestones` change the weights of the sources on the way, in steps or linearly."""

    sources: Mapping[str, SourceSection]
    sequence_length: int
    packing: Literal["concat", "best_fit", "sentence_pairs"] | None = None
    validation: float | str = 0.05
    clean: bool = True
    deduplicate: bool = True
    filter: bool = False
    milestones: tuple[MilestoneSection, ...] = ()
    change: Literal["step", "linear"] = "step"

    def __post_init__(self) -> None:
        if not self.sources:
            raise ValueError("sources is empty; name at least one")
        for name, source in self.sources.items():
            _check_source(name, source.weight)
        steps = [milestone.step for milestone in self.milestones]
        if steps != sorted(set(steps)) or min(steps, default=0) < 0:
            raise ValueError(
                f"milestones begin at the steps {steps}; the first must be 0 or more, and each of "
                "the others after the one before it"
            )
        for milestone in self.milestones:
            for name, weight in milestone.weights.items():
                if name not in self.sources:
                    raise ValueError(
                        f"milestones names {name!r}, which is no source; there are "
                        f"{', '.join(self.sources)}"
                    )
                _check_weight(name, weight)
        if self.sequence_length < 2:
            raise ValueError(f"sequence_length is {self.sequence_length}; it must be at least 2")
        _check_share(self.validation)


def _check_source(name: str, weight: float) -> None:
    """A source's name is that of its folder, beside the folders that a run makes itself."""
    if name in OWN_FOLDERS:
        raise ValueError(f"sources.{name} has a name that the run needs itself; choose another")
    if not SOURCE_NAME.fullmatch(name):
        raise ValueError(
            f"sources has the name {name!r}; it may have letters, digits, '_', '-' and '.', and "
            "must not begin with '.'"
        )
    _check_weight(name, weight)


def _check_weight(name: str, weight: float) -> None:
    if not 0 <= weight < math.inf:
        raise ValueError(f"the weight of {name} is {weight}; it must be 0 or more")


def _check_share(validation: float | str) -> None:
    if isinstance(validation, float) and not 0 <= validation < 1:
        raise ValueError(
            f"validation is {validation}; it is a share, 0 (none) to below 1, or a path"
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class RecordData:
    """Labelled records, for supervised objectives: JSON lines, CSV, TSV, Parquet (SQuAD's JSON for
    questions). Columns have the names given here. `labels` are learned from the data unless given.
    Instead of `train`, sft may have `documents`: a folder (or file) of documents of any kind, which
    instruction pairs are made of (`pharos.data.instruction_pairs`).

    Conversations (sft, dpo, reward) are of a `format` that is known by its keys. `template` is a
    built-in chat template or a file (default: the model's own). With `packing`, rows hold as many
    whole conversations as fit, kept apart; else each is a row. `too_long` is what becomes of an
    example whose answer begins behind `max_tokens`."""

    train: str | None = None
    documents: str | None = None
    validation: float | str = 0.1
    max_tokens: int = 256
    stride: int = 128
    text: str = "text"
    text_b: str | None = None
    label: str = "label"
    words: str = "tokens"
    tags: str = "tags"
    labels: tuple[str, ...] | None = None
    format: FormatName | None = None
    template: str | None = None
    packing: bool = False
    too_long: Literal["error", "leave_out"] = "error"

    def __post_init__(self) -> None:
        if (self.train is None) == (self.documents is None):
            raise ValueError(
                "give either train (records) or documents (a folder that pairs are made of)"
            )
        _check_share(self.validation)
        if self.max_tokens < 1:
            raise ValueError(f"max_tokens is {self.max_tokens}; it must be at least 1")
        if self.stride < 0:
            raise ValueError(f"stride is {self.stride}; it must be 0 or more")

    @property
    def records(self) -> Path:
        """The file of records; of documents, the pairs must have been made first."""
        assert self.train is not None
        return Path(self.train)
