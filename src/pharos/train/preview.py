"""What a recipe's model would see and be asked for: the first rows, decoded, before anything is
trained."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from typing import Any, NamedTuple

import torch

from pharos.data.rendered_rows import RenderingReport
from pharos.data.rows import Row, row_generator
from pharos.data.tokenizer import Tokenizer
from pharos.train.objective import IGNORED, Batch
from pharos.train.parts import Parts, Say
from pharos.train.recipe import Recipe
from pharos.train.rl.on_policy import OnPolicy

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
    """`tokens` and `targets` are of the rows that were looked at; so are the lengths. Of
    conversations they are of all of them, and `report` tells how they were rendered."""

    samples: list[Sample]
    rows: int
    tokens: int
    targets: Mapping[str, int]
    shortest: int
    longest: int
    summary: str
    report: RenderingReport | None = None

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
    if parts.data.report is not None:
        rows = [stream[n] for n in range(min(ROWS, parts.data.report.num_texts))]
        return _of_conversations(rows, parts.data.report, parts)
    if isinstance(objective, OnPolicy):
        return _of_prompts([stream[n] for n in range(MEASURED)], parts)
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


def _of_prompts(rows: Sequence[Row], parts: Parts) -> Preview:
    """The prompts, and the answers that verifiers are given: the rest the model is to say."""
    lengths = [len(row["prompt_ids"]) for row in rows]
    return Preview(
        samples=[
            Sample(
                _plain(torch.from_numpy(row["prompt_ids"]), parts.tokenizer),
                [Stretch(str(row["answer"]), True)] if str(row["answer"]) else [],
            )
            for row in rows[:ROWS]
        ],
        rows=len(rows),
        tokens=sum(lengths),
        targets={},
        shortest=min(lengths),
        longest=max(lengths),
        summary=parts.data.summary,
    )


def told(found: Preview) -> list[str]:
    """The counts, in sentences."""
    if found.report is not None:
        return _told_conversations(found.report)
    targets = ", ".join(f"{count:,} {name}" for name, count in found.targets.items())
    return [
        f"{found.rows} rows of {found.shortest} to {found.longest} tokens, {found.tokens:,} in "
        f"all; targets: {targets}"
    ]


def _told_conversations(report: RenderingReport) -> list[str]:
    roles = (
        f"{role}: {count.turns:,} times, {count.tokens:,} tokens"
        for role, count in report.roles.items()
    )
    lost = {
        f"{report.num_cut:,} texts were cut at their ends and lost {report.tokens_cut:,} tokens": (
            report.num_cut
        ),
        f"{report.num_left_out:,} were too long to learn anything from, and are left out": (
            report.num_left_out
        ),
    }
    return [
        f"{report.num_texts:,} texts ({report.format}) of {report.shortest:,} to "
        f"{report.longest:,} tokens, half of them at most {report.median:,}",
        f"{report.num_learned:,} of {report.num_tokens:,} tokens are learned",
        *(line for line, count in lost.items() if count),
        f"In the first {report.num_sampled:,}, {'; '.join(roles)}",
    ]


def _of_conversations(rows: Sequence[Row], report: RenderingReport, parts: Parts) -> Preview:
    """What is read and, marked, what is learned of it; of a pair, the rejected answer below."""
    return Preview(
        samples=[_conversation(row, parts.tokenizer) for row in rows],
        rows=report.num_texts,
        tokens=report.num_tokens,
        targets=dict.fromkeys(parts.objective.weights, report.num_learned),
        shortest=report.shortest,
        longest=report.longest,
        summary=parts.data.summary,
        report=report,
    )


def _conversation(row: Row, tokenizer: Tokenizer) -> Sample:
    if "labels" in row:
        is_token = row.get("document", row["ids"]) >= 0
        marks = (row["labels"] != IGNORED)[is_token]
        return Sample(_stretches(row["ids"][is_token].tolist(), marks.tolist(), tokenizer), [])
    prompt, chosen, rejected = (
        tokenizer.decode(row[f"{kind}_ids"].tolist(), skip_special=False)
        for kind in ("prompt", "chosen", "rejected")
    )
    return Sample([Stretch(prompt, False), Stretch(chosen, True)], [Stretch(rejected, False)])


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
