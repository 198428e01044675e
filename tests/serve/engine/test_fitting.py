"""What could never be computed is refused when it comes, with the number that is in its way."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pharos.core import SamplingParams
from pharos.serve.engine.fitting import refuse_unfit
from pharos.serve.engine.request import Kind, Request

ROOMY: dict[str, Any] = {"max_step": 1000, "max_len": None, "room": 1000}


def request(length: int, max_tokens: int = 1, kind: Kind = "generate") -> Request:
    params = SamplingParams(max_tokens=max_tokens)
    return Request(id="a", prompt=range(length), params=params, kind=kind)


def is_fit(asked: Request, **limits: Any) -> bool:
    try:
        refuse_unfit(asked, **ROOMY | limits)
    except ValueError:
        return False
    return True


@pytest.mark.parametrize(
    ("asked", "limits", "reason"),
    [
        (request(0), {}, "has no tokens; begin it with the model's bos token"),
        (request(0, kind="embed"), {}, "has no tokens"),
        (request(9, kind="embed"), {"max_step": 8},
         "a prompt of 9 tokens cannot be embedded in a step of 8; shorten it, or raise"),
        (request(9, kind="embed"), {"max_len": 8}, "a prompt of 9 tokens exceed the 8 tokens"),
        (request(6, 5), {"max_len": 10},
         "a prompt of 6 tokens and max_tokens 5 exceed the 10 tokens that the model reads"),
        (request(6, 5), {"room": 9}, "max_tokens 5 need more than the 9 tokens that the cache has"),
    ],
)  # fmt: skip
def test_the_reason_names_the_value_the_limit_and_the_way_out(
    asked: Request, limits: dict[str, Any], reason: str
) -> None:
    with pytest.raises(ValueError, match=reason):
        refuse_unfit(asked, **ROOMY | limits)


sizes = st.integers(1, 12)


@given(length=sizes, max_tokens=sizes, max_step=sizes, max_len=st.none() | sizes, room=sizes)
def test_a_text_fits_if_all_of_it_can_be_read_and_all_but_its_last_token_kept(
    length: int, max_tokens: int, max_step: int, max_len: int | None, room: int
) -> None:
    whole = length + max_tokens
    expected = (max_len is None or whole <= max_len) and whole - 1 <= room
    asked = request(length, max_tokens)
    assert is_fit(asked, max_step=max_step, max_len=max_len, room=room) == expected


@given(length=sizes, max_step=sizes, max_len=st.none() | sizes, room=sizes)
def test_what_is_embedded_fits_if_a_step_reads_it_whatever_the_cache_has_room_for(
    length: int, max_step: int, max_len: int | None, room: int
) -> None:
    expected = length <= max_step and (max_len is None or length <= max_len)
    asked = request(length, max_tokens=1000, kind="embed")
    assert is_fit(asked, max_step=max_step, max_len=max_len, room=room) == expected
