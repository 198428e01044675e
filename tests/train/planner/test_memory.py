from dataclasses import replace

import pytest

from pharos.train.planner.memory import (
    Job,
    Mesh,
    Optimizer,
    Strategy,
    layer_activation_bytes,
    memory_use,
)
from pharos.train.planner.shapes import ModelShape, assumed_shape, known_shape


def shape(name: str) -> ModelShape:
    found = known_shape(name)
    assert found is not None
    return found


ZERO_PAPER = Job(shape=assumed_shape(7.5e9), sequence_length=1024, states="bf16")


@pytest.mark.parametrize(
    ("strategy", "gigabytes"), [("ddp", 120), ("zero1", 31.4), ("zero2", 16.6), ("fsdp", 1.9)]
)
def test_states_are_those_of_the_zero_paper(strategy: Strategy, gigabytes: float) -> None:
    """Its figure 1: 7.5B parameters on 64 devices."""
    memory = memory_use(ZERO_PAPER, Mesh(data=64, strategy=strategy), 1)
    assert memory.states / 1e9 == pytest.approx(gigabytes, rel=0.02)


def test_states_take_16_bytes_a_parameter_in_either_precision() -> None:
    for states in ("fp32", "bf16"):
        memory = memory_use(replace(ZERO_PAPER, states=states), Mesh(data=1), 1)
        assert memory.states == pytest.approx(16 * 7.5e9)


@pytest.mark.parametrize(
    ("optimizer", "least", "most"), [("adamw", 8, 8), ("adamw8bit", 2, 2.1), ("muon", 4, 4.3)]
)
def test_optimizers_keep_what_their_papers_say(
    optimizer: Optimizer, least: float, most: float
) -> None:
    job = Job(shape=shape("llama-2-7b"), sequence_length=1024, optimizer=optimizer)
    per_parameter = memory_use(job, Mesh(data=1), 1).optimizer / job.shape.num_parameters
    assert least <= per_parameter <= most


MT_NLG = replace(
    assumed_shape(530e9), num_layers=105, hidden_size=20480, num_heads=128, mlp_kept=8 * 20480
)


@pytest.mark.parametrize(("model", "saved"), [(shape("gpt3-175b"), 0.70), (MT_NLG, 0.65)])
def test_selective_checkpointing_saves_what_the_paper_says(model: ModelShape, saved: float) -> None:
    """Korthikanti et al., section 5."""
    whole = layer_activation_bytes(model, 2048, 1, "none")
    selective = layer_activation_bytes(model, 2048, 1, "selective")
    assert 1 - selective / whole == pytest.approx(saved, abs=0.005)


def test_a_layer_keeps_what_the_formula_says() -> None:
    model = shape("gpt3-175b")
    sbh = 2048 * 3 * 12288
    assert layer_activation_bytes(model, 2048, 3, "none") == sbh * (34 + 5 * 96 * 2048 / 12288)
    assert layer_activation_bytes(model, 2048, 3, "selective") == 34 * sbh
    assert layer_activation_bytes(model, 2048, 3, "selective", tensor=8) == 13 * sbh
    assert layer_activation_bytes(model, 2048, 3, "full") == 2 * sbh


def test_a_gated_feed_forward_keeps_more_and_a_token_of_a_mixture_that_of_its_experts() -> None:
    """Inner numbers in 16 bits: gate, up, the gate's activation, their product."""
    llama, mixtral = shape("llama-3-8b"), shape("mixtral-8x7b")
    for model, experts in ((llama, 1), (mixtral, 2)):
        kept = layer_activation_bytes(model, 1024, 1, "selective")
        assert kept == 1024 * (18 * 4096 + experts * 4 * 2 * 14336)


def test_sharing_more_never_takes_more() -> None:
    job = Job(shape=shape("llama-2-7b"), sequence_length=4096)
    strategies: tuple[Strategy, ...] = ("ddp", "zero1", "zero2", "fsdp")
    totals = [memory_use(job, Mesh(data=8, strategy=one), 1).total for one in strategies]
    assert totals == sorted(totals, reverse=True)
    by_tensor = [memory_use(job, Mesh(data=1, tensor=t), 1).total for t in (1, 2, 4, 8)]
    assert by_tensor == sorted(by_tensor, reverse=True)


def test_a_pipeline_divides_states_and_not_activations() -> None:
    """Under 1F1B the first stage has as many micro-batches under way as there are stages."""
    job = Job(shape=shape("gpt3-175b"), sequence_length=2048)
    whole, staged = (memory_use(job, Mesh(data=1, pipeline=p), 1) for p in (1, 8))
    assert staged.states == pytest.approx(whole.states / 8, rel=0.05)
    assert staged.activations == pytest.approx(whole.activations, rel=0.05)


def test_weights_of_gpt_3_take_700_gb() -> None:
    job = Job(shape=shape("gpt3-175b"), sequence_length=2048)
    assert memory_use(job, Mesh(data=1), 1).weights == pytest.approx(700e9, rel=0.01)
