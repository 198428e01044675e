from hypothesis import given, settings
from hypothesis import strategies as st

from pharos.serve.stop_strings import StopStrings

TEXTS = st.text("ab", max_size=30)
STOPS = st.lists(st.text("ab", min_size=1, max_size=4), max_size=3)


def streamed(pieces: list[str], stop: list[str], *, include: bool = False) -> str:
    strings = StopStrings(stop, include=include)
    return "".join([strings.push(piece) for piece in pieces]) + strings.flush()


def cut(text: str, stop: list[str]) -> str:
    """What a stream ends as: at the piece that completes a stop string, before the first in it."""
    for end in range(len(text) + 1):
        found = [text[:end].find(s) for s in stop if s in text[:end]]
        if found:
            return text[: min(found)]
    return text


@settings(deadline=None)
@given(TEXTS, STOPS)
def test_a_text_ends_before_its_first_stop_string(text: str, stop: list[str]) -> None:
    assert streamed(list(text), stop) == cut(text, stop)


@settings(deadline=None)
@given(st.lists(TEXTS, max_size=6), STOPS, st.booleans())
def test_the_pieces_in_which_a_text_comes_do_not_matter(
    pieces: list[str], stop: list[str], include: bool
) -> None:
    alone = streamed(list("".join(pieces)), stop, include=include)
    assert streamed(pieces, stop, include=include) == alone


@settings(deadline=None)
@given(TEXTS, STOPS)
def test_a_stop_string_that_is_included_ends_the_text(text: str, stop: list[str]) -> None:
    strings = StopStrings(stop, include=True)
    passed = strings.push(text) + strings.flush()
    assert text.startswith(passed)
    assert passed.endswith(strings.stopped_by) if strings.stopped_by else passed == text


def test_of_stop_strings_that_end_together_the_longest_counts() -> None:
    strings = StopStrings(["d", "nd", "end"])
    assert strings.push("the end") == "the "
    assert strings.stopped_by == "end"


@settings(deadline=None)
@given(st.lists(TEXTS, max_size=6), STOPS)
def test_no_stop_string_is_ever_passed_on(pieces: list[str], stop: list[str]) -> None:
    passed = streamed(pieces, stop)
    assert not any(text in passed for text in stop)
    assert "".join(pieces).startswith(passed)


@settings(deadline=None)
@given(TEXTS, STOPS)
def test_nothing_is_held_back_that_could_not_begin_a_stop_string(
    text: str, stop: list[str]
) -> None:
    strings = StopStrings(stop)
    passed = strings.push(text)
    held = text[len(passed) :]
    assert strings.is_stopped or not held or any(s.startswith(held) for s in stop)
