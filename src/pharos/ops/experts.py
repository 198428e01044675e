"""A mixture of experts: a router sends each token to a few of many feed-forward networks (Shazeer
et al. 2017, arXiv:1701.06538), so that a model has many parameters and a token meets few of them.

The tokens are sorted by expert and each expert multiplies all of its tokens at once
(`grouped_experts`); one without tokens is not read. The plain twin sends every token through every
expert and weighs most of the results with zero (`every_expert`).

Left to itself a router comes to favour a few experts. `load_balancing_loss` (Fedus et al. 2021,
arXiv:2101.03961) is added to the training loss against that.

Shapes: N tokens, D hidden width, E experts, C experts chosen per token, B sequences, T tokens of
each.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from pharos.ops.feed_forward import GatedFeedForward


class Routing(NamedTuple):
    """Which experts each token meets, and with what weight; the weights of a token sum to 1."""

    experts_NC: Tensor
    weights_NC: Tensor


def route(logits_NE: Tensor, top_k: int) -> Routing:
    """The `top_k` experts that the router scores highest, weighted by a softmax over these."""
    chosen_NC, experts_NC = logits_NE.float().topk(top_k, dim=-1)
    return Routing(experts_NC, chosen_NC.softmax(dim=-1))


def grouped_experts(x_ND: Tensor, routing: Routing, experts: Iterable[nn.Module]) -> Tensor:
    """The weighted sum of the chosen experts' outputs, each expert run once, over its tokens.

    Experts without tokens run on none of them while gradients are recorded, so that each of their
    parameters has a gradient: zero.
    """
    num_chosen = routing.experts_NC.shape[1]
    order = routing.experts_NC.flatten().argsort(stable=True)
    experts = list(experts)
    counts = routing.experts_NC.flatten().bincount(minlength=len(experts)).tolist()
    parts = x_ND[order // num_chosen].split_with_sizes(counts)
    outputs = [
        expert(part)
        for expert, part in zip(experts, parts, strict=True)
        if len(part) or torch.is_grad_enabled()
    ]
    back = torch.empty_like(order)
    back[order] = torch.arange(len(order), device=order.device)
    y_NCD = torch.cat(outputs)[back].view(*routing.experts_NC.shape, -1)
    return (y_NCD * routing.weights_NC[..., None].to(x_ND.dtype)).sum(dim=1)


def every_expert(x_ND: Tensor, routing: Routing, experts: Sequence[nn.Module]) -> Tensor:
    """The same, of every expert on every token."""
    weights_NE = x_ND.new_zeros(len(x_ND), len(experts))
    weights_NE = weights_NE.scatter(1, routing.experts_NC, routing.weights_NC.to(x_ND.dtype))
    y_END = torch.stack([expert(x_ND) for expert in experts])
    return (y_END * weights_NE.T[..., None]).sum(dim=0)


class MixtureOfExperts(nn.Module):
    """Gated feed-forward networks, of which each token meets `top_k`."""

    def __init__(
        self, width: int, inner: int, *, num_experts: int, top_k: int, activation: str
    ) -> None:
        super().__init__()
        self.top_k = top_k
        self.router = nn.Linear(width, num_experts, bias=False)
        self.experts = nn.ModuleList(
            GatedFeedForward(width, inner, activation=activation) for _ in range(num_experts)
        )

    def forward(self, x_BTD: Tensor, router_logits: list[Tensor] | None = None) -> Tensor:
        """`[B, T, D]`. The router's scores `[B·T, E]` are appended to `router_logits`."""
        x_ND = x_BTD.flatten(0, 1)
        logits_NE = self.router(x_ND)
        if router_logits is not None:
            router_logits.append(logits_NE)
        y_ND = grouped_experts(x_ND, route(logits_NE, self.top_k), self.experts)
        return y_ND.view_as(x_BTD)


def load_balancing_loss(
    router_logits: Sequence[Tensor], *, top_k: int, valid_BT: Tensor | None = None
) -> Tensor:
    """E · Σₑ fₑ · pₑ over the tokens of all layers, where fₑ is how many of a token's choices fall
    on expert e and pₑ is the probability that the router gives it. Where all experts are alike it
    is `top_k`.

    `router_logits` has `[B·T, E]` for each layer; tokens that are not `valid_BT` do not count, and
    where none does it is 0.
    """
    logits_NE = torch.cat(list(router_logits)).float()
    if valid_BT is not None:
        logits_NE = logits_NE[valid_BT.flatten().repeat(len(router_logits))]
    chosen_NE = torch.zeros_like(logits_NE).scatter(1, logits_NE.topk(top_k, dim=-1).indices, 1.0)
    probabilities_NE = logits_NE.softmax(dim=-1)
    count = max(1, len(logits_NE))
    shares_E, probabilities_E = chosen_NE.sum(dim=0) / count, probabilities_NE.sum(dim=0) / count
    return logits_NE.shape[1] * (shares_E * probabilities_E).sum()
