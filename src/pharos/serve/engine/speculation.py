"""Speculation: tokens are guessed, and one forward pass checks several guesses at once.

    Speculation ─ AdaptiveLength: how many guesses does each sequence deserve?
                └ Proposer: n-grams of its own text, or a draft model (`draft_model`)

A guess is right if it is what the model draws in its place anyway, with the random number of that
place (`sampler.accepted`); so a text is the same with and without speculation (Leviathan et al.
2023, arXiv:2211.17192, accept more of a sampled text's guesses, and get another text). What is
gained depends on the text: much where it repeats itself or its prompt, nothing elsewhere, where
checking guesses only costs. So each sequence's share of right guesses is followed, and guessing
stops where it does not pay, and where so many sequences share the forward pass that it has nothing
left to give.
"""

import logging
from collections.abc import Iterable
from collections.abc import Sequence as Seq
from dataclasses import dataclass, field
from typing import Protocol

from pharos.serve.engine.request import Sequence

log = logging.getLogger(__name__)


class Proposer(Protocol):
    """Guesses what tokens follow those of a sequence."""

    def propose(self, sequences: Seq[Sequence], room: Seq[int]) -> list[list[int]]:
        """For each sequence up to so many drafts as there is `room`, in order; none without an
        idea."""
        ...

    def forget(self, sequence: Sequence) -> None:
        """It has ended, or never was: what is kept of it can go."""
        ...


class NgramProposer:
    """A text goes on as it did the last time that it read so (prompt lookup decoding, Saxena 2023):
    after the longest of its endings that stands in it already, of `shortest` to `longest` tokens.
    A copy that meets the end of the text goes on with what it copied, round and round.

    Each n-gram is indexed once, when the token after it is known, so what a new token costs does
    not depend on the length of the text.
    """

    def __init__(self, *, shortest: int = 2, longest: int = 4) -> None:
        if not 1 <= shortest <= longest:
            raise ValueError(
                f"n-grams have {shortest} to {longest} tokens; the shortest must have at least 1, "
                "and the longest as many"
            )
        self._sizes = range(longest, shortest - 1, -1)
        self._indexes: dict[Sequence, _NgramIndex] = {}

    def propose(self, sequences: Seq[Sequence], room: Seq[int]) -> list[list[int]]:
        return [
            self._drafts(*each) if each[1] else [] for each in zip(sequences, room, strict=True)
        ]

    def forget(self, sequence: Sequence) -> None:
        self._indexes.pop(sequence, None)

    def _drafts(self, sequence: Sequence, count: int) -> list[int]:
        if not count:
            return []
        index = self._indexes.setdefault(sequence, _NgramIndex(self._sizes))
        tokens = sequence.tokens
        index.extend(tokens)
        start = index.find(tokens)
        if start is None:
            return []
        period = len(tokens) - start
        return [tokens[start + i % period] for i in range(count)]


class _NgramIndex:
    """Where the text went on after an n-gram: the last time."""

    def __init__(self, sizes: Iterable[int]) -> None:
        self._sizes = sizes
        self._next: dict[tuple[int, ...], int] = {}
        self._num_indexed = 0

    def extend(self, tokens: list[int]) -> None:
        """Index what ends before the last token."""
        for end in range(self._num_indexed, len(tokens)):
            for size in self._sizes:
                if size <= end:
                    self._next[tuple(tokens[end - size : end])] = end
        self._num_indexed = len(tokens)

    def find(self, tokens: list[int]) -> int | None:
        """Where the text went on after its longest ending that is known."""
        for size in self._sizes:
            if size < len(tokens) and (start := self._next.get(tuple(tokens[-size:]))) is not None:
                return start
        return None


@dataclass(slots=True)
class _Record:
    """Of a sequence: the `share` of guesses that were right, how many said so, what was guessed
    after its first `num_tokens` tokens, and for how many steps nothing was."""

    share: float
    num_judged: int = 0
    drafts: list[int] = field(default_factory=list)
    num_tokens: int = 0
    num_idle: int = 0


