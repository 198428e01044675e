"""Rendered conversations as the rows that a run reads: one each, or packed."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pharos.core.errors import TrainingError
from pharos.data.conversations import Conversation, Text
from pharos.data.examples import IGNORED
from pharos.data.packing import BestFitRows
from pharos.data.rendering import Rendered
from pharos.data.rows import Row
from pharos.data.token_source import TokenArrays
from pharos.data.tokenizer import Tokenizer

Int32s = NDArray[np.int32]


class RenderedRows:
    """`{"ids", "labels"}` of each text, all rendered beforehand: what cannot be learned from is
    found before a run begins."""

    def __init__(self, rendered: Iterable[Rendered]) -> None:
        texts = list(rendered)
        self.ids = TokenArrays.of_documents(text.ids for text in texts)
        self.labels = TokenArrays.of_documents(text.labels for text in texts)

    def __len__(self) -> int:
        return self.ids.num_documents

    def row(self, index: int, epoch: int) -> Row:
        return {"ids": self.ids.document(index), "labels": self.labels.document(index)}


class PackedRows:
    """Whole conversations in rows of one length, kept apart: `{"ids", "labels", "document"}`, see
    `packing.BestFitRows`. None may be longer than a row."""

    def __init__(self, rows: RenderedRows, row_length: int) -> None:
        self.labels = rows.labels
        self.fit = BestFitRows(rows.ids, row_length)

    def __len__(self) -> int:
        return len(self.fit)

    def row(self, index: int, epoch: int) -> Row:
        row = self.fit.row(index, epoch)
        labels = np.full(self.fit.row_length, IGNORED, dtype=np.int32)
        parts = [self.labels.document(piece.document) for piece in self.fit.pieces(index)]
        told = np.concatenate(parts)
        labels[: len(told)] = told
        return {**row, "labels": labels}


def rendered_once(
    path: Path, key: str, render: Callable[[], Sequence[Rendered]]
) -> Sequence[Rendered]:
    """What `render` gives, kept in a file: a run that resumes, and the other processes of one, have
    the very same tokens (templates may write the date). With another `key` it is rendered anew."""
    kept = _read(path, key)
    if kept is not None:
        return kept
    found = render()
    _write(path, key, found)
    return found


def _read(path: Path, key: str) -> list[Rendered] | None:
    if not path.is_file():
        return None
    with np.load(path, allow_pickle=False) as file:
        if str(file["key"]) != key:
            return None
        lengths, cut = file["lengths"], file["cut"]
        ends = np.cumsum(lengths)[:-1]
        ids, labels = (np.split(file[name], ends) for name in ("ids", "labels"))
    texts = zip(ids, labels, cut.tolist(), strict=True)
    return [Rendered(ids=its, labels=learned, num_cut=lost) for its, learned, lost in texts]


def _write(path: Path, key: str, texts: Sequence[Rendered]) -> None:
    """The file takes its name once it is whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    with part.open("wb") as file:
        np.savez(
            file,
            key=np.array(key),
            lengths=np.array([len(text.ids) for text in texts]),
            cut=np.array([text.num_cut for text in texts]),
            ids=np.concatenate([text.ids for text in texts]),
            labels=np.concatenate([text.labels for text in texts]),
        )
    part.replace(path)


class PreferenceRows:
    """`{"prompt_ids", "chosen_ids", "rejected_ids"}`: what both texts begin with, and the answers,
    to the token that ends them. `names` are what errors call the pairs. Raises TrainingError for a
    pair that does not begin alike."""

    def __init__(self, pairs: Iterable[tuple[Rendered, Rendered]], names: Iterable[str]) -> None:
        split = [(_parted(chosen), _parted(rejected)) for chosen, rejected in pairs]
        for ((prompt, _), (other, _)), name in zip(split, names, strict=True):
            _check_same(prompt, other, name)
        self.prompts = TokenArrays.of_documents(chosen[0] for chosen, _ in split)
        self.chosen = TokenArrays.of_documents(chosen[1] for chosen, _ in split)
        self.rejected = TokenArrays.of_documents(rejected[1] for _, rejected in split)

    def __len__(self) -> int:
        return self.prompts.num_documents

    def row(self, index: int, epoch: int) -> Row:
        return {
            "prompt_ids": self.prompts.document(index),
            "chosen_ids": self.chosen.document(index),
            "rejected_ids": self.rejected.document(index),
        }


