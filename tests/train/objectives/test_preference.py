"""DPO: where it begins, what its losses are, who is the reference, and that it learns."""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pharos.adapt import Adapters, LoraConfig
from pharos.core.errors import TrainingError
from pharos.data.rows import Row
from pharos.models.heads import CausalLM
from pharos.models.load import new_model
from pharos.train.completions import completion_batch, is_said, log_probs_of
from pharos.train.objective import IGNORED
from pharos.train.objectives import Vocabulary, new_objective
from pharos.train.objectives.preference import DPO, DPOConfig, preference_loss
from pharos.train.objectives.reference_rows import ReferenceRows
from pharos.train.reference import Reference
from pharos.train.step_zero import check_first_step

VOCAB = 61
VOCABULARY = Vocabulary(size=VOCAB, ids={"pad": 0, "eos": 1})
EOS = 1


class PairList:
    """Pairs in memory."""

    def __init__(self, pairs: list[Row]) -> None:
        self.pairs = pairs

    def __len__(self) -> int:
        return len(self.pairs)

    def row(self, index: int, epoch: int) -> Row:
        return self.pairs[index]


def pairs(count: int, seed: int = 0) -> list[Row]:
    """The chosen answer repeats the prompt's last token, the rejected one says another."""
    draw = np.random.default_rng(seed)

    def pair() -> Row:
        prompt = draw.integers(5, VOCAB, draw.integers(2, 6))
        other = 5 + (prompt[-1] - 5 + draw.integers(1, VOCAB - 5)) % (VOCAB - 5)
        return {
            "prompt_ids": prompt.astype(np.int32),
            "chosen_ids": np.array([prompt[-1], prompt[-1], EOS], dtype=np.int32),
            "rejected_ids": np.array([other, other, other, EOS], dtype=np.int32),
        }

    return [pair() for _ in range(count)]


def model_with_dropout(seed: int = 0) -> CausalLM:
    sizes = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 32}
    dropout = {"embd_pdrop": 0.2, "resid_pdrop": 0.2, "attn_pdrop": 0.2}
    model = new_model(
        {"model_type": "gpt2", "vocab_size": VOCAB, **sizes, **dropout}, "causal_lm", seed=seed
    )
    assert isinstance(model, CausalLM)
    return model.train()


def dpo(model: CausalLM | None, **keys: object) -> DPO:
    return DPO(DPOConfig(**keys), VOCABULARY, Reference(model))  # type: ignore[arg-type]


# -- the losses, by hand


def test_the_losses_are_those_of_the_papers() -> None:
    h = torch.tensor([2.0])
    right, wrong = math.log1p(math.exp(-0.2)), math.log1p(math.exp(0.2))
    by_hand = {
        ("sigmoid", 0.0): right,
        ("sigmoid", 0.1): 0.9 * right + 0.1 * wrong,
        ("robust", 0.1): (0.9 * right - 0.1 * wrong) / 0.8,
        ("hinge", 0.0): 1 - 0.2,
        ("ipo", 0.0): (2.0 - 5.0) ** 2,
    }
    for (loss, smoothing), expected in by_hand.items():
        found = preference_loss(h, loss=loss, beta=0.1, label_smoothing=smoothing)  # type: ignore[arg-type]
        assert float(found) == pytest.approx(expected, rel=1e-5), loss


@given(st.floats(0.01, 0.49), st.floats(-4, 4))
def test_the_robust_loss_is_unbiased_under_flipped_labels(chance: float, h: float) -> None:
    def at(value: float, loss: str, smoothing: float) -> float:
        tensor = torch.tensor([value], dtype=torch.float64)
        return float(
            preference_loss(tensor, loss=loss, beta=1.0, label_smoothing=smoothing)  # type: ignore[arg-type]
        )

    noisy = (1 - chance) * at(h, "robust", chance) + chance * at(-h, "robust", chance)
    assert noisy == pytest.approx(at(h, "sigmoid", 0.0), rel=1e-6, abs=1e-9)


# -- the batch


def test_only_what_is_said_is_asked_for_eos_included() -> None:
    batch = completion_batch([[7, 8, 9], [6]], [[10, EOS], [11, 12, EOS]], pad_id=EOS)
    assert batch["ids"].tolist() == [[7, 8, 9, 10], [6, 11, 12, EOS]]
    assert batch["labels"].tolist() == [[IGNORED, IGNORED, 10, EOS], [11, 12, EOS, IGNORED]]


