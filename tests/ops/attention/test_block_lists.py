import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mask_strategies import masks

from pharos.ops.attention.block_lists import BlockLists, Grid, plan_blocks
from pharos.ops.masks import Causal, Mask, Window


def allowed_pairs(
    lists: BlockLists, masks_XQC: torch.Tensor, row: int, num_blocks: int
) -> torch.Tensor:
    """What a kernel sees of one row of blocks: `[num_blocks, Q, C]`."""
    seen = torch.zeros(num_blocks, *masks_XQC.shape[1:], dtype=torch.uint8)
    for block in lists.full_blocks[lists.full_starts[row] : lists.full_starts[row + 1]].tolist():
        seen[block] = 1
    entries = slice(int(lists.partial_starts[row]), int(lists.partial_starts[row + 1]))
    blocks, tiles = lists.partial_blocks[entries], lists.partial_tiles[entries]
    for block, tile in zip(blocks.tolist(), tiles.tolist(), strict=True):
        seen[block] = masks_XQC[tile]
    return seen


@settings(deadline=None, max_examples=60)
@given(
    mask=masks(sequences=2, heads=3, length=70),
    block=st.tuples(st.integers(3, 20), st.integers(3, 20)),
    q_start=st.integers(0, 40),
    num_keys=st.integers(1, 70),
)
def test_the_lists_say_what_the_mask_says(
    mask: Mask, block: tuple[int, int], q_start: int, num_keys: int
) -> None:
    num_queries = 70 - q_start
    grid = Grid(q_start, num_queries, num_keys, block, torch.device("cpu"))
    plan = plan_blocks(mask, grid)
    num_rows, num_columns = len(grid.query_blocks.first), len(grid.key_blocks.first)
    q_T, k_S = torch.arange(q_start, 70), torch.arange(num_keys)
    expected_BHTS = mask.allows(q_T, k_S).expand(plan.num_sequences, plan.num_heads, -1, -1)
    for sequence in range(plan.num_sequences):
        for head in range(plan.num_heads):
            first = (sequence * plan.num_heads + head) * num_rows
            rows = [
                allowed_pairs(plan.of_queries, plan.masks_XQC, first + row, num_columns)
                for row in range(num_rows)
            ]
            seen_TS = torch.stack(rows).permute(0, 2, 1, 3).flatten(2).flatten(0, 1)
            expected_TS = expected_BHTS[sequence, head].to(torch.uint8)
            assert torch.equal(seen_TS[:num_queries, :num_keys], expected_TS)
            first = (sequence * plan.num_heads + head) * num_columns
            columns = [
                allowed_pairs(plan.of_keys, plan.masks_XQC, first + column, num_rows)
                for column in range(num_columns)
            ]
            seen_TS = torch.stack(columns).permute(1, 2, 0, 3).flatten(2).flatten(0, 1)
            assert torch.equal(seen_TS[:num_queries, :num_keys], expected_TS)


def test_blocks_equally_far_apart_share_a_mask() -> None:
    grid = Grid(0, 1024, 1024, (32, 32), torch.device("cpu"))
    plan = plan_blocks(Causal() & Window(100), grid)
    assert len(plan.of_queries.partial_blocks) > 80
    assert len(plan.masks_XQC) <= 4