def left_out() -> Rendered:
    """What stands for a text that is not learned from: it has no tokens."""
    return Rendered(ids=np.empty(0, np.int32), labels=np.empty(0, np.int32), num_cut=0)


def check_single_answer(text: Rendered, name: str) -> None:
    """Raises TrainingError for a text in which others speak between what is learned: as one answer,
    their words would be learned too."""
    learned = np.flatnonzero(text.labels != IGNORED)
    if len(learned) and learned[-1] - learned[0] >= len(learned):
        raise TrainingError(
            f"{name}: the answer has several turns, with words between them that are not the "
            "assistant's; keep one, or give the earlier ones in prompt"
        )


def _check_same(prompt: Int32s, other: Int32s, name: str) -> None:
    if not np.array_equal(prompt, other):
        raise TrainingError(
            f"{name}: chosen and rejected do not answer the same: before the one are "
            f"{len(prompt)} tokens, and before the other {len(other)} that differ; give what they "
            "share as prompt, and nothing else before the answers"
        )


def _parted(text: Rendered) -> tuple[Int32s, Int32s]:
    """Before what is learned, and from there to its end."""
    learned = np.flatnonzero(text.labels != IGNORED)
    return text.ids[: learned[0]], text.ids[learned[0] : learned[-1] + 1]


@dataclass(frozen=True, kw_only=True, slots=True)
class RenderingReport:
    """Of so many texts: how many tokens they have (after what was cut), how many of these are
    learned, and how many texts lost how many tokens at their ends. `num_left_out` more were too
    long to learn anything from. `roles` are those of the first `num_sampled`."""

    format: str
    roles: Mapping[str, "RoleCount"]
    num_sampled: int
    num_texts: int
    num_tokens: int
    num_learned: int
    num_cut: int
    tokens_cut: int
    num_left_out: int
    shortest: int
    median: int
    longest: int

    @classmethod
    def of(
        cls,
        texts: Sequence[Rendered],
        *,
        format_name: str,
        num_left_out: int,
        sampled: Sequence[Text],
        tokenizer: Tokenizer,
    ) -> "RenderingReport":
        """`sampled` are the first of the texts, as they were before they were rendered."""
        lengths = [len(text.ids) for text in texts] or [0]
        return cls(
            format=format_name,
            roles=count_roles(sampled, tokenizer),
            num_sampled=len(sampled),
            num_texts=len(texts),
            num_tokens=sum(lengths),
            num_learned=sum(text.num_learned for text in texts),
            num_cut=sum(text.num_cut > 0 for text in texts),
            num_left_out=num_left_out,
            tokens_cut=sum(text.num_cut for text in texts),
            shortest=min(lengths),
            median=int(np.median(lengths)),
            longest=max(lengths),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class RoleCount:
    """How often one speaks, and how many tokens that is, without what the template adds."""

    turns: int
    tokens: int


def count_roles(texts: Iterable[Text], tokenizer: Tokenizer) -> dict[str, RoleCount]:
    """By role; a text without turns is a `prompt` and a `completion`."""
    said = [pair for text in texts for pair in _said(text)]
    ids = tokenizer.encode_batch([words for _, words in said], add_special_tokens=False)
    turns, tokens = Counter[str](), Counter[str]()
    for (role, _), its in zip(said, ids, strict=True):
        turns[role] += 1
        tokens[role] += len(its)
    return {role: RoleCount(turns=turns[role], tokens=tokens[role]) for role in turns}


def _said(text: Text) -> list[tuple[str, str]]:
    if isinstance(text, Conversation):
        return [(turn.role, turn.content) for turn in text.turns]
    parts: list[tuple[Any, str]] = [("prompt", text.prompt), ("completion", text.completion)]
    return [(role, words) for role, words in parts if words]
