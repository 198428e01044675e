import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pharos.core.errors import TrainingError
from pharos.data.examples import IGNORED, PairRows, TagRows, TextRows, label_names
from pharos.data.tokenizer import Tokenizer
from pharos.data.train_tokenizer import Kind, TokenizerConfig, train_tokenizer
from pharos.train import objective

TEXTS = [
    "the lamp on the tower burns all night",
    "ships pass the island of Pharos, and sailors count the beams",
    "Ptolemy built it; an earthquake took it down.",
]
TOKENIZERS: dict[str, Tokenizer] = {
    kind: train_tokenizer(TEXTS, TokenizerConfig(kind=kind, vocab_size=340))
    for kind in ("bpe", "wordpiece", "unigram")
}
WORDPIECE = TOKENIZERS["wordpiece"]
WORDS = st.lists(
    st.one_of(
        st.sampled_from(" ".join(TEXTS).split()), st.text("abÉ,.東'", min_size=1, max_size=6)
    ),
    min_size=1,
    max_size=12,
)


def words_of(tokenizer: Tokenizer, ids: list[int]) -> str:
    return tokenizer.decode(ids, skip_special=False)


def test_the_ignored_label_is_the_one_that_losses_ignore() -> None:
    assert IGNORED == objective.IGNORED


def test_a_text_is_encoded_with_its_label() -> None:
    records = [{"text": "the lamp", "label": "light"}, {"text": "ships", "label": "sea"}]
    rows = TextRows(records, WORDPIECE, max_tokens=16, labels=["sea", "light"])
    row = rows.row(0, epoch=0)
    assert len(rows) == 2
    assert row["ids"].tolist() == WORDPIECE.encode("the lamp")
    assert words_of(WORDPIECE, row["ids"].tolist()) == "[CLS] the lamp [SEP]"
    assert row["label"] == 1
    assert not row["token_types"].any()


@pytest.mark.parametrize("max_tokens", [5, 6, 7, 9, 30])
def test_a_pair_loses_the_end_of_its_longer_text(max_tokens: int) -> None:
    record = {"a": "the lamp", "b": "ships pass the island of Pharos", "label": "0"}
    rows = TextRows([record], WORDPIECE, max_tokens=max_tokens, labels=["0"], text="a", text_b="b")
    row = rows.row(0, epoch=0)
    whole_a = WORDPIECE.encode("the lamp", add_special_tokens=False)
    whole_b = WORDPIECE.encode("ships pass the island of Pharos", add_special_tokens=False)
    ids, is_b = row["ids"].tolist(), row["token_types"] == 1
    a, b = row["ids"][~is_b][1:-1].tolist(), row["ids"][is_b][:-1].tolist()
    assert len(ids) == min(max_tokens, len(whole_a) + len(whole_b) + 3)
    assert a == whole_a[: len(a)] and b == whole_b[: len(b)]
    assert a == whole_a or len(a) >= len(b)
    assert b == whole_b or len(b) + 1 >= len(a)


def test_labels_are_numbers_where_no_names_are_given() -> None:
    records = [{"text": "the lamp", "label": "4.5"}]
    row = TextRows(records, WORDPIECE, max_tokens=9, labels=None).row(0, epoch=0)
    assert row["label"] == np.float32(4.5)
    with pytest.raises(TrainingError, match="label is not a number everywhere"):
        TextRows([{"text": "a", "label": "x"}], WORDPIECE, max_tokens=9, labels=None)


def test_several_labels_are_each_one_or_zero() -> None:
    records = [{"text": "a", "label": ["z", "x"]}, {"text": "a", "label": []}]
    rows = TextRows(records, WORDPIECE, max_tokens=9, labels=["x", "y", "z"])
    assert rows.row(0, epoch=0)["label"].tolist() == [1, 0, 1]
    assert rows.row(1, epoch=0)["label"].tolist() == [0, 0, 0]
    with pytest.raises(TrainingError, match="label is a list in some records only"):
        TextRows([*records, {"text": "a", "label": "x"}], WORDPIECE, max_tokens=9, labels=["x"])


