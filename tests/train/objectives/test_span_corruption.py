"""Beside the published algorithm (Raffel et al. 2019), written out here as it is there.

Shapes: B rows, S source tokens, T target tokens.
"""

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pharos.core.errors import TrainingError
from pharos.data.rows import row_generator
from pharos.train.objective import IGNORED
from pharos.train.objectives import Vocabulary, new_objective
from pharos.train.objectives.span_corruption import (
    SpanCorruption,
    SpanCorruptionConfig,
    corrupted_lengths,
    cut_mask,
    raw_length,
    with_sentinels,
)

T5 = SpanCorruptionConfig()
EOS, SENTINELS = 1, tuple(range(60, 40, -1))
VOCABULARY = Vocabulary(
    size=61,
    ids={"pad": 0, "eos": EOS},
    special_ids=frozenset({0, EOS, *SENTINELS}),
    sentinels=SENTINELS,
)
LENGTHS = st.integers(2, 600)
CONFIGS = st.builds(
    SpanCorruptionConfig,
    rate=st.floats(0.01, 0.9),
    mean_length=st.floats(1, 20),
)


@pytest.fixture
def objective() -> SpanCorruption:
    return SpanCorruption(T5, VOCABULARY)


def words(text: Callable[..., Any], length: int, seed: int = 0) -> Any:
    """Ids that are neither special nor sentinels."""
    return 2 + text(length, seed) % 38


def published_lengths(source_length: int, rate: float, mean_length: float) -> tuple[int, int, int]:
    """`compute_input_and_target_lengths`: of a row, the source and the target."""

    def corrupted(tokens: int) -> tuple[int, int]:
        num_noise = round(tokens * rate)
        num_spans = round(num_noise / mean_length)
        return tokens - num_noise + num_spans + 1, num_noise + num_spans + 1

    tokens = source_length
    while corrupted(tokens + 1)[0] <= source_length:
        tokens += 1
    return tokens, *corrupted(tokens)


@pytest.mark.parametrize(
    ("source_length", "expected"),
    [
        (512, (568, 512, 114)),
        (256, (284, 256, 58)),
        (128, (141, 128, 29)),
        (1024, (1137, 1024, 229)),
    ],
)
def test_lengths_are_those_of_the_published_code(
    source_length: int, expected: tuple[int, int, int]
) -> None:
    length = raw_length(source_length, T5)
    assert (length, *corrupted_lengths(length, T5)) == expected
    assert published_lengths(source_length, 0.15, 3.0) == expected


@pytest.mark.parametrize(
    ("rate", "mean_length"), [(0.15, 3.0), (0.3, 3.0), (0.5, 8.0), (0.25, 1.5)]
)
def test_lengths_are_those_of_the_published_code_for_every_source(
    rate: float, mean_length: float
) -> None:
    config = SpanCorruptionConfig(rate=rate, mean_length=mean_length)
    for source_length in range(20, 400):
        length = raw_length(source_length, config)
        found = (length, *corrupted_lengths(length, config))
        assert found == published_lengths(source_length, rate, mean_length)


@settings(max_examples=60, deadline=None)
@given(length=st.integers(4, 600), config=CONFIGS)
def test_the_longest_row_that_fits_is_found(length: int, config: SpanCorruptionConfig) -> None:
    row = raw_length(length, config)
    assert corrupted_lengths(row, config).source <= length
    assert corrupted_lengths(row + 1, config).source > length


@settings(max_examples=100, deadline=None)
@given(length=LENGTHS, config=CONFIGS, seed=st.integers(0, 100))
def test_masks_have_the_tokens_and_spans_that_the_length_says(
    length: int, config: SpanCorruptionConfig, seed: int
) -> None:
    is_cut = cut_mask(length, config, row_generator("test", seed))
    spans = np.count_nonzero(np.diff(is_cut, prepend=False) & is_cut)
    lengths = corrupted_lengths(length, config)
    assert len(is_cut) == length
    assert not is_cut[0]
    assert is_cut[-1]
    assert lengths.target == is_cut.sum() + spans + 1
    assert lengths.source == (~is_cut).sum() + spans + 1


def test_all_ways_to_lay_the_spans_are_as_likely() -> None:
    """Two spans of together four tokens, and two stretches of six between: 3 · 5 ways."""
    config = SpanCorruptionConfig(rate=0.4, mean_length=2.0)
    generator = row_generator("test", 0)
    masks = [tuple(cut_mask(10, config, generator).tolist()) for _ in range(15_000)]
    counts = [masks.count(mask) for mask in set(masks)]
    assert len(counts) == 15
    assert max(abs(count - 1000) for count in counts) < 5 * math.sqrt(1000)


def test_a_span_becomes_a_sentinel_and_sentinels_descend() -> None:
    ids = np.arange(10, 20)
    is_cut = np.isin(ids, [12, 13, 17, 19])
    sentinels = np.array(SENTINELS)
    assert with_sentinels(ids, is_cut, sentinels).tolist() == [10, 11, 60, 14, 15, 16, 59, 18, 58]
    assert with_sentinels(ids, ~is_cut, sentinels).tolist() == [60, 12, 13, 59, 17, 58, 19]


