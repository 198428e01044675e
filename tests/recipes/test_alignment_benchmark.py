"""The benchmark of alignment, held to what it is to show."""

import pytest
import torch
from benchmarks.alignment import ALGORITHMS, GOAL, MOST_KL, Algorithm, base_model, measure

from pharos.models.heads import CausalLM


@pytest.fixture(scope="module", params=[0, 1, 2])
def base(request: pytest.FixtureRequest) -> tuple[int, CausalLM]:
    """A seed, and the decoder of a poor teacher that both algorithms begin with."""
    torch.set_num_threads(1)
    return request.param, base_model(request.param)


@pytest.mark.long
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_rewards_alone_raise_a_poor_policy_that_stays_near_to_where_it_began(
    algorithm: Algorithm, base: tuple[int, CausalLM]
) -> None:
    seed, policy = base
    line = measure(algorithm, policy, seed=seed, steps=200)
    assert line.base < 0.5
    assert line.final >= GOAL >= 0.9
    assert line.kl <= MOST_KL <= 2.0