def test_label_names_are_in_an_order_that_does_not_depend_on_the_records() -> None:
    assert label_names([{"y": 10}, {"y": 9}, {"y": 10}], "y") == ["9", "10"]
    assert label_names([{"y": "b"}, {"y": "a"}], "y") == ["a", "b"]
    assert label_names([{"tags": ["O", "B-X"]}, {"tags": ["I-X"]}], "tags") == ["B-X", "I-X", "O"]


def test_unknown_labels_missing_columns_and_short_rows_are_refused() -> None:
    records = [{"text": "a", "label": "x"}]
    with pytest.raises(TrainingError, match="label 'x' is none of the labels y, z"):
        TextRows(records, WORDPIECE, max_tokens=9, labels=["y", "z"])
    with pytest.raises(TrainingError, match="record 0 has no 'txt'; it has text, label"):
        TextRows(records, WORDPIECE, max_tokens=9, labels=["x"], text="txt")
    with pytest.raises(TrainingError, match="text is 5; it must be a text"):
        TextRows([{"text": 5, "label": "x"}], WORDPIECE, max_tokens=9, labels=["x"])
    with pytest.raises(TrainingError, match="max_tokens is 2, of which 2 are special"):
        TextRows(records, WORDPIECE, max_tokens=2, labels=["x"])


@pytest.mark.parametrize("kind", ["bpe", "wordpiece", "unigram"])
@settings(max_examples=60, deadline=None)
@given(words=WORDS, max_tokens=st.integers(4, 60))
def test_the_first_piece_of_each_word_is_labelled(
    kind: Kind, words: list[str], max_tokens: int
) -> None:
    """Each word has a label of its own; going through the labels in order gives the words."""
    tokenizer = TOKENIZERS[kind]
    tags = [str(n) for n in range(len(words))]
    rows = TagRows([{"tokens": words, "tags": tags}], tokenizer, max_tokens=max_tokens, labels=tags)
    row = rows.row(0, epoch=0)
    pieces = tokenizer.pieces(" ".join(words))[: len(row["ids"])]
    labelled = np.flatnonzero(row["labels"] != IGNORED)
    assert len(row["ids"]) == len(row["labels"]) <= max_tokens
    assert (np.diff(row["labels"][labelled]) > 0).all()
    starts = np.cumsum([0, *(len(word) + 1 for word in words)])
    for i in labelled:
        n = row["labels"][i]
        piece = pieces[i]
        assert piece.start < starts[n] + len(words[n]) and piece.end > starts[n]
        before = [p for p in pieces[:i] if p.end > p.start]
        assert not before or before[-1].end <= starts[n] + 1 or before[-1].start < starts[n]


def test_every_plain_word_gets_its_tag_with_any_tokenizer() -> None:
    words = TEXTS[1].split()
    tags = [str(n) for n in range(len(words))]
    for tokenizer in TOKENIZERS.values():
        rows = TagRows([{"tokens": words, "tags": tags}], tokenizer, max_tokens=99, labels=tags)
        labels = rows.row(0, epoch=0)["labels"]
        assert labels[labels != IGNORED].tolist() == list(range(len(words)))


def test_words_and_tags_must_be_as_many() -> None:
    with pytest.raises(TrainingError, match="record 0 has 2 tokens and 1 tags"):
        TagRows([{"tokens": ["a", "b"], "tags": ["O"]}], WORDPIECE, max_tokens=9, labels=["O"])
    with pytest.raises(TrainingError, match="tags is 'O'; it must be a list"):
        TagRows([{"tokens": ["a"], "tags": "O"}], WORDPIECE, max_tokens=9, labels=["O"])


def test_a_pair_for_contrastive_training_is_two_texts_each_with_its_tokenizer() -> None:
    records = [{"q": "the lamp", "a": "burns all night"}]
    bpe = TOKENIZERS["bpe"]
    rows = PairRows(records, WORDPIECE, max_tokens=4, text_a="q", text_b="a", tokenizer_b=bpe)
    row = rows.row(0, epoch=0)
    assert words_of(WORDPIECE, row["first_ids"].tolist()) == "[CLS] the l [SEP]"
    assert row["second_ids"].tolist() == bpe.encode("burns all night")[:4]