@dataclass(kw_only=True)
class AdaptiveLength:
    """How many drafts pay. If each is right with probability `p` once those before it are, `k` of
    them make `1 + p + … + p^k` tokens of a step that costs `1 + overhead + k cost` times as much:
    the best `k` is taken, which is 0 where guesses are mostly wrong. Then one is made every
    `probe_every` steps, for a text may begin to repeat itself.

    `most` bounds `k`. Of more than `max_batch` sequences none gets drafts: the more tokens a pass
    has, the less it waits for memory, and the nearer each draft's cost comes to a whole step's
    share. `overhead` and `cost` are what checking takes (`benchmarks/speculation.py` measures it);
    where a model makes the drafts, add what it takes for one to `cost`.
    """

    most: int = 6
    overhead: float = 0.1
    cost: float = 0.03
    max_batch: int = 8
    probe_every: int = 32
    first_share: float = 0.5
    """What is assumed of a sequence nobody has seen yet."""
    rate: float = 0.2
    """How much the last guess says about the next."""
    first_rate: float = 0.5
    """How much the first one says; those after it less and less, down to `rate`."""
    _records: dict[Sequence, _Record] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        for name, least in (("most", 1), ("max_batch", 1), ("probe_every", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least {least}")
        if self.overhead < 0.0 or self.cost <= 0.0:
            raise ValueError(
                f"overhead is {self.overhead} and cost {self.cost}; a draft costs more than nothing"
            )

    def lengths(self, sequences: Seq[Sequence]) -> list[int]:
        """How many drafts to make for each, after looking at what became of the last ones."""
        records = [self._observed(sequence) for sequence in sequences]
        if len(sequences) > self.max_batch:
            return [0] * len(sequences)
        return [self._length(record) for record in records]

    def note(self, sequence: Sequence, drafts: list[int]) -> None:
        """These drafts were made of it."""
        record = self._records[sequence]
        record.drafts, record.num_tokens = list(drafts), len(sequence.tokens)

    def forget(self, sequence: Sequence) -> None:
        self._records.pop(sequence, None)

    def _observed(self, sequence: Sequence) -> _Record:
        """The record of a sequence, after what it has gone on with."""
        record = self._records.setdefault(sequence, _Record(self.first_share))
        written = sequence.tokens[record.num_tokens :]
        num_right = count_right(record.drafts, written)
        num_wrong = int(num_right < min(len(record.drafts), len(written)))
        for is_right in [1.0] * num_right + [0.0] * num_wrong:
            rate = max(self.rate, self.first_rate * 2 / (2 + record.num_judged))
            record.share += rate * (is_right - record.share)
            record.num_judged += 1
        record.drafts = []
        return record

    def _length(self, record: _Record) -> int:
        best = max(range(self.most + 1), key=lambda k: self._gain(record.share, k))
        if best == 0:
            record.num_idle += 1
            return int(record.num_idle % self.probe_every == 0)
        record.num_idle = 0
        return best

    def _gain(self, share: float, length: int) -> float:
        """Tokens for the time of a step without drafts."""
        tokens = sum(share**i for i in range(length + 1))
        return tokens / (1.0 + self.cost * length + self.overhead * (length > 0))


class Speculation:
    """What the engine asks after each step: drafts for the sequences of the next one. No text needs
    them: a proposer that fails is asked no more."""

    def __init__(self, proposer: Proposer, lengths: AdaptiveLength | None = None) -> None:
        self._proposer: Proposer | None = proposer
        self._lengths = AdaptiveLength() if lengths is None else lengths

    def propose(self, sequences: Seq[Sequence]) -> None:
        """Sets their `drafts`, never more than there are tokens left to write."""
        if self._proposer is None:
            return
        try:
            self._propose(self._proposer, sequences)
        except Exception as error:
            self._switch_off(error)
            for sequence in sequences:
                sequence.drafts = []

    def forget(self, sequence: Sequence) -> None:
        self._lengths.forget(sequence)
        if self._proposer is None:
            return
        try:
            self._proposer.forget(sequence)
        except Exception as error:
            self._switch_off(error)

    def _propose(self, proposer: Proposer, sequences: Seq[Sequence]) -> None:
        lengths = self._lengths.lengths(sequences)
        room = [min(*each) for each in zip(lengths, map(_num_left, sequences), strict=True)]
        proposed = proposer.propose(sequences, room)
        for sequence, drafts in zip(sequences, proposed, strict=True):
            sequence.drafts = drafts
            self._lengths.note(sequence, drafts)

    def _switch_off(self, error: Exception) -> None:
        log.error("no more drafts are made: making them has failed", exc_info=error)
        self._proposer = None


def count_right(drafts: Seq[int], tokens: Seq[int]) -> int:
    """How many drafts foresaw the tokens that came, up to the first that did not."""
    pairs = enumerate(zip(drafts, tokens, strict=False))
    wrong = (i for i, (draft, token) in pairs if draft != token)
    return next(wrong, min(len(drafts), len(tokens)))


def _num_left(sequence: Sequence) -> int:
    """How many drafts of a sequence can be of use: its last token needs none."""
    return max(0, sequence.request.params.max_tokens - sequence.num_generated - 1)
