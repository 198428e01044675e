import pytest
from hypothesis import given
from hypothesis import strategies as st

from pharos.core import SamplingParams
from pharos.serve.engine.available_blocks import AvailableBlocks
from pharos.serve.engine.block_pool import BlockPool
from pharos.serve.engine.plan import Move
from pharos.serve.engine.request import Request, Sequence


def sequence(
    prompt: list[int],
    *,
    arrival: int = 0,
    salt: str = "",
    adapter: str | None = None,
    generation: int = 0,
) -> Sequence:
    request = Request(
        id=str(arrival),
        prompt=prompt,
        params=SamplingParams(max_tokens=100),
        salt=salt,
        adapter=adapter,
    )
    return Sequence(request, arrival, list(prompt), generation=generation)


def read(pool: BlockPool, new: Sequence) -> Sequence:
    """Admit a sequence and compute all of its tokens but the last."""
    prefix = pool.match(new)
    pool.admit(new, prefix)
    start = len(prefix) * pool.block_size
    new.num_computed = len(new.tokens) - 1
    pool.publish(new, start)
    return new


# Sharing


def test_a_prompt_that_begins_like_another_shares_its_full_blocks() -> None:
    pool = BlockPool(10, 2)
    first = read(pool, sequence([1, 2, 3, 4, 5]))
    second = read(pool, sequence([1, 2, 3, 4, 6]))
    assert second.blocks[:2] == first.blocks[:2]
    assert second.blocks[2] != first.blocks[2]
    assert pool.num_used == 4
    pool.check([first, second])


def test_a_block_is_found_only_after_it_was_computed() -> None:
    pool = BlockPool(10, 2)
    first, second = sequence([1, 2, 3]), sequence([1, 2, 3])
    pool.admit(first, pool.match(first))
    assert pool.match(second) == []
    first.num_computed = 1
    pool.publish(first, 0)
    assert pool.match(second) == []
    first.num_computed = 2
    pool.publish(first, 1)
    assert pool.match(second) == first.blocks[:1]


def test_a_block_is_not_found_after_other_tokens() -> None:
    pool = BlockPool(10, 2)
    read(pool, sequence([1, 2, 3, 4, 5]))
    assert pool.match(sequence([9, 9, 3, 4, 5])) == []


@pytest.mark.parametrize("other", [{"salt": "b"}, {"adapter": "b"}, {"generation": 1}])
def test_tenants_adapters_and_their_generations_do_not_share(other: dict[str, object]) -> None:
    pool = BlockPool(10, 2)
    read(pool, sequence([1, 2, 3]))
    assert len(pool.match(sequence([1, 2, 3]))) == 1
    assert pool.match(sequence([1, 2, 3], **other)) == []  # type: ignore[arg-type]


def test_the_last_token_is_always_left_to_compute() -> None:
    pool = BlockPool(10, 2)
    read(pool, sequence([1, 2, 3, 4, 5]))
    assert len(pool.match(sequence([1, 2, 3, 4]))) == 1
    assert len(pool.match(sequence([1, 2]))) == 0
    assert len(pool.match(sequence([1, 2, 3, 4, 5]))) == 2


def test_of_equal_keys_for_other_tokens_nothing_is_shared() -> None:
    pool = BlockPool(10, 2)
    first = read(pool, sequence([1, 2, 3]))
    forged = sequence([8, 9, 3])
    forged.block_keys = list(first.block_keys)
    assert pool.match(forged) == []


def test_without_a_prefix_cache_nothing_is_kept() -> None:
    pool = BlockPool(10, 2, prefix_cache=False, num_host_blocks=4)
    pool.free(read(pool, sequence([1, 2, 3, 4, 5])))
    assert (pool.num_free, pool.num_cached, pool.host.num_blocks) == (10, 0, 0)
    assert pool.match(sequence([1, 2, 3, 4, 5])) == []


# Room


def test_what_ended_stays_to_be_found_until_the_room_is_needed() -> None:
    pool = BlockPool(3, 2)
    first = read(pool, sequence([1, 2, 3, 4, 5]))
    pool.free(first)
    assert (pool.num_free, pool.num_cached) == (1, 2)
    assert len(pool.match(sequence([1, 2, 3, 4, 5]))) == 2
    read(pool, sequence([7, 7, 7]))
    assert len(pool.match(sequence([1, 2, 3, 4, 5]))) == 1, "the end of a prefix goes first"


def test_cached_blocks_that_are_to_be_shared_are_not_counted_as_room_twice() -> None:
    pool = BlockPool(3, 2)
    pool.free(read(pool, sequence([1, 2, 3, 4, 5])))
    new = sequence([1, 2, 3, 4, 5, 6, 7])
    assert pool.num_needed(new, pool.match(new)) == 4 > pool.num_available


