"""Expert parallelism (Lepikhin et al. 2020, arXiv:2006.16668): each rank has some of the experts,
and tokens travel to theirs and back.

    route ─ sort by expert ─ send ─ own experts ─ send back ─ weigh and add

The ranks have rows of their own, so an expert meets the tokens of all of them, and its gradient
needs no sum over the axis. No token is dropped, however many one expert is sent.

Shapes: N tokens, D hidden width, C experts chosen per token, M = N·C tokens sent, R received.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh

from pharos.ops.experts import MixtureOfExperts, Routing, grouped_experts, route
from pharos.train.parallel.collectives import exchange, exchange_plain


class Excerpt(nn.ModuleList):
    """Some modules of a list, under the numbers that they have there."""

    def __init__(self, modules: Mapping[int, nn.Module]) -> None:
        super().__init__()
        for number, module in modules.items():
            self.add_module(str(number), module)


class SpreadExperts(nn.Module):
    """A mixture of experts of which this rank has a part; the router is everywhere."""

    def __init__(self, whole: MixtureOfExperts, mesh: DeviceMesh) -> None:
        super().__init__()
        self.top_k, self.router = whole.top_k, whole.router
        self.group, self.num_ranks = mesh.get_group(), mesh.size()
        self.per_rank = len(whole.experts) // self.num_ranks
        first = mesh.get_local_rank() * self.per_rank
        own = range(first, first + self.per_rank)
        self.experts = Excerpt({i: whole.experts[i] for i in own})

    def forward(self, x_BTD: Tensor, router_logits: list[Tensor] | None = None) -> Tensor:
        """As `MixtureOfExperts.forward`."""
        x_ND = x_BTD.flatten(0, 1)
        logits_NE = self.router(x_ND)
        if router_logits is not None:
            router_logits.append(logits_NE)
        routing = route(logits_NE, self.top_k)
        expert_M = routing.experts_NC.flatten()
        order_M = expert_M.argsort(stable=True)
        y_MD = self._travel(x_ND[order_M // self.top_k], expert_M[order_M])
        back_M = torch.empty_like(order_M)
        back_M[order_M] = torch.arange(len(order_M), device=order_M.device)
        y_NCD = y_MD[back_M].view(*routing.experts_NC.shape, -1)
        y_ND = (y_NCD * routing.weights_NC[..., None].to(x_ND.dtype)).sum(dim=1)
        return y_ND.view_as(x_BTD)

    def _travel(self, x_MD: Tensor, expert_M: Tensor) -> Tensor:
        """Each token, sorted by expert, to its expert and back."""
        counts = (expert_M // self.per_rank).bincount(minlength=self.num_ranks)
        ones = [1] * self.num_ranks
        incoming = exchange_plain(counts, ones, ones, self.group)
        sent, received = counts.tolist(), incoming.tolist()
        x_RD = exchange(x_MD, sent, received, self.group)
        expert_R = exchange_plain(expert_M % self.per_rank, sent, received, self.group)
        return exchange(self._own(x_RD, expert_R), received, sent, self.group)

    def _own(self, x_RD: Tensor, expert_R: Tensor) -> Tensor:
        if not len(x_RD) and not torch.is_grad_enabled():
            return x_RD
        alone = Routing(expert_R[:, None], x_RD.new_ones(len(x_RD), 1, dtype=torch.float32))
        return grouped_experts(x_RD, alone, self.experts)


def apply_expert_parallel(model: nn.Module, mesh: DeviceMesh) -> None:
    """Replace every mixture of experts in `model` by this rank's part of it."""
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, MixtureOfExperts):
                setattr(module, name, SpreadExperts(child, mesh))


def expert_modules(model: nn.Module) -> list[nn.Module]:
    """The experts that only some ranks have."""
    spread = [module for module in model.modules() if isinstance(module, SpreadExperts)]
    return [expert for module in spread for expert in module.experts]
