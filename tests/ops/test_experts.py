import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from pharos.ops.experts import (
    MixtureOfExperts,
    every_expert,
    grouped_experts,
    load_balancing_loss,
    route,
)

WIDTH = 8


def mixture(num_experts: int, top_k: int, seed: int = 0) -> MixtureOfExperts:
    torch.manual_seed(seed)
    return MixtureOfExperts(WIDTH, 12, num_experts=num_experts, top_k=top_k, activation="silu")


class Counting(nn.Module):
    """An expert that notes how many tokens it got."""

    def __init__(self, calls: list[int]) -> None:
        super().__init__()
        self.calls = calls

    def forward(self, x_ND: torch.Tensor) -> torch.Tensor:
        self.calls.append(len(x_ND))
        return x_ND


@settings(deadline=None, max_examples=40)
@given(
    num_tokens=st.integers(1, 20),
    num_experts=st.integers(1, 6),
    chosen=st.integers(1, 6),
    seed=st.integers(0, 1000),
)
def test_grouped_execution_equals_every_expert_on_every_token(
    num_tokens: int, num_experts: int, chosen: int, seed: int
) -> None:
    layer = mixture(num_experts, min(chosen, num_experts), seed)
    x_ND = torch.randn(num_tokens, WIDTH)
    routing = route(layer.router(x_ND), layer.top_k)
    y_ND, twin_ND = (run(x_ND, routing, layer.experts) for run in (grouped_experts, every_expert))
    torch.testing.assert_close(y_ND, twin_ND)
    weights_ND, parameters = torch.randn_like(y_ND), list(layer.parameters())
    losses = ((y_ND * weights_ND).sum(), (twin_ND * weights_ND).sum())
    ours, twins = (torch.autograd.grad(loss, parameters, retain_graph=True) for loss in losses)
    torch.testing.assert_close(ours, twins)


def test_the_weights_of_a_token_are_a_softmax_over_the_chosen() -> None:
    experts_NC, weights_NC = route(torch.tensor([[1.0, 3.0, 2.0, -9.0]]), top_k=2)
    assert experts_NC.tolist() == [[1, 2]]
    torch.testing.assert_close(weights_NC, torch.tensor([[3.0, 2.0]]).softmax(-1))


def test_an_expert_without_tokens_is_not_run_when_answering() -> None:
    calls: list[int] = []
    routing = route(torch.tensor([[0.0, 1.0, 2.0, 3.0]]), top_k=2)
    with torch.no_grad():
        grouped_experts(torch.ones(1, WIDTH), routing, [Counting(calls) for _ in range(4)])
    assert calls == [1, 1]


def test_every_expert_has_a_gradient_when_training() -> None:
    layer = mixture(8, 1)
    layer(torch.randn(1, 2, WIDTH)).sum().backward()
    assert all(parameter.grad is not None for parameter in layer.parameters())


def test_the_scores_of_the_router_are_kept_for_who_asks() -> None:
    layer, kept = mixture(3, 2), list[torch.Tensor]()
    layer(torch.randn(2, 5, WIDTH), kept)
    assert [tuple(scores.shape) for scores in kept] == [(10, 3)]


@pytest.mark.parametrize("top_k", [1, 2])
def test_the_balancing_loss_is_least_where_all_experts_are_alike(top_k: int) -> None:
    even_NE = torch.eye(4).roll(1, 0) + torch.eye(4)
    assert load_balancing_loss([even_NE], top_k=top_k).item() == pytest.approx(top_k)
    one_sided_NE = torch.tensor([[9.0, 8.0, 0.0, 0.0]]).repeat(4, 1)
    assert load_balancing_loss([one_sided_NE], top_k=top_k).item() > top_k + 0.5


def test_padding_does_not_count_as_a_choice() -> None:
    scores_NE, valid_BT = torch.randn(6, 4), torch.tensor([[1, 1, 0], [1, 0, 0]]).bool()
    expected = load_balancing_loss([scores_NE[[0, 1, 3]]], top_k=2)
    found = load_balancing_loss([scores_NE], top_k=2, valid_BT=valid_BT)
    torch.testing.assert_close(found, expected)


def test_where_no_token_counts_there_is_nothing_to_balance() -> None:
    scores_NE = torch.randn(4, 3, requires_grad=True)
    loss = load_balancing_loss([scores_NE], top_k=2, valid_BT=torch.zeros(1, 4, dtype=torch.bool))
    loss.backward()
    assert loss.item() == 0.0
    assert scores_NE.grad is not None
    assert not scores_NE.grad.any()
