import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pharos.ops import mean_pool, pack
from pharos.ops.packing import pack_padded, tighten

lengths = st.lists(st.integers(1, 40), min_size=1, max_size=12)


@settings(deadline=None)
@given(lengths, st.integers(1, 20))
def test_every_token_is_in_the_batch_once_and_in_order(lengths: list[int], multiple: int) -> None:
    texts = [[100 * i + j for j in range(length)] for i, length in enumerate(lengths, start=1)]
    batch = pack(texts, multiple=multiple)
    tokens = batch.ids[batch.ids > 0].tolist()
    assert tokens == [token for text in texts for token in text]


@settings(deadline=None)
@given(lengths, st.integers(1, 20))
def test_runs_cover_the_rows_and_pad_less_than_the_multiple(
    lengths: list[int], multiple: int
) -> None:
    batch = pack([[1] * length for length in lengths], multiple=multiple)
    assert [run.rows.start for run in batch.runs[1:]] == [run.rows.stop for run in batch.runs[:-1]]
    assert batch.runs[-1].rows.stop == len(batch.ids) == len(batch.positions)
    padded = [run.length for run in batch.runs for _ in range(run.texts)]
    assert all(0 <= p - length < multiple for p, length in zip(padded, lengths, strict=True))


def test_a_run_without_padding_has_no_mask() -> None:
    full, padded = pack([[1] * 32, [1] * 32, [1] * 3]).runs
    assert full.mask is None
    assert padded.mask is not None
    assert padded.mask.tolist() == [[True] * 3 + [False] * 13]


def test_positions_count_from_zero_in_every_text_and_padding_asks_for_no_other() -> None:
    assert pack([[7, 8, 9], [5]], multiple=4).positions.tolist() == [0, 1, 2, 0, 0, 0, 0, 0]


def test_a_padded_batch_is_a_single_run_in_the_same_order() -> None:
    ids_BT, valid_BT = torch.tensor([[3, 4], [5, 0]]), torch.tensor([[1, 1], [1, 0]])
    types_BT = torch.tensor([[0, 1], [0, 0]])
    batch = pack_padded(ids_BT, torch.arange(2), valid_BT=valid_BT, token_types_BT=types_BT)
    assert batch.ids.tolist() == [3, 4, 5, 0]
    assert batch.positions.tolist() == [0, 1, 0, 1]
    assert batch.token_types is not None and batch.token_types.tolist() == [0, 1, 0, 0]
    (run,) = batch.runs
    assert (run.rows, run.texts, run.length) == (slice(0, 4), 2, 2)
    assert run.mask is not None and run.mask.tolist() == [[True, True], [True, False]]


@settings(deadline=None)
@given(lengths)
def test_the_mean_is_over_tokens_and_never_over_padding(lengths: list[int]) -> None:
    batch = pack([[1] * length for length in lengths])
    x_ND = torch.where(batch.ids[:, None] > 0, batch.positions[:, None].double(), torch.nan)
    means = mean_pool(x_ND, batch.runs).squeeze(1)
    torch.testing.assert_close(means, torch.tensor([(length - 1) / 2 for length in lengths]))


def test_a_padded_batch_loses_its_padding_and_nothing_else() -> None:
    lengths = [3, 40, 17, 33, 40]
    valid_BT = torch.arange(40) < torch.tensor(lengths)[:, None]
    ids_BT = torch.randint(1, 100, (5, 40))
    tight, rows_N = tighten(pack_padded(ids_BT, torch.arange(40), valid_BT=valid_BT))
    assert [(run.texts, run.length) for run in tight.runs] == [(3, 40), (1, 32), (1, 16)]
    assert sorted(rows_N[tight.is_token].tolist()) == valid_BT.flatten().nonzero()[:, 0].tolist()
    assert torch.equal(tight.ids, ids_BT.flatten()[rows_N])
    assert torch.equal(tight.positions, rows_N % 40)


def test_padding_on_the_left_stays() -> None:
    valid_BT = torch.tensor([[False, True, True], [True, True, True]])
    batch = pack_padded(torch.ones(2, 3, dtype=torch.long), torch.arange(3), valid_BT=valid_BT)
    assert tighten(batch)[0] is batch
