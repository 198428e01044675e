"""A BERT of a few thousand weights, and its checkpoint under Hugging Face's names; a Llama as
small."""

import torch
from torch import Tensor

from pharos.models.bert import Bert, BertConfig
from pharos.models.heads import CausalLM
from pharos.models.llama import Llama, LlamaConfig
from pharos.ops.positions import Rope

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


def tiny_llama(*, vocab_size: int = 50, std: float = 0.3, seed: int = 0) -> CausalLM:
    """Two layers of four heads that share two keys. With weights of that `std`, each token matters
    to what comes next."""
    config = LlamaConfig(
        model_type="llama",
        vocab_size=vocab_size,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        rope=Rope(width=8),
        windows=(None, None),
    )
    model = CausalLM(Llama(config)).eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.normal_(std=std, generator=generator)
    return model
