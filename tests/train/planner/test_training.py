from dataclasses import replace

import pytest

from pharos.train.planner.budget import Given
from pharos.train.planner.devices import device_named
from pharos.train.planner.shapes import ModelShape, assumed_shape, known_shape
from pharos.train.planner.training import Assumptions, plan_training

H100 = Assumptions(device=device_named("h100"))
A100 = Assumptions(device=device_named("a100-80"))
PALM = ModelShape(
    name="palm-540b",
    num_parameters=540_350_000_000,
    num_active_parameters=540_350_000_000,
    num_embedding_parameters=4_718_592_000,
    num_layers=118,
    hidden_size=18432,
    num_heads=48,
    num_kv_heads=1,
    head_dim=256,
    vocab_size=256_000,
    mlp_kept=4 * 73_728,
    context=2048,
)


def shape(name: str) -> ModelShape:
    found = known_shape(name)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("model", "tokens", "mfu", "published", "error"),
    [
        # Touvron et al. 2023: 380 tokens a second on each A100, which is an MFU of 0.496
        ("llama-65b", 1.4e12, 0.496, 1_022_362, 0.01),
        # Llama 2's card; one MFU for all three sizes
        ("llama-2-7b", 2e12, 0.45, 184_320, 0.01),
        ("llama-2-13b", 2e12, 0.45, 368_640, 0.06),
        ("llama-2-70b", 2e12, 0.45, 1_720_320, 0.03),
    ],
)
def test_gpu_hours_of_llama_are_the_published_ones(
    model: str, tokens: float, mfu: float, published: int, error: float
) -> None:
    plan = plan_training(Given(tokens=tokens), replace(A100, mfu=mfu), shape(model))
    assert plan.budget.gpu_hours == pytest.approx(published, rel=error)


def test_palm_trains_at_the_published_speed() -> None:
    """238.3 thousand tokens a second on 6144 TPU v4 at an MFU of 46.2%."""
    assumed = Assumptions(device=device_named("tpu-v4"), mfu=0.462)
    plan = plan_training(Given(tokens=780e9, gpus=6144), assumed, PALM)
    assert plan.tokens_per_second == pytest.approx(238.3e3, rel=0.005)
    assert plan.budget.compute == pytest.approx(2.56e24, rel=0.005)


def test_gpt_3_is_6_n_d_and_attention() -> None:
    plan = plan_training(Given(tokens=300e9), H100, shape("gpt3-175b"))
    assert plan.budget.compute - plan.attention_compute == pytest.approx(3.14e23, rel=2e-3)
    assert plan.attention_compute / plan.budget.compute == pytest.approx(0.027, abs=1e-3)


def test_the_compute_of_chinchilla_gives_chinchilla() -> None:
    plan = plan_training(Given(compute=5.76e23), H100)
    assert plan.budget.params == pytest.approx(70e9, rel=0.05)
    assert plan.budget.tokens == pytest.approx(1.4e12, rel=0.06)
    assert not plan.is_shape_known and plan.attention_compute == 0


def test_a_token_of_a_mixture_is_charged_for_the_experts_it_meets() -> None:
    mixtral = shape("mixtral-8x7b")
    plan = plan_training(Given(tokens=1e12), H100, mixtral)
    assert plan.budget.params == mixtral.num_active_parameters
    assert plan.strategies["DDP"][1].weights == 4 * mixtral.num_parameters


def test_days_ask_for_whole_nodes() -> None:
    plan = plan_training(Given(compute=1e22, days=10), H100)
    assert plan.gpus % 8 == 0
    assert plan.days <= 10
    assert plan_training(Given(compute=1e18, days=1), H100).gpus == 1


def test_a_world_is_chosen_that_holds_the_model_and_ends_within_a_month() -> None:
    plan = plan_training(Given(params=70e9, tokens=1.4e12), H100)
    assert plan.placement is not None
    assert plan.placement.mesh.size == plan.gpus
    assert plan.days <= 30


def test_a_model_too_large_for_its_devices_is_told_how_many_it_needs() -> None:
    plan = plan_training(Given(tokens=1e9, gpus=8), H100, shape("gpt3-175b"))
    assert plan.placement is None and plan.num_steps is None
    assert plan.smallest_world is not None and plan.smallest_world > 8


def test_steps_cover_the_tokens() -> None:
    plan = plan_training(Given(params=1e9, gpus=8), H100)
    assert plan.placement is not None and plan.num_steps is not None
    tokens = plan.placement.batch_sequences * plan.job.sequence_length
    assert (plan.num_steps - 1) * tokens < plan.budget.tokens <= plan.num_steps * tokens


def test_a_model_and_another_number_of_parameters_are_refused() -> None:
    with pytest.raises(ValueError, match=r"params is 1e\+09, and the model gpt2 has 1\.24e\+08"):
        plan_training(Given(params=1e9, tokens=1e9), H100, shape("gpt2"))


@pytest.mark.parametrize("parameters", [1e4, 1e6, 1e8, 1e12])
def test_models_of_any_size_are_planned(parameters: float) -> None:
    plan = plan_training(Given(params=parameters), H100)
    assert plan.job.shape == assumed_shape(parameters)
    assert plan.days > 0


def test_assumptions_that_cannot_be_are_named() -> None:
    with pytest.raises(ValueError, match=r"mfu is 1\.5"):
        plan_training(Given(compute=1e20), replace(H100, mfu=1.5))
    with pytest.raises(ValueError, match="sequence_length is 0; it must be at least 1"):
        replace(H100, sequence_length=0)
    with pytest.raises(ValueError, match="reserve is 1"):
        replace(H100, reserve=1)
