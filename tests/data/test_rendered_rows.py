from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pharos.core import TrainingError
from pharos.data.conversations import Continuation
from pharos.data.examples import IGNORED
from pharos.data.rendered_rows import (
    PackedRows,
    PreferenceRows,
    RenderedRows,
    check_single_answer,
    rendered_once,
)
from pharos.data.rendering import Rendered, Renderer
from pharos.data.tokenizer import Tokenizer
from pharos.data.train_tokenizer import TokenizerConfig, train_tokenizer

MOST = 12


def rendered(length: int, number: int = 0, *, num_cut: int = 0) -> Rendered:
    """Ids that tell the text; the second half is learned."""
    ids = np.arange(length, dtype=np.int32) + 100 * number
    labels = np.where(np.arange(length) < length // 2, IGNORED, ids).astype(np.int32)
    return Rendered(ids=ids, labels=labels, num_cut=num_cut)


lengths = st.lists(st.integers(1, MOST), min_size=1, max_size=30)


@given(lengths=lengths)
@settings(deadline=None)
def test_packed_rows_hold_each_text_whole_with_its_labels(lengths: list[int]) -> None:
    texts = [rendered(length, number) for number, length in enumerate(lengths)]
    packed = PackedRows(RenderedRows(texts), MOST)
    found = []
    for index in range(len(packed)):
        row = packed.row(index, 0)
        assert (row["labels"][row["document"] < 0] == IGNORED).all()
        for document in range(row["document"].max() + 1):
            is_its = row["document"] == document
            found.append((row["ids"][is_its].tolist(), row["labels"][is_its].tolist()))
    assert sorted(found) == sorted((text.ids.tolist(), text.labels.tolist()) for text in texts)


def test_texts_are_rendered_once_and_again_only_for_another_key(tmp_path: Path) -> None:
    times = 0

    def render() -> Sequence[Rendered]:
        nonlocal times
        times += 1
        return [rendered(3, times, num_cut=2), rendered(5, times)]

    path = tmp_path / "data" / "rendered.npz"
    first, again, other = (rendered_once(path, key, render) for key in ("a", "a", "b"))
    assert times == 2
    for one, same in zip(first, again, strict=True):
        assert one.ids.tolist() == same.ids.tolist()
        assert one.labels.tolist() == same.labels.tolist()
        assert one.num_cut == same.num_cut
    assert other[0].ids.tolist() != first[0].ids.tolist()


# --- pairs ---------------------------------------------------------------------------------------


@cache
def tokenizer(kind: Any) -> Tokenizer:
    texts = ["the keeper lights the lamp, 12 or 345 times:\n\nit's don't"] * 9
    return train_tokenizer(texts, TokenizerConfig(kind=kind, vocab_size=330))


words = st.text("thekpril ,.'12345\n\té", max_size=12)


@given(
    kind=st.sampled_from(["bpe", "unigram"]),
    prompt=words.filter(bool),
    answers=st.tuples(words, words),
)
@settings(max_examples=300, deadline=None)
def test_the_prompt_of_a_pair_is_what_a_model_would_be_asked_with(
    kind: str, prompt: str, answers: tuple[str, str]
) -> None:
    its = tokenizer(kind)
    renderer = Renderer(its, None, max_tokens=1000)
    chosen, rejected = (
        renderer.render(Continuation(prompt=prompt, completion=answer)) for answer in answers
    )
    row = PreferenceRows([(chosen, rejected)], ["the pair"]).row(0, 0)
    assert row["prompt_ids"].tolist() == its.encode(prompt)
    for ids, answer in zip((row["chosen_ids"], row["rejected_ids"]), answers, strict=True):
        assert ids[-1] == its.eos_id
        assert its.decode([*row["prompt_ids"], *ids]) == its.decode(its.encode(prompt + answer))


def marked(ids: Sequence[int], learned: str) -> Rendered:
    """With a `+` for each token that is learned."""
    labels = [id_ if mark == "+" else IGNORED for id_, mark in zip(ids, learned, strict=True)]
    return Rendered(ids=np.array(ids, np.int32), labels=np.array(labels, np.int32), num_cut=0)


@pytest.mark.parametrize("other", [[1, 3, 7], [1, 7], [1, 2, 2, 7]])
def test_a_pair_that_does_not_begin_alike_is_named(other: list[int]) -> None:
    learned = "+".rjust(len(other), "-")
    pairs = [(marked([1, 2, 7], "--+"), marked([1, 2, 8], "--+"))]
    pairs.append((marked([1, 2, 7], "--+"), marked(other, learned)))
    with pytest.raises(TrainingError, match="record 1: chosen and rejected do not answer the same"):
        PreferenceRows(pairs, ["record 0", "record 1"])


def test_an_answer_with_words_of_others_in_it_is_named() -> None:
    for learned in ("--++", "+---", "++++", "----"):
        check_single_answer(marked([1, 2, 3, 4], learned), "record 0")
    for learned in ("-+-+", "+--+"):
        with pytest.raises(TrainingError, match="record 7: the answer has several turns"):
            check_single_answer(marked([1, 2, 3, 4], learned), "record 7")
