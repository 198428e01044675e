"""Embeddings and heads that share a weight, and vocabularies that grow.

Shapes: V vocabulary, D hidden width.
"""

from dataclasses import replace
from typing import cast

import torch
from torch import Tensor, nn

from pharos.adapt.embeddings import embedding_of
from pharos.adapt.layers import linear_of
from pharos.core.errors import ModelError
from pharos.models.family import Body, Model

EMBEDDINGS = ("body.embedding", "body.target_embedding")


def is_tied(model: Model) -> bool:
    """Whether the head is the embedding again."""
    if isinstance(model, Body):
        return False
    if hasattr(model, "lm_head"):
        return model.lm_head is None
    return hasattr(model, "bias") and bool(model.config.tie_word_embeddings)


def untie_embeddings(model: Model) -> None:
    """Give a tied head a weight of its own, in place: what the model computes stays the same, and
    from now on each can change without the other. Saved, the config says so."""
    if not is_tied(model):
        return
    embedding = getattr(model.body, "embedding", None)
    if not hasattr(model, "lm_head") or type(embedding) is not nn.Embedding:
        raise ModelError(
            f"a {type(model).__name__} has no head of its own to be given; leave its embedding as "
            "it is, and adapt its linears"
        )
    model.lm_head = linear_of(embedding.weight.detach().clone())
    _set_config(model, tie_word_embeddings=False)


@torch.no_grad()
def grow_vocabulary(model: Model, num_tokens: int) -> range:
    """Add tokens at the end, in place; their ids. Each begins as the mean of all others, so the
    model neither favours nor fears it. Give them to `trainable_token_indices`, or they stay that.
    """
    before = model.config.vocab_size
    if num_tokens < 0:
        raise ValueError(f"num_tokens is {num_tokens}; a vocabulary only grows")
    body = body_of(model)
    embedding = getattr(body, "embedding", None)
    if type(embedding) is not nn.Embedding:
        raise ModelError(
            "grow the vocabulary of a model with one table, before it is converted and before it "
            "has adapters"
        )
    grown = embedding_of(_grown(embedding.weight, num_tokens))
    body.embedding = grown.requires_grad_(embedding.weight.requires_grad)
    head = getattr(model, "lm_head", None)
    if isinstance(head, nn.Linear):
        made = linear_of(_grown(head.weight, num_tokens))
        model.lm_head = made.requires_grad_(head.weight.requires_grad)
    bias = getattr(model, "bias", None)
    if isinstance(bias, nn.Parameter):
        model.bias = nn.Parameter(_grown(bias, num_tokens), requires_grad=bias.requires_grad)
    _set_config(model, vocab_size=before + num_tokens)
    return range(before, before + num_tokens)


def _grown(weight: Tensor, num_tokens: int) -> Tensor:
    mean = weight.float().mean(dim=0, keepdim=True).to(weight.dtype)
    return torch.cat([weight, mean.expand(num_tokens, *weight.shape[1:])])


def body_of(model: Model) -> Body:
    return model if isinstance(model, Body) else cast(Body, model.body)


def _set_config(model: Model, **changes: object) -> None:
    config = replace(model.config, **changes)
    model.config = config
    body_of(model).config = config
