import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pharos.ops.positions import Alibi, RelativeBuckets, Rope, RopeScaling, sinusoidal

transformers = pytest.importorskip("transformers")

TRAINED = {"original_max_position_embeddings": 64}
SCALINGS: dict[str, tuple[RopeScaling | None, dict[str, Any]]] = {
    "linear": (RopeScaling(kind="linear", factor=4.0, original_max_positions=64), {}),
    "dynamic": (RopeScaling(kind="dynamic", factor=2.0, original_max_positions=64), {}),
    "yarn": (RopeScaling(kind="yarn", factor=8.0, original_max_positions=64), TRAINED),
    "yarn, other bounds": (
        RopeScaling(
            kind="yarn",
            factor=8.0,
            original_max_positions=64,
            beta_fast=24.0,
            beta_slow=2.0,
            truncate=False,
        ),
        TRAINED | {"beta_fast": 24.0, "beta_slow": 2.0, "truncate": False},
    ),
    "yarn, sharpened": (
        RopeScaling(
            kind="yarn", factor=8.0, original_max_positions=64, mscale=1.0, mscale_all_dim=0.8
        ),
        TRAINED | {"mscale": 1.0, "mscale_all_dim": 0.8},
    ),
    "llama3": (
        RopeScaling(
            kind="llama3",
            factor=8.0,
            original_max_positions=64,
            low_freq_factor=1.0,
            high_freq_factor=4.0,
        ),
        TRAINED | {"low_freq_factor": 1.0, "high_freq_factor": 4.0},
    ),
}


@pytest.mark.parametrize("length", [32, 64, 500])
@pytest.mark.parametrize("name", SCALINGS)
def test_rope_scalings_equal_those_of_transformers(name: str, length: int) -> None:
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    scaling, settings = SCALINGS[name]
    assert scaling is not None
    config = transformers.LlamaConfig(
        hidden_size=128,
        num_attention_heads=2,
        max_position_embeddings=64 if scaling.kind == "dynamic" else int(64 * scaling.factor),
        rope_parameters={
            "rope_type": scaling.kind,
            "rope_theta": 10_000.0,
            "factor": scaling.factor,
            **settings,
        },
    )
    expected, sharpness = ROPE_INIT_FUNCTIONS[scaling.kind](config, "cpu", seq_len=length)
    frequencies, ours = Rope(width=64, scaling=scaling).frequencies(torch.tensor([[length]]))
    torch.testing.assert_close(frequencies.flatten(), expected, rtol=1e-6, atol=0.0)
    assert ours == pytest.approx(sharpness)


@given(width=st.sampled_from([2, 8, 64]), apart=st.integers(-100, 100), shift=st.integers(0, 500))
def test_rotated_queries_and_keys_meet_by_their_distance(
    width: int, apart: int, shift: int
) -> None:
    q_B1K, k_B1K = torch.randn(2, 1, 1, 1, width, dtype=torch.float64)
    rope = Rope(width=width)

    def score(q_position: int, k_position: int) -> torch.Tensor:
        q_rotation, k_rotation = (
            rope.rotation(torch.tensor([[position]])) for position in (q_position, k_position)
        )
        return (q_rotation(q_B1K) * k_rotation(k_B1K)).sum()

    torch.testing.assert_close(
        score(100 + apart, 100), score(100 + apart + shift, 100 + shift), rtol=1e-3, atol=1e-3
    )


def test_rope_leaves_what_lies_beyond_its_width() -> None:
    x_BHTK = torch.randn(1, 2, 5, 16)
    turned = Rope(width=8).rotation(torch.arange(5)[None])(x_BHTK)
    assert torch.equal(turned[..., 8:], x_BHTK[..., 8:])
    torch.testing.assert_close(turned.norm(dim=-1), x_BHTK.norm(dim=-1))


@given(heads=st.integers(1, 12), shift=st.integers(0, 50))
def test_alibi_depends_on_the_distance_only(heads: int, shift: int) -> None:
    bias = Alibi(heads).bias(100)
    q_T, k_S = torch.arange(20, 40), torch.arange(45)
    assert torch.equal(bias.tile(q_T, k_S), bias.tile(q_T + shift, k_S + shift))


@pytest.mark.parametrize("heads", [1, 4, 8, 12, 71])
def test_alibi_slopes_equal_those_of_transformers(heads: int) -> None:
    from transformers.models.bloom.modeling_bloom import build_alibi_tensor

    expected = build_alibi_tensor(torch.ones(1, 2), heads, torch.float32)  # slope times position
    torch.testing.assert_close(Alibi(heads).slopes, expected[:, 0, 1])


@pytest.mark.parametrize("causal", [True, False])
def test_relative_buckets_equal_those_of_t5(causal: bool) -> None:
    from transformers.models.t5.modeling_t5 import T5Attention

    distance = torch.arange(-300, 301)
    expected = T5Attention._relative_position_bucket(distance, bidirectional=not causal)
    assert torch.equal(RelativeBuckets(num_heads=2, causal=causal).bucket(distance), expected)


def test_a_learned_bias_passes_its_gradient_to_the_buckets() -> None:
    buckets = RelativeBuckets(num_heads=2, causal=False)
    buckets.bias(10).tile(torch.arange(10), torch.arange(10)).sum().backward()
    assert buckets.weight.grad is not None
    assert buckets.weight.grad.sum() == 2 * 10 * 10


def test_sinusoids_are_those_of_the_paper() -> None:
    table = sinusoidal(50, 12)
    assert table[7, 4].item() == pytest.approx(math.sin(7 / 10_000 ** (4 / 12)), abs=1e-6)
    assert table[7, 5].item() == pytest.approx(math.cos(7 / 10_000 ** (4 / 12)), abs=1e-6)


def test_impossible_ropes_are_refused_with_the_number() -> None:
    with pytest.raises(ValueError, match="7"):
        Rope(width=7)
    with pytest.raises(ValueError, match=r"0\.5"):
        RopeScaling(kind="linear", factor=0.5, original_max_positions=10)
