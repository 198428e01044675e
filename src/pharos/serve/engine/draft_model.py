"""A small model guesses what a large one writes.

It reads what the large one has written, writes on by itself, and is corrected a step later. It
draws with the random numbers that the large one will draw with: where their distributions are
alike, so are their tokens, and not for greedy texts alone.

The two share their vocabulary, and nothing else: the small model has blocks of its own, and for it
each sequence has a shadow, a `Sequence` with the same request that goes on with the drafts.
"""

from collections.abc import Mapping
from collections.abc import Sequence as Seq
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from pharos.serve.engine.block_pool import BlockPool
from pharos.serve.engine.grammar import MaskFiller, new_mask
from pharos.serve.engine.plan import Part, Plan
from pharos.serve.engine.request import Sequence
from pharos.serve.engine.runner import Runner
from pharos.serve.engine.sampler import Row, Sampler, rows_of
from pharos.serve.engine.speculation import count_right

MAX_READ = 2048


class DraftModelProposer:
    """`runner` has the small model and the room for its keys. A sequence that finds no room there
    gets no drafts, and neither does one that is longer than the small model reads, or of which it
    has not read all: it reads `max_read` tokens in a pass. Raises ValueError for a model of another
    vocabulary than `vocab_size`."""

    def __init__(self, runner: Runner, *, vocab_size: int, max_read: int = MAX_READ) -> None:
        own = runner.model.config.vocab_size
        if own != vocab_size:
            raise ValueError(
                f"the draft model has a vocabulary of {own} tokens, and the model one of "
                f"{vocab_size}; take one of the same family"
            )
        self._runner = runner
        self._max_read = max_read
        self._pool = BlockPool(runner.kv.num_blocks, runner.kv.block_size, prefix_cache=False)
        self._sampler = Sampler()
        self._filler = MaskFiller()
        self._shadows: dict[Sequence, Sequence] = {}
        self._num_known: dict[Sequence, int] = {}

    @property
    def num_used_blocks(self) -> int:
        return self._pool.num_used

    def propose(self, sequences: Seq[Sequence], room: Seq[int]) -> list[list[int]]:
        shadows: list[Sequence | None] = []
        ends: dict[Sequence, int] = {}
        for sequence, count in zip(sequences, room, strict=True):
            shadow = self._followed(sequence) if count else None
            if shadow is not None and self._has_room(shadow, count):
                ends[shadow] = len(shadow.tokens) + count
            shadows.append(shadow)
        self._write_until(ends)
        return [
            [] if shadow is None else shadow.tokens[len(sequence.tokens) :]
            for sequence, shadow in zip(sequences, shadows, strict=True)
        ]

    def forget(self, sequence: Sequence) -> None:
        shadow = self._shadows.pop(sequence, None)
        if shadow is not None:
            self._pool.free(shadow)
            self._sampler.forget(shadow)
            del self._num_known[shadow]

    def _followed(self, sequence: Sequence) -> Sequence:
        """The shadow of a sequence, with its tokens. What was computed of right drafts stays."""
        shadow = self._shadows.get(sequence)
        if shadow is None:
            shadow = Sequence(sequence.request, sequence.arrival, list(sequence.tokens))
            shadow.grammar = sequence.grammar
            self._shadows[sequence] = shadow
        known = self._num_known.get(shadow, 0)
        num_right = known + count_right(shadow.tokens[known:], sequence.tokens[known:])
        shadow.num_computed = min(shadow.num_computed, num_right, len(sequence.tokens) - 1)
        shadow.tokens[num_right:] = sequence.tokens[num_right:]
        self._num_known[shadow] = len(sequence.tokens)
        self._sampler.forget(shadow)
        return shadow

    def _has_room(self, shadow: Sequence, count: int) -> bool:
        num_tokens, most = len(shadow.tokens) + count, self._runner.model.body.max_positions
        if most is not None and num_tokens > most:
            return False
        if self._pool.blocks_for(num_tokens) - len(shadow.blocks) > self._pool.num_available:
            return False
        self._pool.grow(shadow, num_tokens)
        return True

    def _write_until(self, ends: Mapping[Sequence, int]) -> None:
        """Shadows go on until they have so many tokens."""
        writing = list(ends)
        while writing:
            writing = [
                shadow for shadow in self._write(writing) if len(shadow.tokens) < ends[shadow]
            ]

    def _write(self, shadows: Seq[Sequence]) -> list[Sequence]:
        """One token more for each, if all before it are read by now; those that got one."""
        plan = Plan(self._parts(shadows))
        rows = rows_of(plan)
        tokens = self._sampler.sample(self._runner.run(plan), rows, self._masks(rows))
        for shadow, _, num_tokens, _ in plan.parts:
            shadow.num_computed += num_tokens
        for row, token in zip(rows, tokens, strict=True):
            row.sequence.tokens.append(token.id)
        return [row.sequence for row in rows]

    def _masks(self, rows: Seq[Row]) -> NDArray[np.int32] | None:
        """What grammars allow after the drafts so far: a guess that breaks one is never right."""
        shadows = [row.sequence for row in rows]
        if all(shadow.grammar is None for shadow in shadows):
            return None
        drafts = [shadow.tokens[self._num_known[shadow] :] for shadow in shadows]
        ends = list(accumulate(1 + len(each) for each in drafts))
        asked = [
            (end - 1 - len(each), shadow.grammar, each)
            for end, shadow, each in zip(ends, shadows, drafts, strict=True)
            if shadow.grammar is not None
        ]
        mask_RW = new_mask(ends[-1], self._runner.model.config.vocab_size)
        self._filler.fill(asked, mask_RW)
        return mask_RW[[end - 1 for end in ends]]

    def _parts(self, shadows: Seq[Sequence]) -> list[Part]:
        """What is read in a pass: first those of which little is left."""
        budget = self._max_read
        parts = []
        for shadow in sorted(shadows, key=lambda shadow: shadow.num_pending):
            num_tokens = min(shadow.num_pending, budget)
            budget -= num_tokens
            if num_tokens:
                is_read = num_tokens == shadow.num_pending
                parts.append(Part(shadow, shadow.num_computed, num_tokens, int(is_read)))
        return parts
