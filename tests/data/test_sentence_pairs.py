from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pharos.core.errors import TrainingError
from pharos.data.sentence_pairs import SentencePairs, SentenceTokens
from pharos.data.token_source import TokenArrays
from pharos.data.train_tokenizer import TokenizerConfig, train_tokenizer

DOCUMENTS = st.lists(st.lists(st.integers(1, 12), max_size=12), min_size=2, max_size=10).filter(
    lambda documents: sum(map(bool, documents)) > 1 and any(len(d) > 1 for d in documents)
)


def numbered(documents: Sequence[Sequence[int]]) -> SentenceTokens:
    """Documents of sentences of these lengths, in which no two tokens are alike."""
    lengths = [length for document in documents for length in document]
    ends = np.cumsum([0, *lengths])
    sentences = TokenArrays.of_documents(
        np.arange(ends[i], ends[i + 1]) for i in range(len(lengths))
    )
    return SentenceTokens(sentences, np.cumsum([0, *map(len, documents)]))


def document_of(tokens: SentenceTokens, ids: np.ndarray) -> set[int]:
    sentence_ends = np.cumsum(tokens.sentences.lengths)
    sentences = np.searchsorted(sentence_ends, ids, side="right")
    return set((np.searchsorted(tokens.first, sentences, side="right") - 1).tolist())


@settings(deadline=None)
@given(DOCUMENTS, st.integers(2, 30), st.integers(0, 3))
def test_b_follows_a_or_is_of_another_document(
    documents: list[list[int]], max_tokens: int, epoch: int
) -> None:
    tokens = numbered(documents)
    rows = SentencePairs(tokens, max_tokens, seed=1)
    for i in range(len(rows)):
        row = rows.row(i, epoch)
        ids_a, ids_b = row["ids_a"], row["ids_b"]
        assert len(ids_a) and len(ids_b) and len(ids_a) + len(ids_b) <= max_tokens
        assert (np.diff(ids_a) == 1).all() and (np.diff(ids_b) == 1).all()
        (of_a,), (of_b,) = document_of(tokens, ids_a), document_of(tokens, ids_b)
        assert bool(row["is_next"]) == (of_a == of_b)
        if row["is_next"]:
            assert ids_b[0] == ids_a[-1] + 1


@settings(deadline=None)
@given(DOCUMENTS, st.integers(2, 30))
def test_each_sentence_that_has_a_neighbour_is_in_exactly_one_run(
    documents: list[list[int]], max_tokens: int
) -> None:
    tokens = numbered(documents)
    runs = SentencePairs(tokens, max_tokens, seed=0)._runs
    covered = [sentence for _, start, stop in runs for sentence in range(start, stop)]
    expected = [
        sentence
        for first, last in zip(tokens.first, tokens.first[1:], strict=False)
        for sentence in range(first, last)
        if last - first > 1
    ]
    assert covered == expected
    assert all(stop - start >= 2 for _, start, stop in runs)


def test_half_of_the_rows_are_next_and_lengths_do_not_tell_which() -> None:
    generator = np.random.default_rng(0)
    tokens = numbered([generator.integers(3, 30, size=60).tolist() for _ in range(40)])
    rows = SentencePairs(tokens, 128, seed=0)
    drawn = [rows.row(i, epoch) for epoch in range(10) for i in range(len(rows))]
    is_next = np.array([bool(row["is_next"]) for row in drawn])
    lengths = np.array([len(row["ids_b"]) for row in drawn])
    deviation = 0.5 / np.sqrt(len(drawn))
    assert abs(is_next.mean() - 0.5) < 4 * deviation
    spread = lengths.std() * np.sqrt(1 / is_next.sum() + 1 / (~is_next).sum())
    assert abs(lengths[is_next].mean() - lengths[~is_next].mean()) < 4 * spread


def test_each_epoch_divides_and_pairs_anew_and_can_be_had_again() -> None:
    tokens = numbered([[3] * 20 for _ in range(5)])
    rows = SentencePairs(tokens, 30, seed=0)
    drawn = [rows.row(2, epoch) for epoch in range(20)]
    assert len({(len(row["ids_a"]), bool(row["is_next"])) for row in drawn}) > 5
    again = SentencePairs(tokens, 30, seed=0).row(2, 7)
    assert all(np.array_equal(again[key], drawn[7][key]) for key in again)


def test_texts_become_sentences_of_tokens() -> None:
    texts = ["The lamp is on. It burns all night.", "", "A ship comes in. Who is it? A friend."]
    tokenizer = train_tokenizer(texts, TokenizerConfig(kind="wordpiece", vocab_size=60))
    tokens = SentenceTokens.of_texts(texts, tokenizer)
    assert tokens.first.tolist() == [0, 2, 2, 5]
    assert tokenizer.decode(tokens.sentences.document(3).tolist()) == "who is it?"


def test_one_document_gives_no_partner() -> None:
    with pytest.raises(TrainingError, match="need two documents"):
        SentencePairs(numbered([[3, 3, 3], []]), 10, seed=0)
    with pytest.raises(TrainingError, match="one of two sentences at least"):
        SentencePairs(numbered([[3], [3]]), 10, seed=0)
