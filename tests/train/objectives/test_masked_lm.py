"""Shapes: B rows, T places, N tokens."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from pharos.core.errors import TrainingError
from pharos.data.rows import row_generator
from pharos.data.train_tokenizer import TokenizerConfig, train_tokenizer
from pharos.ops.cross_entropy import plain_cross_entropy
from pharos.train.objective import IGNORED
from pharos.train.objectives import Vocabulary, new_objective
from pharos.train.objectives.masked_lm import MaskedLM, MaskedLMConfig

MASK, CLS, SEP, SPECIAL = 4, 2, 3, 5
VOCABULARY = Vocabulary(
    size=61,
    ids={"pad": 0, "unk": 1, "cls": CLS, "sep": SEP, "mask": MASK},
    special_ids=frozenset(range(SPECIAL)),
    starts_word_V=np.arange(61) % 3 != 0,
)
"""Ids below 5 are special, and those that three divides continue a word."""


def objective(**settings: Any) -> MaskedLM:
    return MaskedLM(MaskedLMConfig(**settings), VOCABULARY)


def masked(task: MaskedLM, ids: Any, *, seed: int = 0) -> tuple[Any, Any]:
    return task.mask(ids, row_generator("test", seed))


def many_ids(number: int = 1_000_000) -> Any:
    """Of every kind, special ones too."""
    return np.random.default_rng(0).integers(0, 61, number)


def within_noise(count: int, number: int, share: float) -> bool:
    """Less than five standard deviations from what so many draws give."""
    return abs(count - number * share) < 5 * math.sqrt(number * share * (1 - share))


def test_of_a_million_tokens_15_percent_are_chosen_and_80_10_10_is_done_to_them() -> None:
    ids = many_ids()
    hidden, labels = masked(objective(), ids)
    is_chosen = labels != IGNORED
    was, now = ids[is_chosen], hidden[is_chosen]
    assert within_noise(len(was), int((ids >= SPECIAL).sum()), 0.15)
    assert within_noise(int((now == MASK).sum()), len(was), 0.8)
    changed = now[(now != MASK) & (now != was)]
    same_by_chance = 0.1 / (61 - SPECIAL)
    assert within_noise(len(changed), len(was), 0.1 - same_by_chance)
    assert within_noise(int((now == was).sum()), len(was), 0.1 + same_by_chance)
    assert np.array_equal(labels[is_chosen], was)
    assert np.array_equal(hidden[~is_chosen], ids[~is_chosen])


def test_special_tokens_are_never_hidden_and_never_put_in() -> None:
    ids = many_ids()
    hidden, labels = masked(objective(rate=1.0), ids)
    assert np.array_equal(labels != IGNORED, ids >= SPECIAL)
    assert set(hidden[ids >= SPECIAL]) == {MASK, *range(SPECIAL, 61)}


def test_what_is_done_to_a_token_is_drawn_for_each_by_itself() -> None:
    """Not for a row: in most rows of 200 tokens all three fates occur."""
    rows = np.random.default_rng(0).integers(SPECIAL, 61, (500, 200))
    fates = []
    for seed, ids in enumerate(rows):
        hidden, labels = masked(objective(), ids, seed=seed)
        chosen = labels != IGNORED
        is_mask, is_same = hidden[chosen] == MASK, hidden[chosen] == ids[chosen]
        fates.append((is_mask.any(), is_same.any(), (~is_mask & ~is_same).any()))
    assert (np.mean(fates, axis=0) > 0.9).all()


def test_every_place_and_every_other_token_is_as_likely() -> None:
    ids = np.tile(np.arange(SPECIAL, 55), 20_000)
    hidden, labels = masked(objective(), ids)
    chosen = labels != IGNORED
    by_place = chosen.reshape(20_000, -1).sum(axis=0)
    assert all(within_noise(count, 20_000, 0.15) for count in by_place)
    put_in = hidden[chosen & (hidden != MASK) & (hidden != ids)]
    counts = np.bincount(put_in, minlength=61)[SPECIAL:]
    assert within_noise(counts.min(), len(put_in), 1 / 56)
    assert within_noise(counts.max(), len(put_in), 1 / 56)


def test_whole_words_are_hidden_together() -> None:
    ids = many_ids()
    _, labels = masked(objective(whole_words=True), ids)
    is_chosen, is_special = labels != IGNORED, ids < SPECIAL
    continues = (ids % 3 == 0) & ~is_special
    continues[1:] &= ~is_special[:-1]
    continues[0] = False
    assert np.array_equal(is_chosen[1:][continues[1:]], is_chosen[:-1][continues[1:]])
    is_first = ~continues & ~is_special
    assert within_noise(int(is_chosen[is_first].sum()), int(is_first.sum()), 0.15)


def test_a_row_of_which_nothing_was_drawn_still_has_a_target() -> None:
    for seed in range(200):
        _, labels = masked(objective(), np.array([CLS, 17, 18, SEP]), seed=seed)
        assert 1 <= (labels != IGNORED).sum() <= 2
    _, labels = masked(objective(), np.array([CLS, SEP]))
    assert (labels == IGNORED).all()


def test_a_row_is_hidden_otherwise_each_time_and_alike_from_one_seed() -> None:
    ids = many_ids(1000)
    first, again, other = (masked(objective(), ids, seed=seed)[0] for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_texts_are_surrounded_padded_and_told_apart_from_padding(
    make_batch: Callable[..., Any], text: Callable[..., Any]
) -> None:
    batch = make_batch(objective(), [{"ids": text(7)}, {"ids": text(4)}])
    assert batch["ids"].shape == (2, 9)
    assert batch["ids"][:, 0].tolist() == [CLS, CLS]
    assert batch["ids"][1, 5:].tolist() == [SEP, 0, 0, 0]
    assert batch["valid"].sum(1).tolist() == [9, 6]
    assert (batch["labels"][~batch["valid"]] == IGNORED).all()
    assert "valid" not in make_batch(objective(), [{"ids": text(7)}, {"ids": text(7)}])


def test_a_pair_is_two_segments_between_special_tokens(make_batch: Callable[..., Any]) -> None:
    rows = [
        {"ids_a": np.array([10, 11]), "ids_b": np.array([12]), "is_next": np.array(True)},
        {"ids_a": np.array([13]), "ids_b": np.array([14, 16, 17]), "is_next": np.array(False)},
    ]
    task = objective(next_sentence=True)
    batch = make_batch(task, rows)
    was = batch["ids"].where(batch["labels"] == IGNORED, batch["labels"])
    assert was.tolist() == [[CLS, 10, 11, SEP, 12, SEP, 0], [CLS, 13, SEP, 14, 16, 17, SEP]]
    assert batch["token_types"].tolist() == [[0, 0, 0, 0, 1, 1, 0], [0, 0, 0, 1, 1, 1, 1]]
    assert batch["next_sentence"].tolist() == [0, 1]
    assert task.count(batch)["next_sentence"] == 2
    assert task.row_length(128) == 125


def test_documents_that_share_a_row_are_refused() -> None:
    row = {"ids": np.arange(5, 11), "document": np.array([0, 0, 1, 1, -1, -1])}
    with pytest.raises(TrainingError, match="a row has 2 documents, and masked_lm takes"):
        objective().example(row, row_generator("test", 0))
    padded = {"ids": np.arange(5, 11), "document": np.array([0, 0, 0, 0, -1, -1])}
    assert len(objective().example(padded, row_generator("test", 0))["ids"]) == 6


def test_scores_are_computed_where_something_was_hidden_only(
    tiny: Callable[..., Any], make_batch: Callable[..., Any], text: Callable[..., Any]
) -> None:
    model = tiny("bert", "masked_lm").eval()
    task = objective()
    batch = make_batch(task, [{"ids": text(30, 1)}, {"ids": text(21, 2)}])
    seen: list[torch.Size] = []
    model.norm.register_forward_hook(lambda module, args, output: seen.append(output.shape))
    losses = task.losses(model, batch)
    assert seen == [(task.count(batch)["masked_lm"], 32)]
    x_BTD = model.body(batch["ids"], valid_BT=batch["valid"])
    x_ND, labels_N = model.transform(x_BTD).flatten(0, 1), batch["labels"].flatten()
    expected = plain_cross_entropy(x_ND, model.body.embedding.weight, labels_N, bias=model.bias)
    torch.testing.assert_close(losses["masked_lm"], expected.loss_sum)
    torch.testing.assert_close(losses["correct"], expected.num_correct)


@pytest.mark.parametrize("kind", ["bert", "distilbert"])
def test_a_batch_is_learned_by_heart(
    kind: str,
    tiny: Callable[..., Any],
    text: Callable[..., Any],
    make_batch: Callable[..., Any],
    learn: Callable[..., list[float]],
) -> None:
    task = objective(whole_words=True)
    batch = make_batch(task, [{"ids": text(40, 1)}, {"ids": text(33, 2)}])
    losses = learn(task, tiny(kind, task.task), batch, steps=100, lr=5e-3)
    assert abs(losses[0] - math.log(61)) < 0.1
    assert losses[-1] < 0.05


def test_both_terms_of_a_batch_of_pairs_are_learned_by_heart(
    tiny: Callable[..., Any],
    text: Callable[..., Any],
    make_batch: Callable[..., Any],
    learn: Callable[..., list[float]],
) -> None:
    task = objective(next_sentence=True)
    rows = [
        {"ids_a": text(12, i), "ids_b": text(9, 10 + i), "is_next": np.array(i % 2 == 0)}
        for i in range(6)
    ]
    batch = make_batch(task, rows)
    model = tiny("bert", task.task)
    losses = learn(task, model, batch, steps=120, lr=5e-3)
    assert abs(losses[0] - math.log(61) - math.log(2)) < 0.1
    assert losses[-1] < 0.05
    sums = task.losses(model, batch)
    assert sums["next_sentence_correct"] == 6
    assert sums["correct"] == task.count(batch)["masked_lm"]


def test_a_batch_without_any_target_is_zero_and_has_gradients_of_zero(
    tiny: Callable[..., Any], make_batch: Callable[..., Any]
) -> None:
    model, task = tiny("bert", "masked_lm"), objective()
    batch = make_batch(task, [{"ids": np.array([], dtype=np.int32)}])
    assert task.count(batch) == {"masked_lm": 0}
    loss = task.losses(model, batch)["masked_lm"]
    loss.backward()
    assert loss == 0
    assert all(p.grad is None or not p.grad.any() for p in model.parameters())


def test_a_model_with_one_head_cannot_be_asked_for_two_terms(
    tiny: Callable[..., Any], make_batch: Callable[..., Any], text: Callable[..., Any]
) -> None:
    task = objective(next_sentence=True)
    row = {"ids_a": text(5), "ids_b": text(5), "is_next": np.array(True)}
    with pytest.raises(TrainingError, match="build it with the task pretraining"):
        task.losses(tiny("bert", "masked_lm"), make_batch(task, [row]))


TEXTS = ["the lighthouse keepers unbelievably relight lighthouses by the harbour of harbours"] * 20


def test_a_wordpiece_tokenizer_tells_where_words_begin() -> None:
    tokenizer = train_tokenizer(TEXTS, TokenizerConfig(kind="wordpiece", vocab_size=60))
    vocabulary = Vocabulary.of(tokenizer)
    pieces = tokenizer.pieces("the lighthouses", add_special_tokens=False)
    assert vocabulary.starts_word_V is not None
    starts = [bool(vocabulary.starts_word_V[piece.id]) for piece in pieces]
    assert starts == [not piece.token.startswith("##") for piece in pieces]
    assert False in starts
    assert vocabulary.ids["mask"] in vocabulary.special_ids
    new_objective("masked_lm", {"whole_words": True}, vocabulary)


def test_a_byte_level_tokenizer_tells_where_words_begin() -> None:
    tokenizer = train_tokenizer(TEXTS, TokenizerConfig(vocab_size=300))
    vocabulary = Vocabulary.of(tokenizer)
    pieces = tokenizer.pieces(" the harbours", add_special_tokens=False)
    assert vocabulary.starts_word_V is not None
    starts = [bool(vocabulary.starts_word_V[piece.id]) for piece in pieces]
    assert starts == [piece.token.startswith("Ġ") for piece in pieces]


def test_a_tokenizer_without_what_is_needed_is_refused_by_name() -> None:
    with pytest.raises(TrainingError, match="no mask token, and masked_lm puts it into texts"):
        new_objective("masked_lm", {}, Vocabulary(size=9, ids={"cls": 1, "sep": 2}))
    bare = Vocabulary(size=9, ids={"cls": 1, "sep": 2, "mask": 3})
    with pytest.raises(TrainingError, match="whole_words is true, and the tokenizer's tokens"):
        new_objective("masked_lm", {"whole_words": True}, bare)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rate": 0}, "rate is 0"),
        ({"mask_share": 1.2}, "mask_share is 1.2"),
        ({"mask_share": 0.8, "random_share": 0.3}, "more than 1 together"),
    ],
)
def test_shares_that_cannot_be_are_refused(settings: dict[str, float], message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        new_objective("masked_lm", settings, VOCABULARY)
