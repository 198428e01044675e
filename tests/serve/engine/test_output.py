from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from pharos.core import SamplingParams
from pharos.data.tokenizer import Tokenizer
from pharos.serve.engine.output import OutputWriter
from pharos.serve.engine.request import Output, Request, Token

EOS = 1
TEXT = "The keeper’s gulls 🧑‍🚀 fly to ประเทศไทย and 東京, née 1️⃣."
PIECES = ["gull", "é", "🧑‍🚀", "ไทย", "東", "�", " the", "keeper"]


@pytest.fixture(scope="module")
def tokenizer(llama_folder: Path) -> Tokenizer:
    """Byte-level, of 320 tokens: a character that it does not know takes several."""
    return Tokenizer.load(llama_folder)


def writer_for(tokenizer: Tokenizer | None, **values: Any) -> OutputWriter:
    params = SamplingParams(**{"max_tokens": 1000} | values)
    request = Request(id="r", prompt=[5, 6, 7], params=params, eos_ids=frozenset({EOS}))
    return OutputWriter(request, tokenizer)


def outputs_of(writer: OutputWriter, ids: Iterable[int]) -> list[Output]:
    """Pushes until the text has ended; `max_tokens` stands for the end of the ids."""
    outputs = []
    for id_ in ids:
        writer.push(Token(id=id_))
        if (output := writer.take()) is not None:
            outputs.append(output)
        if writer.finish_reason is not None:
            return outputs
    writer.finish("length")
    last = writer.take()
    assert last is not None
    return [*outputs, last]


def text_of(outputs: Sequence[Output]) -> str:
    return "".join(output.text for output in outputs)


def ids_of(outputs: Sequence[Output]) -> list[int]:
    return [token.id for output in outputs for token in output.tokens]


# Texts


@settings(deadline=None)
@given(st.lists(st.integers(2, 319), max_size=40))
def test_whatever_tokens_come_the_pieces_add_up_to_their_text(
    tokenizer: Tokenizer, ids: list[int]
) -> None:
    outputs = outputs_of(writer_for(tokenizer), ids)
    assert text_of(outputs) == tokenizer.decode(ids)
    assert ids_of(outputs) == ids


@settings(deadline=None)
@given(st.lists(st.one_of(st.text(max_size=8), st.sampled_from(PIECES)), max_size=8))
def test_any_text_comes_out_as_it_is(tokenizer: Tokenizer, pieces: list[str]) -> None:
    ids = tokenizer.encode("".join(pieces))
    assert text_of(outputs_of(writer_for(tokenizer), ids)) == tokenizer.decode(ids)


def test_a_character_is_not_told_before_it_is_whole(tokenizer: Tokenizer) -> None:
    outputs = outputs_of(writer_for(tokenizer), tokenizer.encode(TEXT))
    assert "\ufffd" not in text_of(outputs)
    assert all(output.text for output in outputs[:-1]), "tokens come with their text"


def test_without_a_tokenizer_tokens_come_at_once() -> None:
    outputs = outputs_of(writer_for(None), [9, 8])
    assert [ids_of([output]) for output in outputs] == [[9], [8], []]
    assert text_of(outputs) == ""


# Stop strings


def expected(text: str, stop: str, *, include: bool) -> str:
    return text[: text.index(stop) + len(stop) * include]


@pytest.mark.parametrize("include", [False, True])
@pytest.mark.parametrize("size", [1, 3, 9])
def test_a_text_ends_at_a_stop_string_wherever_that_is(
    tokenizer: Tokenizer, size: int, include: bool
) -> None:
    ids = tokenizer.encode(TEXT)
    for start in range(len(TEXT)):
        stop = TEXT[start : start + size]
        outputs = outputs_of(writer_for(tokenizer, stop=[stop], include_stop=include), ids)
        assert text_of(outputs) == expected(TEXT, stop, include=include)
        assert outputs[-1].finish_reason == "stop"
        assert outputs[-1].stopped_by == stop


