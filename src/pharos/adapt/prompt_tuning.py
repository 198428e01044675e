"""Prompt tuning (Lester et al. 2021, arXiv:2104.08691): trained vectors in front of the text.

They are tokens like any other, whose ids begin where the vocabulary ends; the embedding, swapped
for one that knows them, is all that notices. Whoever makes batches puts the ids in front of each
text (`with_prompt`), so positions, masks, caches and packing are what they always are. The first
logits belong to the prompt; labels there are ignored.

Shapes: B sequences, T tokens, P virtual tokens, V vocabulary, D hidden width.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pharos.adapt.embeddings import AdaptedEmbedding, PromptPart
from pharos.adapt.layers import wrappers


def virtual_ids(model: nn.Module) -> list[int]:
    """The ids of the prompt that is active in a model: none if there is no such, or adapters are
    switched off."""
    for _, wrapper in wrappers(model):
        if isinstance(wrapper, AdaptedEmbedding) and wrapper.enabled:
            for part in wrapper.active_parts():
                if isinstance(part, PromptPart):
                    return list(range(part.first_id, part.first_id + len(part.rows_PD)))
    return []


def with_prompt(model: nn.Module, ids_BT: Tensor) -> Tensor:
    """`[B, P + T]`: the ids behind those of the active prompt."""
    prompt_P = torch.tensor(virtual_ids(model), dtype=ids_BT.dtype, device=ids_BT.device)
    return torch.cat([prompt_P.expand(len(ids_BT), -1), ids_BT], dim=1)


def first_rows(
    embedding: nn.Embedding, number: int, init_ids: Sequence[int], generator: torch.Generator
) -> Tensor:
    """To begin with: the embeddings of the given ids, over and over, or of ids drawn at random."""
    drawn = torch.randint(embedding.num_embeddings, (number,), generator=generator).tolist()
    ids = [init_ids[i % len(init_ids)] for i in range(number)] if init_ids else drawn
    rows_PD: Tensor = embedding(torch.tensor(ids, device=embedding.weight.device))
    return rows_PD.detach().float().clone()