def test_a_pool_without_blocks_is_refused() -> None:
    with pytest.raises(ValueError, match="0 blocks of 16 tokens"):
        BlockPool(0, 16)


def test_a_sequence_that_grows_beside_others_has_its_blocks_in_a_row() -> None:
    pool = BlockPool(640, 16)
    sequences = [read(pool, sequence([number] * 16, arrival=number)) for number in range(20)]
    for num_tokens in range(16, 160):
        for each in sequences:
            pool.grow(each, num_tokens)
    for each in sequences:
        assert each.blocks == list(range(each.blocks[0], each.blocks[0] + 10))


# The host's memory


def test_what_had_to_leave_the_device_comes_back_from_the_host() -> None:
    pool = BlockPool(3, 2, num_host_blocks=4)
    first = read(pool, sequence([1, 2, 3, 4, 5]))
    second_block, first_block = first.blocks[1], first.blocks[0]
    pool.free(first)
    other = read(pool, sequence([7, 7, 7, 7, 7]))
    assert pool.take_moves() == [Move("out", second_block, 0), Move("out", first_block, 1)]
    pool.host.release()
    pool.free(other)
    again = sequence([1, 2, 3, 4, 5])
    assert pool.match(again) == [None, None]
    read(pool, again)
    moves = pool.take_moves()
    assert [m for m in moves if m.direction == "in"] == [
        Move("in", again.blocks[0], 1),
        Move("in", again.blocks[1], 0),
    ]
    pool.check([again])


def test_what_is_on_the_host_already_is_not_copied_again() -> None:
    pool = BlockPool(2, 2, num_host_blocks=4)
    for prompt in ([1, 2, 3], [7, 7, 7], [1, 2, 3]):
        pool.free(read(pool, sequence(prompt)))
        pool.host.release()
    assert [move.direction for move in pool.take_moves()] == ["out", "in", "out"]
    read(pool, sequence([8, 8, 8]))
    assert pool.take_moves() == []


def test_a_copy_that_a_step_reads_is_not_overwritten_in_it() -> None:
    pool = BlockPool(2, 2, num_host_blocks=1)
    pool.free(read(pool, sequence([1, 2, 3])))
    pool.free(read(pool, sequence([7, 7, 7])))
    pool.host.release()
    pool.take_moves()
    again = sequence([1, 2, 3])
    assert pool.match(again) == [None]
    read(pool, again)
    assert [move.direction for move in pool.take_moves()] == ["in"]


def test_after_a_failure_nothing_is_found() -> None:
    pool = BlockPool(4, 2, num_host_blocks=4)
    held = read(pool, sequence([1, 2, 3]))
    pool.free(read(pool, sequence([7, 7, 7])))
    pool.clear()
    assert pool.match(sequence([1, 2, 3])) == pool.match(sequence([7, 7, 7])) == []
    assert (pool.num_used, pool.num_free, pool.num_cached) == (2, 2, 0)
    pool.check([held])


# Which block is next


@given(
    num_blocks=st.integers(1, 20),
    group_size=st.integers(1, 6),
    choices=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 30)), max_size=60),
)
def test_every_block_can_be_had_and_none_twice(
    num_blocks: int, group_size: int, choices: list[tuple[int, int]]
) -> None:
    available = AvailableBlocks(num_blocks, group_size)
    used: list[int] = []
    for choice, number in choices:
        if choice < 2 and len(available):
            after = used[number % len(used)] if used else None
            block, emptied = available.take(after, 1 + number % 5)
            assert block not in used
            assert all(other == block or other in available.free for other in emptied)
            used.append(block)
        elif choice >= 2 and used:
            available.give(used.pop(number % len(used)), is_cached=choice == 3)
        assert sorted([*available.free, *available.cached, *used]) == list(range(num_blocks))
        available.check()
    available.forget_cached()
    available.check()
    while len(available):
        used.append(available.take(None)[0])
    assert sorted(used) == list(range(num_blocks))


def test_in_a_full_pool_what_is_long_fills_a_gap_and_what_is_short_leaves_room_to_grow() -> None:
    available = AvailableBlocks(16, 8)
    for _ in range(16):
        available.take(None)
    for block in range(2, 8):
        available.give(block, is_cached=False)
    assert available.take(None, 1) == (4, [])
    available.give(4, is_cached=False)
    assert available.take(None, 6) == (2, [])


def test_what_holds_nothing_is_taken_before_what_is_cached() -> None:
    available = AvailableBlocks(8, 2)
    for _ in range(8):
        available.take(None)
    available.give(0, is_cached=True)
    available.give(1, is_cached=True)
    available.give(4, is_cached=False)
    available.give(5, is_cached=False)
    assert [available.take(None)[0], available.take(4)[0]] == [4, 5]
    assert available.take(None) == (0, [0, 1])
