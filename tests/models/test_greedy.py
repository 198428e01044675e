"""Decoders write what the reference writes, token by token, through the cache."""

from typing import Any

import pytest
import torch
from oracle import SIZES, pair_of, random_ids, transformers

from pharos.models.kv_cache import KVCache

GROUPED: dict[str, Any] = SIZES | {"intermediate_size": 64, "num_key_value_heads": 2}
EXPERTS: dict[str, Any] = {"num_local_experts": 4, "sliding_window": 9}
CONFIGS = {
    "llama": transformers.LlamaConfig(**GROUPED),
    "mistral, window of 9": transformers.MistralConfig(**GROUPED, sliding_window=9),
    "qwen2": transformers.Qwen2Config(**GROUPED),
    "qwen3": transformers.Qwen3Config(**GROUPED, head_dim=8),
    "gpt2": transformers.GPT2Config(**SIZES),
    "falcon": transformers.FalconConfig(**SIZES),
    "mixtral": transformers.MixtralConfig(**GROUPED, **EXPERTS),
}
NUM_TOKENS = 200


@pytest.mark.parametrize("name", CONFIGS)
@torch.no_grad()
def test_greedy_text_is_the_references_for_200_tokens(name: str) -> None:
    pair, ids = pair_of(CONFIGS[name], attention="sdpa"), random_ids(1, 5)
    theirs = pair.theirs.generate(
        ids,
        max_new_tokens=NUM_TOKENS,
        min_new_tokens=NUM_TOKENS,
        do_sample=False,
        eos_token_id=None,
    )
    cache, step, written = KVCache(num_layers=2), ids, [ids]
    for _ in range(NUM_TOKENS):
        step = pair.ours(step, cache=cache)[:, -1:].argmax(-1)
        written.append(step)
    assert torch.cat(written, dim=1).tolist() == theirs.tolist()