@settings(deadline=None)
@given(st.data())
def test_nothing_beyond_a_stop_string_is_told(tokenizer: Tokenizer, data: st.DataObject) -> None:
    ids = tokenizer.encode(TEXT)
    start = data.draw(st.integers(0, len(TEXT) - 1))
    stop = TEXT[start : start + data.draw(st.integers(1, 12))]
    outputs = outputs_of(writer_for(tokenizer, stop=[stop, "never"]), ids)
    told, before = ids_of(outputs), TEXT[: TEXT.index(stop)]
    assert told == ids[: len(told)]
    assert tokenizer.decode(told).removesuffix("\ufffd").startswith(before)
    needed = [n for n in range(len(ids) + 1) if tokenizer.decode(ids[:n]).startswith(before)]
    assert len(told) == needed[0], "a token more tells what comes after"


def test_the_tokens_of_text_that_is_held_back_are_held_back_too(tokenizer: Tokenizer) -> None:
    writer = writer_for(tokenizer, stop=["gulls!"])
    told = []
    for id_ in tokenizer.encode("The gulls"):
        writer.push(Token(id=id_))
        told += [] if (output := writer.take()) is None else [output]
    assert text_of(told) == "The "
    assert tokenizer.decode(ids_of(told)).rstrip() == "The"
    writer.finish("length")
    rest = writer.take()
    assert rest is not None and text_of([*told, rest]) == "The gulls"
    assert ids_of([*told, rest]) == tokenizer.encode("The gulls")


@settings(deadline=None)
@given(st.data())
def test_a_stop_string_within_min_tokens_does_not_end_a_text(
    tokenizer: Tokenizer, data: st.DataObject
) -> None:
    ids = tokenizer.encode(TEXT)
    least = data.draw(st.integers(1, len(ids) - 1))
    stop = data.draw(st.sampled_from(["e", "g", "l", "東京"]))
    outputs = outputs_of(writer_for(tokenizer, stop=[stop], min_tokens=least), ids)
    assert outputs[-1].num_generated > least or outputs[-1].finish_reason == "length"
    first = tokenizer.decode(ids[:least]).rstrip("\ufffd")
    assert text_of(outputs).startswith(first)
    assume(stop in TEXT[len(first) :])
    assert text_of(outputs) == first + TEXT[len(first) :].partition(stop)[0]


# Ends


def test_an_end_token_is_not_of_the_text_but_says_that_it_has_ended(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("gulls")
    outputs = outputs_of(writer_for(tokenizer), [*ids, EOS, *ids])
    assert (text_of(outputs), ids_of(outputs)) == ("gulls", ids)
    assert (outputs[-1].finish_reason, outputs[-1].stopped_by) == ("stop", EOS)
    assert outputs[-1].num_generated == len(ids) + 1


def test_an_end_token_is_told_if_it_is_to_be(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("gulls")
    (stop,) = tokenizer.encode("e")
    writer = writer_for(tokenizer, stop_token_ids=[stop], include_stop=True)
    outputs = outputs_of(writer, [*ids, stop, *ids])
    assert (text_of(outputs), ids_of(outputs)) == ("gullse", [*ids, stop])
    assert outputs[-1].stopped_by == stop


def test_an_end_token_that_is_ignored_is_one_like_others(tokenizer: Tokenizer) -> None:
    outputs = outputs_of(writer_for(tokenizer, ignore_eos=True, max_tokens=3), [5, EOS, 6, 7])
    assert ids_of(outputs) == [5, EOS, 6]
    assert outputs[-1].finish_reason == "length"


def test_what_was_held_back_comes_when_a_text_ends_otherwise(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("The gu")
    for end in ([EOS], []):
        outputs = outputs_of(writer_for(tokenizer, stop=["gulls"]), [*ids, *end])
        assert (text_of(outputs), ids_of(outputs)) == ("The gu", ids)


def test_there_is_no_news_while_all_is_held_back(tokenizer: Tokenizer) -> None:
    writer = writer_for(tokenizer, stop=["gulls"])
    assert writer.take() is None
    writer.push(Token(id=tokenizer.encode("g")[0]))
    assert writer.take() is None
