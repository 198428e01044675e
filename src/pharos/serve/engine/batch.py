"""A plan as plain numbers: what is to be computed, without whose it is.

This is what a forward pass needs, and what other processes are told that have parts of the model.
"""

from typing import NamedTuple

from pharos.serve.engine.plan import Move, Part, Plan
from pharos.serve.engine.request import Kind


class Row(NamedTuple):
    """A sequence's tokens in the batch: `ids` at the positions from `start` on. Its keys are in
    `blocks`, and logits are wanted after the last `num_logits`. `adapter` is a generation."""

    ids: list[int]
    start: int
    num_logits: int
    blocks: list[int]
    adapter: int


class Batch(NamedTuple):
    """Rows of one kind to be computed, or blocks to be moved before that."""

    kind: Kind
    rows: list[Row]
    moves: list[Move]

    @classmethod
    def of(cls, plan: Plan, kind: Kind) -> "Batch":
        """The parts of a plan that are of this kind."""
        parts = [part for part in plan.parts if part.sequence.request.kind == kind]
        return cls(kind, [_row(part) for part in parts], [])

    @property
    def ids(self) -> list[int]:
        return [id_ for row in self.rows for id_ in row.ids]

    @property
    def positions(self) -> list[int]:
        return [p for row in self.rows for p in range(row.start, row.start + len(row.ids))]

    @property
    def wanted(self) -> list[int]:
        """Where in the batch are the tokens after which logits are wanted."""
        wanted: list[int] = []
        stop = 0
        for row in self.rows:
            stop += len(row.ids)
            wanted += range(stop - row.num_logits, stop)
        return wanted


def _row(part: Part) -> Row:
    sequence, start, num_tokens, num_logits = part
    stop = start + num_tokens
    num_drafts = max(stop - len(sequence.tokens), 0)
    ids = sequence.tokens[start:stop] + sequence.drafts[:num_drafts]
    return Row(ids, start, num_logits, sequence.blocks, sequence.generation)
