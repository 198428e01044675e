from hypothesis import given
from hypothesis import strategies as st

from pharos.rag.terms import names_of, stem, terms, unmentioned


def test_inflections_of_a_word_meet() -> None:
    for words in ("creates created creating create", "families family", "stopped stopping stops"):
        assert len(set(terms(words))) == 1


def test_words_that_only_look_inflected_stay_as_they_are() -> None:
    assert terms("process status analysis thing bus") == [
        "process",
        "status",
        "analysis",
        "thing",
        "bus",
    ]


def test_function_words_say_nothing_and_numbers_do() -> None:
    assert terms("What is the size of it?") == ["siz"]
    assert terms("1,000.5 or 3.11") == ["1000.5", "3.11"]


def test_identifiers_are_their_parts() -> None:
    assert terms("max_tokens __enter__") == ["max", "token", "enter"]


@given(st.text())
def test_terms_do_not_depend_on_case(text: str) -> None:
    assert terms(text) == terms(text.casefold())


@given(st.text(alphabet="abcdefgilnorstuy", min_size=1))
def test_stemming_keeps_something_of_every_word(word: str) -> None:
    assert stem(word)
    assert word.startswith(stem(word)[:-1])


def test_names_are_what_cannot_be_said_in_other_words() -> None:
    assert names_of("Where did Ada Lovelace call `open_file`, or getValue?") == {
        "ada",
        "lovelac",
        "open",
        "fil",
        "getvalu",
    }


def test_a_capital_within_a_word_tells_a_name() -> None:
    assert names_of("getValue, eXtra, x2Y but neither word_two nor word2") == {
        "getvalu",
        "extra",
        "x2y",
    }


def test_a_word_of_any_length_is_searched_for_names_in_one_pass() -> None:
    """Quadratic work on so long a word would take hours."""
    assert names_of("a" * 1_000_000) == set()
    assert names_of("aA" * 500_000) == {"a" * 1_000_000}
    assert names_of("A" * 1_000_000) == set()
    assert names_of("_" * 1_000_000) == set()


def test_a_name_may_be_inflected_but_not_another_one() -> None:
    assert unmentioned({"canadian"}, "a lake in Canada") == set()
    assert unmentioned({"austria"}, "a lake in Australia") == {"austria"}
    assert unmentioned({"iran"}, "a lake in Iraq") == {"iran"}
