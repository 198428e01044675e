"""A BERT of a few thousand weights, and its checkpoint under Hugging Face's names."""

import torch
from torch import Tensor

from pharos.models.bert import Bert, BertConfig

TINY = BertConfig(
    vocab_size=50,
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=4,
    intermediate_size=64,
    max_position_embeddings=64,
)


def tiny_bert(seed: int = 0) -> Bert:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Bert(TINY).eval().requires_grad_(False)


def tiny_checkpoint(seed: int = 0) -> dict[str, Tensor]:
    bert = tiny_bert(seed)
    state = bert.state_dict()
    weights = {}
    for ours, source in bert.weight_map("").items():
        for name, part in zip(source.names, source.write(state[ours]), strict=True):
            weights[name] = part.clone()
    return weights
