"""Who holds which block of the key-value cache: ids, reference counts, and what blocks hold.

The cache is cut into blocks of `block_size` tokens (Kwon et al. 2023, arXiv:2309.06180). A block is

    free    it holds nothing that anybody could want
    used    at least one sequence has it in its table
    cached  nobody uses it, but it still holds a prefix that a request may ask for again

Only full blocks whose keys and values are computed are published under their key (`block_keys`),
and only published blocks are shared; nobody writes to them any more. So the block that a sequence
writes to is always its own, and nothing is ever copied on write.

Whoever needs a block gets a free one, or else a cached one that was given back long ago
(`AvailableBlocks`). Before that is overwritten it is copied to the host's memory (`HostTier`), if
there is any, and comes back from there when a prefix is asked for that begins so. That is also how
a sequence that is preempted moves out and in: it gives its blocks back, like one that has ended,
and what was not needed meanwhile is found where it was. Whether a copy is made and fetched, or what
it holds is computed again, is a matter of which is faster on this machine (`Pace`).

Blocks are given back last first: the end of a prefix, of use to fewest, goes first.
"""

from collections import Counter
from collections.abc import Iterable
from collections.abc import Sequence as Seq

from pharos.serve.engine.available_blocks import AvailableBlocks
from pharos.serve.engine.block_keys import extend_keys
from pharos.serve.engine.host_tier import HostTier
from pharos.serve.engine.pace import Pace
from pharos.serve.engine.plan import Move
from pharos.serve.engine.request import Sequence

GROUP_TOKENS = 256
"""Attention over so many at a time costs little more than over all at once."""
LEAST_GROUPS = 64
Prefix = Seq[int | None]
"""The blocks that hold how a sequence begins: on the device, or None where it is a copy on the host
that must be fetched."""