@settings(max_examples=50, deadline=None)
@given(length=st.integers(2, 120), seed=st.integers(0, 100))
def test_source_and_target_together_are_the_row(length: int, seed: int) -> None:
    ids = np.random.default_rng(seed).integers(2, 41, length)
    example = SpanCorruption(T5, VOCABULARY).example({"ids": ids}, row_generator("test", seed))
    source, target = example["source_ids"].tolist(), example["labels"].tolist()
    assert (len(source), len(target)) == corrupted_lengths(length, T5)
    assert source.pop() == target.pop() == EOS
    starts = [i for i, id_ in enumerate(target) if id_ > 40]
    spans = {target[a]: target[a + 1 : b] for a, b in pairwise([*starts, len(target)])}
    assert list(spans) == list(SENTINELS[: len(spans)])
    assert [id_ for id_ in source if id_ > 40] == list(spans)
    restored = [token for id_ in source for token in spans.get(id_, [id_])]
    assert restored == ids.tolist()


def test_the_decoder_reads_the_labels_one_place_later(
    objective: SpanCorruption, make_batch: Callable[..., Any], text: Callable[..., Any]
) -> None:
    batch = make_batch(objective, [{"ids": words(text, 30)}, {"ids": words(text, 12)}])
    labels, ids = batch["labels"], batch["ids"]
    assert ids[:, 0].tolist() == [0, 0]
    shifted = labels[:, :-1].where(labels[:, :-1] != IGNORED, 0)
    assert torch.equal(ids[:, 1:], shifted)
    assert labels[1].tolist().count(IGNORED) == 2
    assert labels[1, -3] == EOS
    assert torch.equal(batch["source_valid"].sum(1), torch.tensor([28, 12]))
    assert "source_valid" not in make_batch(objective, [{"ids": words(text, 30)}] * 2)


def test_rows_of_the_length_that_is_asked_for_fill_the_source(
    objective: SpanCorruption, make_batch: Callable[..., Any], text: Callable[..., Any]
) -> None:
    row = {"ids": words(text, objective.row_length(64))}
    batch = make_batch(objective, [row, row])
    assert batch["source_ids"].shape == (2, 64)
    assert "source_valid" not in batch
    assert (batch["labels"] != IGNORED).all()


def test_a_row_too_short_to_cut_has_no_target(
    objective: SpanCorruption, make_batch: Callable[..., Any], text: Callable[..., Any]
) -> None:
    batch = make_batch(objective, [{"ids": np.array([7])}, {"ids": words(text, 12)}])
    assert (batch["labels"][0] == IGNORED).all()
    assert objective.count(batch)["span_corruption"] == (batch["labels"][1] != IGNORED).sum()


@pytest.mark.parametrize("tied", [True, False])
def test_a_batch_is_learned_by_heart(
    tied: bool,
    objective: SpanCorruption,
    tiny: Callable[..., Any],
    text: Callable[..., Any],
    make_batch: Callable[..., Any],
    learn: Callable[..., list[float]],
) -> None:
    model = tiny("t5", "seq2seq_lm", tie_word_embeddings=tied)
    batch = make_batch(objective, [{"ids": words(text, 40, 1)}, {"ids": words(text, 29, 2)}])
    losses = learn(objective, model, batch, steps=150, lr=1e-2)
    assert losses[-1] < 0.05
    count = objective.count(batch)["span_corruption"]
    assert objective.losses(model, batch)["correct"] == count


def test_padding_of_the_source_changes_no_loss(
    objective: SpanCorruption,
    tiny: Callable[..., Any],
    text: Callable[..., Any],
    make_batch: Callable[..., Any],
) -> None:
    model = tiny("t5", "seq2seq_lm").double().eval()
    rows = [{"ids": words(text, 30, 1)}, {"ids": words(text, 12, 2)}]
    examples = [objective.example(row, row_generator("test", i)) for i, row in enumerate(rows)]
    together = objective.losses(model, objective.collate(examples))["span_corruption"]
    alone = [objective.losses(model, objective.collate([e]))["span_corruption"] for e in examples]
    torch.testing.assert_close(together, sum(alone))


def test_a_tokenizer_with_too_few_sentinels_is_told_how_many(objective: SpanCorruption) -> None:
    with pytest.raises(TrainingError, match=r"568 tokens have 28 spans, and .* has 20 sentinels"):
        objective.row_length(512)
    with pytest.raises(TrainingError, match="no eos token, and span_corruption ends"):
        new_objective("span_corruption", {}, Vocabulary(size=9))


@pytest.mark.parametrize(
    ("keys", "message"), [({"rate": 1.0}, "rate is 1.0"), ({"mean_length": 0.5}, "mean_length is")]
)
def test_spans_that_cannot_be_are_refused(keys: dict[str, float], message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        new_objective("span_corruption", keys, VOCABULARY)


def test_a_source_without_room_is_refused() -> None:
    with pytest.raises(ValueError, match="a source of 2 tokens has no room"):
        raw_length(2, T5)
