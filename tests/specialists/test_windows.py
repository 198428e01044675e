from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pharos.core import ModelError
from pharos.data.tokenizer import Tokenizer
from pharos.specialists.windows import Pairs, best_of, cut, rarest_shared


@given(st.integers(0, 400), st.integers(16, 128), st.integers(0, 7))
def test_windows_cover_a_text_and_are_all_as_long_as_they_can_be(
    num_tokens: int, room: int, stride: int
) -> None:
    windows = cut(num_tokens, room, stride)
    assert windows[0].start == 0
    assert windows[-1].stop == num_tokens
    assert {w.stop - w.start for w in windows} == {min(room, num_tokens)}
    for one, other in pairwise(windows):
        assert one.start < other.start <= one.stop - stride


@given(st.lists(st.integers(0, 5), max_size=30), st.integers(1, 30), st.randoms())
def test_every_text_has_its_best_window_read(owners: list[int], at_most: int, draw) -> None:
    scores = np.array([draw.random() for _ in owners])
    chosen = best_of(owners, scores, at_most)
    assert chosen == sorted(set(chosen))
    assert len(chosen) == min(max(at_most, len(set(owners))), len(owners))
    for owner in set(owners):
        own = [i for i, of in enumerate(owners) if of == owner]
        assert max(own, key=lambda i: scores[i]) in chosen


def test_a_rare_word_of_the_question_says_more_than_a_common_one() -> None:
    windows = [np.array([1, 2]), np.array([1, 3]), np.array([1, 4])]
    shares = rarest_shared(np.array([1, 2]), windows)
    assert shares[0] == pytest.approx(1.0)
    assert shares[0] > 2 * shares[1] > 0.0


def test_pairs_are_framed_as_the_tokenizer_does_it(tokenizer: Tokenizer) -> None:
    pairs = Pairs(tokenizer)
    first, second = pairs.tokens(["who sees ships ?", "the keeper"])
    row = pairs.pair("lane", first.ids.tolist(), second.ids.tolist())
    wanted = tokenizer.backend.encode("who sees ships ?", "the keeper")
    assert row.ids == wanted.ids
    assert row.token_types == wanted.type_ids
    assert pairs.single("lane", first.ids.tolist()).ids == tokenizer.encode("who sees ships ?")


def test_tokens_have_their_places(tokenizer: Tokenizer) -> None:
    text = "the keeper's gulls"
    (tokens,) = Pairs(tokenizer).tokens([text])
    assert [text[start:end] for start, end in tokens.places] == ["the", "keeper", "'", "s", "gulls"]
    assert len(set(tokens.word.tolist())) == 5


def test_a_tokenizer_without_special_tokens_is_refused(base: Path) -> None:
    with pytest.raises(ModelError, match="names no cls token, which pairs of texts need"):
        Pairs(Tokenizer(Tokenizer.load(base).backend))
