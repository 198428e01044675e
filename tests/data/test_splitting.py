"""The arithmetic of cutting, on atoms made up of numbers."""

from itertools import accumulate, pairwise

from hypothesis import given
from hypothesis import strategies as st

from pharos.data.atoms import Atoms, Cut
from pharos.data.splitting import Splitter


def made_up(costs: list[int], cuts: list[int]) -> Atoms:
    sums = [0, *accumulate(costs)]
    return Atoms(sums, sums, sums, bytes([*cuts, Cut.SECTION]))  # type: ignore[arg-type]


@st.composite
def splitters(draw: st.DrawFn) -> Splitter:
    costs = draw(st.lists(st.integers(0, 12), min_size=1, max_size=200))
    cuts = draw(st.lists(st.integers(0, 6), min_size=len(costs), max_size=len(costs)))
    atoms = made_up(costs, cuts)
    size = draw(st.integers(10, 60))
    bounds = sorted(draw(st.sets(st.integers(0, len(costs)), max_size=8)))
    max_size = 2 * size
    return Splitter(
        atoms=atoms,
        size=size,
        overlap=draw(st.integers(0, size // 2)),
        slack=draw(st.sampled_from([0.0, 0.3, 1.0])),
        max_size=max_size,
        blocks=[
            block
            for block in zip(bounds[::2], bounds[1::2], strict=False)
            if atoms.cost[block[1]] - atoms.cost[block[0]] <= max_size
        ],
    )


@given(splitters())
def test_parts_cover_all_atoms_in_order_and_fit(splitter: Splitter) -> None:
    cost = splitter.atoms.cost
    last = len(cost) - 1
    parts = list(splitter.split(0, last))
    assert (parts[0][0], parts[-1][1]) == (0, last)
    for a, b in pairwise(parts):
        assert a[0] < b[0] <= a[1] < b[1]
    for a, b in parts:
        assert cost[b] - cost[a] <= splitter.max_size or b == a + 1


def test_a_part_ends_before_an_atom_that_is_larger_than_a_part() -> None:
    atoms = made_up([9, 12, 9], [0, 0, 0])
    splitter = Splitter(atoms=atoms, size=10, overlap=0, slack=0.0, max_size=20)
    assert list(splitter.split(0, 3)) == [(0, 1), (1, 2), (2, 3)]


@given(splitters())
def test_no_block_is_cut(splitter: Splitter) -> None:
    parts = list(splitter.split(0, len(splitter.atoms.cost) - 1))
    cuts = {end for _, end in parts[:-1]} | {start for start, _ in parts[1:]}
    for first, last in splitter.blocks:
        assert not any(first < cut < last for cut in cuts)


def test_parts_are_about_equal_and_share_what_they_should() -> None:
    splitter = Splitter(
        atoms=made_up([1] * 1000, [Cut.WORD] * 1000), size=300, overlap=60, slack=0.3
    )
    parts = list(splitter.split(0, 1000))
    assert [b - a for a, b in parts] == [295, 295, 295, 295]
    assert [a[1] - b[0] for a, b in pairwise(parts)] == [60, 60, 60]


def test_the_best_place_near_the_goal_wins() -> None:
    cuts = [Cut.WORD] * 100
    cuts[45] = Cut.SENTENCE
    cuts[57] = Cut.PARAGRAPH
    splitter = Splitter(atoms=made_up([1] * 100, cuts), size=60, overlap=0, slack=0)
    assert list(splitter.split(0, 100)) == [(0, 57), (57, 100)]