def test_an_empty_prompt_is_refused() -> None:
    with pytest.raises(TrainingError, match="the prompt of example 1"):
        completion_batch([[7], []], [[8], [9]], pad_id=0)


def test_padding_changes_no_log_probability(tiny: Callable[..., CausalLM]) -> None:
    model = tiny("llama", "causal_lm").eval()
    short, long = ([7, 8], [9, EOS]), ([6] * 9, [11, 12, EOS])
    alone = log_probs_of(model, completion_batch([short[0]], [short[1]], pad_id=0)).sum()
    beside = log_probs_of(model, completion_batch(*zip(short, long, strict=True), pad_id=0))
    torch.testing.assert_close(beside[0].sum(), alone, atol=1e-5, rtol=0)


def test_chunks_change_neither_log_probabilities_nor_gradients(
    tiny: Callable[..., CausalLM], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny("llama", "causal_lm")
    batch = completion_batch([[7, 8]] * 5, [[9, 10, 11, EOS]] * 5, pad_id=0)

    def at_once() -> tuple[torch.Tensor, list[torch.Tensor]]:
        model.zero_grad()
        log_probs_BT = log_probs_of(model, batch)
        (log_probs_BT.square().sum()).backward()
        return log_probs_BT.detach(), [p.grad.clone() for p in model.parameters()]  # type: ignore[union-attr]

    whole, of_whole = at_once()
    monkeypatch.setattr("pharos.train.completions.chunk_for", lambda _: 3)
    chunked, of_chunked = at_once()
    torch.testing.assert_close(chunked, whole)
    torch.testing.assert_close(of_chunked, of_whole)


# -- where it begins


@pytest.mark.parametrize(
    ("loss", "smoothing", "first"),
    [
        ("sigmoid", 0.0, math.log(2)),
        ("sigmoid", 0.2, math.log(2)),
        ("robust", 0.2, math.log(2)),
        ("hinge", 0.0, 1.0),
        ("ipo", 0.0, 25.0),
    ],
)
def test_the_first_loss_is_known_exactly_whatever_the_dropout(
    loss: str, smoothing: float, first: float
) -> None:
    model, reference = model_with_dropout(), model_with_dropout()
    objective = dpo(reference, loss=loss, label_smoothing=smoothing)
    batch = objective.collate(pairs(6))
    with torch.no_grad():
        sums = objective.losses(model, batch)
    assert float(sums["dpo"]) / 6 == pytest.approx(first, abs=1e-6)
    assert objective.first_loss == pytest.approx(first, abs=1e-6)
    assert float(sums["margin"]) == 0.0
    assert float(sums["chosen_reward"]) == float(sums["rejected_reward"]) == 0.0


def test_with_an_adapter_the_base_is_the_reference_and_dropout_is_off() -> None:
    model = model_with_dropout()
    adapters = Adapters(model)
    adapters.add(LoraConfig(r=4, lora_dropout=0.3))
    model.train()
    objective = dpo(None)
    batch = objective.collate(pairs(6))
    with torch.no_grad():
        first = float(objective.losses(model, batch)["dpo"]) / 6
    assert first == pytest.approx(math.log(2), abs=1e-6)
    base = objective.reference.log_probs(model, batch)
    for part in adapters.parts():
        for parameter in part.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
    assert torch.equal(objective.reference.log_probs(model, batch), base)
    assert float(objective.losses(model, batch)["margin"]) != 0.0


def test_the_reference_restores_the_mode_of_the_policy() -> None:
    model = model_with_dropout()
    Adapters(model).add(LoraConfig(r=4))
    for mode in (True, False):
        model.train(mode)
        dpo(None).reference.log_probs(model, dpo(None).collate(pairs(2)))
        assert model.training is mode


def test_without_adapter_or_reference_the_remedy_is_told() -> None:
    objective = dpo(None)
    with pytest.raises(TrainingError, match=r"objective\.reference"):
        objective.losses(model_with_dropout(), objective.collate(pairs(2)))


def test_a_run_whose_reference_is_another_model_is_stopped_at_step_zero() -> None:
    model, other = model_with_dropout(), model_with_dropout(seed=1)
    objective = dpo(model_with_dropout())
    batch = objective.collate(pairs(4))
    sums = objective.losses(model, batch)
    check_first_step(model, objective, [batch], lambda _: sums, is_fresh=False)
    wrong = objective.losses(other, batch)
    with pytest.raises(TrainingError, match="the first dpo loss is"):
        check_first_step(other, objective, [batch], lambda _: wrong, is_fresh=False)


# -- the reference computed before


def test_a_precomputed_reference_begins_at_ln_2_and_is_read_again(tmp_path: Path) -> None:
    reference, path = model_with_dropout(), tmp_path / "reference.npz"
    rows = PairList(pairs(7))
    computed = ReferenceRows.computed(rows, reference, path, pad_id=0, batch_size=3)
    assert reference.training
    objective = dpo(None)
    batch = objective.collate([computed.row(i, 0) for i in range(7)])
    sums = objective.losses(model_with_dropout(), batch)
    assert float(sums["dpo"]) / 7 == pytest.approx(math.log(2), abs=1e-5)
    written = path.stat().st_mtime_ns
    again = ReferenceRows.computed(rows, reference, path, pad_id=0, batch_size=3)
    assert path.stat().st_mtime_ns == written
    assert np.array_equal(again.sums_N2, computed.sums_N2)


def test_a_kept_reference_of_other_weights_or_pairs_is_not_used(tmp_path: Path) -> None:
    path, rows = tmp_path / "reference.npz", PairList(pairs(3))

    def sums(model: CausalLM, pairs_there: PairList) -> np.ndarray:
        found = ReferenceRows.computed(pairs_there, model, path, pad_id=0, batch_size=2)
        return found.sums_N2

    first = sums(model_with_dropout(), rows)
    assert not np.allclose(sums(model_with_dropout(seed=1), rows), first)
    assert np.array_equal(sums(model_with_dropout(), rows), first)
    assert not np.allclose(sums(model_with_dropout(), PairList(pairs(3, seed=5))), first)


# -- learning


def test_the_margin_grows_on_pairs_that_were_held_out() -> None:
    torch.set_num_threads(1)
    model, objective = model_with_dropout(), dpo(model_with_dropout(), beta=0.5)
    held_out = objective.collate(pairs(40, seed=1))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for step in range(80):
        batch = objective.collate(pairs(16, seed=100 + step))
        loss = objective.losses(model, batch)["dpo"] / 16
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        sums = objective.losses(model, held_out)
    assert float(sums["dpo"]) / 40 < 0.6 * math.log(2)
    assert float(sums["margin"]) / 40 > 0.5
    assert float(sums["accuracy"]) / 40 > 0.85


def test_the_sft_term_is_counted_by_chosen_tokens() -> None:
    model = model_with_dropout()
    objective = dpo(model_with_dropout(), sft_weight=0.5)
    batch = objective.collate(pairs(4))
    assert objective.count(batch) == {"dpo": 4, "sft": 4 * 3}
    sums = objective.losses(model, batch)
    chosen = log_probs_of(model, batch)[:4].sum()
    assert float(sums["sft"]) == pytest.approx(-float(chosen), rel=1e-5)
    assert objective.weights == {"dpo": 1.0, "sft": 0.5}


def test_ipo_compares_means_over_tokens() -> None:
    model, reference = model_with_dropout(seed=1), model_with_dropout()
    objective = dpo(reference, loss="ipo")
    batch = objective.collate(pairs(1))
    ratios = log_probs_of(model.eval(), batch) - log_probs_of(reference, batch)
    means = ratios.sum(1) / is_said(batch).sum(1)
    expected = float((means[0] - means[1] - 5.0).square())
    assert float(objective.losses(model, batch)["dpo"]) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(
    "keys",
    [
        {"beta": 0.0},
        {"label_smoothing": 0.5},
        {"loss": "ipo", "label_smoothing": 0.1},
        {"loss": "robust"},
        {"precompute": True},
        {"loss": "sigmoyd"},
    ],
)
def test_settings_that_cannot_be_are_refused(keys: dict[str, object]) -> None:
    with pytest.raises(TrainingError, match="objective"):
        new_objective("dpo", keys, VOCABULARY)
