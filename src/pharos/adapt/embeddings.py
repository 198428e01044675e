"""An embedding with the parts of adapters: a low-rank update, rows of its own, a prompt's rows.

Shapes: N ids (any number of dimensions), V vocabulary, D hidden width, K trained tokens, P tokens
of a prompt.
"""

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from pharos.adapt.layers import Adapted, Part, merged_dtype, weight_of
from pharos.adapt.lora import EmbeddingLoraPart
from pharos.models.readout import project


class TokenRowsPart(Part):
    """The embeddings of a few tokens, trained and saved: they replace the base's."""

    def __init__(self, name: str, ids: Sequence[int], base: nn.Embedding) -> None:
        super().__init__()
        self.name = name
        device = base.weight.device
        self.ids_K = nn.Buffer(torch.tensor(ids, device=device), persistent=False)
        order_K = self.ids_K.argsort()
        self.sorted_K = nn.Buffer(self.ids_K[order_K], persistent=False)
        self.order_K = nn.Buffer(order_K, persistent=False)
        self.rows_KD = nn.Parameter(base(self.ids_K).detach().float())

    def forward(self, ids_N: Tensor, y_ND: Tensor) -> Tensor:
        slots_N = torch.searchsorted(self.sorted_K, ids_N).clamp(max=len(self.sorted_K) - 1)
        is_here_N = self.sorted_K[slots_N] == ids_N
        rows_ND = self.rows_KD[self.order_K[slots_N]].to(y_ND.dtype)
        return torch.where(is_here_N[..., None], rows_ND, y_ND)

    def scores(self, x_D: Tensor, y_V: Tensor) -> Tensor:
        """The scores that a head tied to the table gives, with those of these tokens made anew."""
        own_K = linear(x_D, self.rows_KD.to(x_D.dtype))
        return y_V.index_copy(-1, self.ids_K, own_K.to(y_V.dtype))

    def replaced(self, weight_VD: Tensor) -> Tensor:
        """The whole table with these rows in it."""
        return weight_VD.index_copy(0, self.ids_K, self.rows_KD.to(weight_VD.dtype))

    def merge_into(self, weight_VD: Tensor) -> None:
        weight_VD[self.ids_K] = self.rows_KD.float()

    def tensors(self) -> dict[str, Tensor]:
        return {f"{self.name}.token_adapter.trainable_tokens_delta": self.rows_KD.data}


class PromptPart(Part):
    """The rows of a prompt, whose ids follow the vocabulary's. `num_copies` is how often PEFT's
    files hold them: twice for an encoder-decoder, whose decoder does not use its own."""

    unmergeable = "a prompt cannot be merged: it stands in front of the text, not in a weight"

    def __init__(self, rows_PD: Tensor, first_id: int, num_copies: int) -> None:
        super().__init__()
        self.first_id, self.num_copies = first_id, num_copies
        self.rows_PD = nn.Parameter(rows_PD)

    def forward(self, ids_N: Tensor, y_ND: Tensor) -> Tensor:
        slots_N = ids_N - self.first_id
        rows_ND = self.rows_PD[slots_N.clamp(min=0)].to(y_ND.dtype)
        return torch.where((slots_N >= 0)[..., None], rows_ND, y_ND)

    def tensors(self) -> dict[str, Tensor]:
        return {"prompt_embeddings": self.rows_PD.data.repeat(self.num_copies, 1)}

    @torch.no_grad()
    def load(self, tensors: dict[str, Tensor]) -> None:  # type: ignore[override]
        self.rows_PD.copy_(tensors["prompt_embeddings"][: len(self.rows_PD)])


class AdaptedEmbedding(Adapted):
    """Ids beyond the vocabulary are those of the active prompt."""

    @property
    def table(self) -> nn.Embedding:
        return cast(nn.Embedding, self.current)

    @property
    def weight(self) -> Tensor:
        """The table `[V, D]` as a tied head multiplies with it: with the trained tokens' rows."""
        weight_VD: Tensor = self.table.weight
        if not self.is_plain:
            for part in self.active_parts():
                if isinstance(part, TokenRowsPart):
                    weight_VD = part.replaced(weight_VD)
        return weight_VD

    def project(self, x_D: Tensor) -> Tensor:
        """The scores of a head that is tied to the table: of trained tokens, by their own rows."""
        y_V = project(self.table, x_D)
        if (route := self.route) is not None:
            return route.apply(x_D, y_V, self.parts_of, scores)
        return y_V if self.is_plain else scores(self.active_parts(), x_D, y_V)

    @property
    def num_embeddings(self) -> int:
        return self.table.num_embeddings

    @property
    def embedding_dim(self) -> int:
        return self.table.embedding_dim

    def adapted(self, x: Tensor) -> Tensor:
        y: Tensor = self.base(self.known(x))
        return self.with_each(self.active_parts(), x, y)

    def with_each(self, parts: Sequence[Part], x: Tensor, y: Tensor) -> Tensor:
        for part in parts:
            y = part(self.known(x) if isinstance(part, EmbeddingLoraPart) else x, y)
        return y

    def known(self, x: Tensor) -> Tensor:
        """The ids, with those of a prompt's rows replaced: some id of the vocabulary."""
        parts = self.active_parts() if self.route is None else self.every_part()
        has_prompt = any(isinstance(part, PromptPart) for part in parts)
        return x.clamp(max=self.num_embeddings - 1) if has_prompt else x

    @torch.no_grad()
    def with_parts(self) -> nn.Module:
        self.check_mergeable()
        weight_VD = weight_of(self.base, torch.float32).clone()
        for part in self.active_parts():
            assert isinstance(part, EmbeddingLoraPart | TokenRowsPart)
            part.merge_into(weight_VD)
        return embedding_of(weight_VD.to(merged_dtype(self.base)))


def scores(parts: Sequence[Part], x_D: Tensor, y_V: Tensor) -> Tensor:
    """What a tied head gave, with the scores of the tokens that have rows of their own."""
    for part in parts:
        if isinstance(part, TokenRowsPart):
            y_V = part.scores(x_D, y_V)
    return y_V


def embedding_of(weight_VD: Tensor) -> nn.Embedding:
    """A frozen table."""
    made = nn.Embedding(1, 1)
    made.num_embeddings, made.embedding_dim = weight_VD.shape
    made.weight = nn.Parameter(weight_VD, requires_grad=False)
    return made
