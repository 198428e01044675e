from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pharos.train.planner.devices import DEVICES, device_named
from pharos.train.planner.serving import (
    Load,
    ServingSetup,
    kv_bytes_per_token,
    plan_serving,
    plans_by_gpus,
    read_share,
    weight_bytes,
)
from pharos.train.planner.shapes import SHAPES, ModelShape, known_shape, numbered_shape

KIB = 1024
H100 = ServingSetup(device=device_named("h100"))


def shape(name: str) -> ModelShape:
    found = known_shape(name)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("model", "kibibytes"),
    [("llama-2-70b", 320), ("llama-2-7b", 512), ("llama-3-8b", 128), ("gpt3-175b", 4608)],
)
def test_the_cache_takes_what_is_known_of_it(model: str, kibibytes: int) -> None:
    assert kv_bytes_per_token(shape(model), "fp16") == kibibytes * KIB
    assert kv_bytes_per_token(shape(model), "int8") == kibibytes * KIB // 2
    assert kv_bytes_per_token(shape(model), "fp8") == kibibytes * KIB // 2


def test_gpt_3_takes_700_350_and_175_gb() -> None:
    for precision, gigabytes in (("fp32", 700), ("fp16", 350), ("int8", 175)):
        taken = weight_bytes(shape("gpt3-175b"), precision)  # type: ignore[arg-type]
        assert taken == pytest.approx(gigabytes * 1e9, rel=0.003)
        named = numbered_shape(175e9, layers=96, kv_heads=96, head_dim=128)
        assert weight_bytes(named, precision) == gigabytes * 1e9  # type: ignore[arg-type]


def test_mixtral_takes_93_gb_though_a_token_meets_a_quarter_of_it() -> None:
    assert weight_bytes(shape("mixtral-8x7b"), "bf16") == pytest.approx(93e9, rel=0.006)


def test_one_token_of_mixtral_reads_two_experts_and_many_read_all() -> None:
    mixtral = shape("mixtral-8x7b")
    alone = read_share(mixtral, 1) * mixtral.num_parameters
    assert alone == pytest.approx(mixtral.num_active_parameters)
    assert read_share(mixtral, 1000) == pytest.approx(1)
    assert read_share(shape("llama-2-7b"), 1) == 1


def test_a_sequence_alone_decodes_at_the_speed_of_memory() -> None:
    plan = plan_serving(shape("llama-2-7b"), Load(prompt_tokens=10, batch=1), H100)
    weights_alone = 3350e9 * 0.7 / (2 * 6.738e9)
    assert plan.is_bound_by_bandwidth
    assert plan.decode_tokens_per_second == pytest.approx(weights_alone, rel=0.01)


def test_a_70b_needs_two_h100_and_one_in_int4() -> None:
    assert plan_serving(shape("llama-2-70b"), Load(), replace(H100)).gpus == 2
    assert plan_serving(shape("llama-2-70b"), Load(), replace(H100, weights="int4")).gpus == 1


def test_a_window_bounds_what_a_sequence_keeps() -> None:
    load = Load(prompt_tokens=20_000, output_tokens=100)
    plan = plan_serving(shape("mistral-7b"), load, H100)
    assert plan.kv_bytes_per_sequence == 4096 * plan.kv_bytes_per_token


def test_keys_and_values_are_copied_where_devices_outnumber_their_heads() -> None:
    loads = Load()
    eight, sixteen = (
        plan_serving(shape("llama-2-70b"), loads, replace(H100, gpus=gpus)) for gpus in (8, 16)
    )
    assert sixteen.largest_batch < 1.2 * eight.largest_batch


@settings(deadline=None)
@given(
    model=st.sampled_from([one for one in SHAPES if (one.context or 0) >= 2048]),
    device=st.sampled_from(DEVICES),
    batch=st.integers(1, 64),
    prompt=st.integers(1, 1500),
    output=st.integers(1, 500),
)
def test_what_is_planned_fits_and_its_costs_add_up(
    model: ModelShape, device: object, batch: int, prompt: int, output: int
) -> None:
    load = Load(prompt_tokens=prompt, output_tokens=output, batch=batch)
    setup = replace(H100, device=device)
    plan = plan_serving(model, load, setup)
    assert plan.batch <= plan.largest_batch
    cache = plan.batch * plan.kv_bytes_per_sequence
    assert weight_bytes(model, "bf16") + cache <= plan.gpus * setup.usable_memory * 1.000001
    dollars = (
        prompt * plan.dollars_per_million_input + output * plan.dollars_per_million_output
    ) / 1e6
    whole = plan.gpus * setup.price_per_second / plan.requests_per_second
    assert dollars == pytest.approx(whole)


def test_larger_batches_serve_more_and_answer_more_slowly() -> None:
    plans = [
        plan_serving(shape("llama-3-8b"), Load(batch=batch), H100) for batch in (1, 8, 64, 128)
    ]
    assert [plan.requests_per_second for plan in plans] == sorted(
        plan.requests_per_second for plan in plans
    )
    assert [plan.step_seconds for plan in plans] == sorted(plan.step_seconds for plan in plans)


def test_replicas_cover_the_requests() -> None:
    plan = plan_serving(shape("llama-3-8b"), Load(requests_per_second=500), H100)
    assert (plan.replicas - 1) * plan.requests_per_second < 500
    assert plan.replicas * plan.requests_per_second >= 500
    assert plan.total_gpus == plan.replicas * plan.gpus


def test_replicas_of_every_size_up_to_a_node_are_compared() -> None:
    plans = plans_by_gpus(shape("llama-3-70b"), Load(), H100)
    assert [plan.gpus for plan in plans] == [2, 4, 8]
    assert plans[2].dollars_per_million_output < plans[0].dollars_per_million_output


def test_what_does_not_fit_says_by_how_much() -> None:
    with pytest.raises(ValueError, match=r"1 h100 have 72 GB to use; llama-2-70b takes 138 GB"):
        plan_serving(shape("llama-2-70b"), Load(), replace(H100, gpus=1))
    with pytest.raises(ValueError, match=r"batch is 5000; 1 h100 hold at most \d+ sequences"):
        plan_serving(shape("llama-3-8b"), Load(batch=5000), replace(H100, gpus=1))


def test_a_sequence_longer_than_the_model_is_refused() -> None:
    with pytest.raises(ValueError, match="1280 together; gpt2 was made for 1024"):
        plan_serving(shape("gpt2"), Load(), H100)


def test_fp8_needs_a_device_that_multiplies_it() -> None:
    with pytest.raises(ValueError, match="a a100-80 does not multiply fp8; take int8"):
        replace(H100, device=device_named("a100-80"), weights="fp8")
    assert replace(H100, weights="fp8").flops == 2 * 989.5e12 * 0.5


def test_an_unknown_gpu_is_told_the_known_ones() -> None:
    with pytest.raises(ValueError, match="unknown GPU 'a100'; choose from v100, a100-40"):
        device_named("a100")