class BlockPool:
    """`moves` collects the copies that what was handed out makes necessary, in order; the
    scheduler takes them into its plan. `pace` decides about them: whoever carries them out tells it
    how long that took."""

    def __init__(
        self,
        num_blocks: int,
        block_size: int,
        *,
        num_host_blocks: int = 0,
        prefix_cache: bool = True,
    ) -> None:
        if num_blocks < 1 or block_size < 1 or num_host_blocks < 0:
            raise ValueError(
                f"{num_blocks} blocks of {block_size} tokens, {num_host_blocks} on the host: there "
                "must be at least 1 block of 1 token, and 0 on the host"
            )
        self.num_blocks = num_blocks
        self.block_size = block_size
        self.prefix_cache = prefix_cache
        self.host = HostTier(num_host_blocks if prefix_cache else 0)
        self.pace = Pace(block_size)
        self.moves: list[Move] = []
        self._available = AvailableBlocks(num_blocks, _group_size(num_blocks, block_size))
        self._references = [0] * num_blocks
        self._keys: list[bytes | None] = [None] * num_blocks
        self._tokens: list[tuple[int, ...]] = [()] * num_blocks
        self._published: dict[bytes, int] = {}

    @property
    def num_free(self) -> int:
        return len(self._available.free)

    @property
    def num_cached(self) -> int:
        return len(self._available.cached)

    @property
    def num_used(self) -> int:
        return self.num_blocks - len(self._available)

    @property
    def num_available(self) -> int:
        """Blocks that can be handed out now."""
        return len(self._available)

    def blocks_for(self, num_tokens: int) -> int:
        return -(-num_tokens // self.block_size)

    def match(self, sequence: Sequence) -> Prefix:
        """How much of a sequence is kept already, as far as it pays to take it. At least its last
        token is left to compute, for there would be no logits otherwise."""
        if not self.prefix_cache or sequence.request.kind == "embed":
            return []
        count = (len(sequence.tokens) - 1) // self.block_size
        extend_keys(sequence, self.block_size, count)
        blocks: list[int | None] = []
        for index, key in enumerate(sequence.block_keys[:count]):
            tokens = self._tokens_of(sequence, index)
            block = self._published.get(key)
            if block is not None and self._tokens[block] == tokens:
                blocks.append(block)
            elif self.host.find(key, tokens) is not None:
                blocks.append(None)
            else:
                break
        return blocks[: self.pace.num_worth([block is None for block in blocks])]

    def num_needed(self, sequence: Sequence, prefix: Prefix) -> int:
        """Of the available blocks, those that `admit` would take."""
        in_use = sum(block is not None and self._references[block] > 0 for block in prefix)
        return self.blocks_for(len(sequence.tokens)) - in_use

    def num_freed(self, sequences: Iterable[Sequence], prefix: Prefix) -> int:
        """How many blocks beside those of `prefix` nobody uses without these sequences."""
        held = Counter(block for sequence in sequences for block in sequence.blocks)
        freed = {block for block, count in held.items() if count == self._references[block]}
        return len(freed.difference(prefix))

    def admit(self, sequence: Sequence, prefix: Prefix) -> None:
        """Gives a sequence the blocks of all its tokens, the first of them those of `prefix`."""
        assert not sequence.blocks and self.num_needed(sequence, prefix) <= self.num_available
        copies = {
            index: self.host.read(sequence.block_keys[index])
            for index, block in enumerate(prefix)
            if block is None
        }
        for block in prefix:
            if block is not None:
                self._share(block)
        for index, block in enumerate(prefix):
            taken = self._fetch(copies[index], sequence, index) if block is None else block
            sequence.blocks.append(taken)
        self.grow(sequence, len(sequence.tokens))

    def grow(self, sequence: Sequence, num_tokens: int) -> None:
        """Makes room for `num_tokens` tokens in all."""
        for wanted in range(self.blocks_for(num_tokens) - len(sequence.blocks), 0, -1):
            sequence.blocks.append(self._allocate(sequence, wanted))

    def publish(self, sequence: Sequence, start: int) -> None:
        """Lets others share the blocks that were filled by computing the tokens from `start` to
        `num_computed`. Where another block is published under the same key, that one stays."""
        filled = range(start // self.block_size, sequence.num_computed // self.block_size)
        if not (self.prefix_cache and filled):
            return
        extend_keys(sequence, self.block_size, filled.stop)
        for index in filled:
            self._publish(sequence.blocks[index], sequence, index)

    def free(self, sequence: Sequence) -> None:
        """Takes a sequence's blocks back; what is published of them stays to be found."""
        for block in reversed(sequence.blocks):
            self._references[block] -= 1
            if self._references[block] == 0:
                self._available.give(block, is_cached=self._keys[block] is not None)
        sequence.blocks.clear()

    def take_moves(self) -> list[Move]:
        """The moves since the last call."""
        moves, self.moves = self.moves, []
        return moves

    def clear(self) -> None:
        """Forgets what blocks hold, here and on the host. Sequences keep theirs."""
        self._available.forget_cached()
        self._published.clear()
        self._keys = [None] * self.num_blocks
        self.host.clear()

    def check(self, sequences: Iterable[Sequence]) -> None:
        """Asserts that the blocks add up, given all sequences that have any."""
        held = Counter(block for sequence in sequences for block in sequence.blocks)
        assert held == Counter({b: n for b, n in enumerate(self._references) if n}), (
            "reference counts differ from the sequences' tables"
        )
        available = self._available
        ids = [*available.free, *available.cached, *held]
        assert sorted(ids) == list(range(self.num_blocks)), "a block is lost, or there twice"
        published = {key: b for b, key in enumerate(self._keys) if key is not None}
        assert published == self._published, "a block is not found under its key"
        assert all(self._keys[block] is not None for block in available.cached)
        assert all(self._keys[block] is None for block in available.free)
        available.check()
        self.host.check()

    def is_writable(self, block: int) -> bool:
        return self._references[block] == 1 and self._keys[block] is None

    def _tokens_of(self, sequence: Sequence, index: int) -> tuple[int, ...]:
        return tuple(sequence.tokens[index * self.block_size : (index + 1) * self.block_size])

    def _share(self, block: int) -> None:
        if self._references[block] == 0:
            self._available.remove(block)
        self._references[block] += 1

    def _fetch(self, copy: int, sequence: Sequence, index: int) -> int:
        """A block that the copy on the host is moved to."""
        block = self._allocate(sequence)
        self.moves.append(Move("in", block, copy))
        self._publish(block, sequence, index)
        return block

    def _publish(self, block: int, sequence: Sequence, index: int) -> None:
        key = sequence.block_keys[index]
        if key not in self._published:
            self._published[key] = block
            self._keys[block] = key
            self._tokens[block] = self._tokens_of(sequence, index)

    def _allocate(self, sequence: Sequence, wanted: int = 1) -> int:
        after = sequence.blocks[-1] if sequence.blocks else None
        block, emptied = self._available.take(after, wanted)
        for other in emptied:
            self._move_out(other)
        self._references[block] = 1
        return block

    def _move_out(self, block: int) -> None:
        key = self._keys[block]
        assert key is not None
        copy = self.host.write(key, self._tokens[block]) if self.pace.pays_to_keep() else None
        if copy is not None:
            self.moves.append(Move("out", block, copy))
        del self._published[key]
        self._keys[block] = None


def _group_size(num_blocks: int, block_size: int) -> int:
    """In a small pool groups are small: a sequence should not take much more than it needs."""
    return max(1, min(GROUP_TOKENS // block_size, num_blocks // LEAST_GROUPS))
