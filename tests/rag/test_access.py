import pytest
from hypothesis import given
from hypothesis import strategies as st

from pharos.rag.access import groups_of, readable, reader_set

names = st.text(min_size=1).filter(lambda name: name.strip())
group_sets = st.frozensets(names, min_size=1, max_size=5)


def test_the_name_of_a_set_does_not_depend_on_order_or_repetition() -> None:
    assert reader_set(["hr", "board", "hr"]) == reader_set(("board", "hr"))


@given(group_sets)
def test_a_set_is_read_back_as_it_was_named(groups: frozenset[str]) -> None:
    assert set(groups_of(reader_set(groups))) == {name.strip() for name in groups}


@given(st.lists(group_sets, max_size=6), group_sets)
def test_exactly_the_sets_that_meet_the_asker_are_readable(
    sets: list[frozenset[str]], asker: frozenset[str]
) -> None:
    stripped = {name.strip() for name in asker}
    named = {reader_set(groups): {name.strip() for name in groups} for groups in sets}
    assert set(readable(named, asker)) == {n for n, groups in named.items() if groups & stripped}


@pytest.mark.parametrize("groups", [[], [""], ["hr", " "]])
def test_an_empty_set_or_a_blank_name_is_refused(groups: list[str]) -> None:
    with pytest.raises(ValueError, match="at least one group"):
        reader_set(groups)


def test_a_text_in_place_of_a_list_is_refused() -> None:
    with pytest.raises(ValueError, match="pass a list"):
        reader_set("public")
