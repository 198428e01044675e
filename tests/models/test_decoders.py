"""What holds of every decoder."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pharos.models.family import Model
from pharos.models.kv_cache import KVCache
from pharos.models.load import build_model
from pharos.ops.masks import Causal, Documents, Valid

VOCAB, LENGTH = 50, 24
LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
STRETCHED = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 8}
GPT2: dict[str, Any] = {
    "model_type": "gpt2",
    "vocab_size": VOCAB,
    "n_embd": 32,
    "n_layer": 2,
    "n_head": 4,
    "n_positions": 64,
}
FALCON: dict[str, Any] = {
    "model_type": "falcon",
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
DECODERS: dict[str, dict[str, Any]] = {
    "llama": LLAMA,
    "llama, stretched": LLAMA | {"rope_scaling": STRETCHED},
    "mistral, window of 5": LLAMA | {"model_type": "mistral", "sliding_window": 5},
    "qwen2": LLAMA | {"model_type": "qwen2"},
    "qwen3": LLAMA | {"model_type": "qwen3"},
    "mixtral, window of 5": LLAMA | {"model_type": "mixtral", "sliding_window": 5},
    "gpt2": GPT2,
    "falcon, multi-query": FALCON,
    "falcon, grouped": FALCON | {"new_decoder_architecture": True, "num_kv_heads": 2},
    "falcon, ALiBi": FALCON | {"alibi": True, "parallel_attn": False, "multi_query": False},
}


@pytest.fixture(params=DECODERS, scope="module")
def decoder(request: pytest.FixtureRequest) -> Model:
    """Random weights, large enough that a token's neighbours matter."""
    torch.manual_seed(0)
    model = build_model(DECODERS[request.param], "causal_lm").requires_grad_(False).eval()
    for parameter in model.parameters():
        parameter.normal_(std=0.3)
    return model


def ids_of(length: int, *, seed: int = 0) -> Tensor:
    return torch.randint(1, VOCAB, (1, length), generator=torch.Generator().manual_seed(seed))


def assert_same(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def documents(lengths: Sequence[int]) -> list[Tensor]:
    return [ids_of(length, seed=i) for i, length in enumerate(lengths)]


def test_every_token_before_changes_what_comes_next(decoder: Model) -> None:
    """Otherwise the tests below would prove nothing."""
    ids = ids_of(4)
    changed = torch.cat((ids[:, :1] % (VOCAB - 1) + 1, ids[:, 1:]), dim=1)
    assert not torch.allclose(decoder(ids)[0, -1], decoder(changed)[0, -1], atol=1e-3)


@settings(deadline=None, max_examples=6)
@given(kept=st.integers(1, LENGTH - 1))
def test_future_tokens_do_not_change_the_past(decoder: Model, kept: int) -> None:
    ids = ids_of(LENGTH)
    other = torch.cat((ids[:, :kept], ids_of(LENGTH - kept, seed=1)), dim=1)
    expected = decoder(ids[:, :kept])
    assert_same(decoder(ids)[:, :kept], expected)
    assert_same(decoder(other)[:, :kept], expected)


@settings(deadline=None, max_examples=6)
@given(chunks=st.lists(st.integers(1, 9), min_size=1, max_size=6))
def test_reading_in_chunks_equals_reading_at_once(decoder: Model, chunks: list[int]) -> None:
    ids = ids_of(sum(chunks))
    cache = KVCache(num_layers=2, capacity=4)
    parts = [decoder(chunk, cache=cache) for chunk in ids.split(chunks, dim=1)]
    assert cache.length == sum(chunks)
    assert_same(torch.cat(parts, dim=1), decoder(ids))


def test_a_cache_that_forgot_tokens_goes_on_from_there(decoder: Model) -> None:
    ids, cache = ids_of(12), KVCache(num_layers=2)
    decoder(torch.cat((ids[:, :8], ids_of(5, seed=1)), dim=1), cache=cache)
    cache.truncate(8)
    assert_same(decoder(ids[:, 8:], cache=cache), decoder(ids)[:, 8:])


@settings(deadline=None, max_examples=6)
@given(lengths=st.lists(st.integers(1, 15), min_size=2, max_size=4))
def test_padding_on_the_right_changes_nothing(decoder: Model, lengths: list[int]) -> None:
    texts, width = documents(lengths), max(lengths)
    batch = torch.cat([torch.nn.functional.pad(text, (0, width - text.shape[1])) for text in texts])
    logits = decoder(batch, mask=Causal() & Valid(batch > 0))
    for row, text in zip(logits, texts, strict=True):
        assert_same(row[: text.shape[1]], decoder(text)[0])


@settings(deadline=None, max_examples=6)
@given(lengths=st.lists(st.integers(1, 15), min_size=2, max_size=4), steps=st.integers(0, 4))
def test_padding_on_the_left_changes_nothing_with_a_cache(
    decoder: Model, lengths: list[int], steps: int
) -> None:
    """A batch of prompts is read at once and goes on token by token."""
    texts, width = documents([length + steps for length in lengths]), max(lengths)
    pads = [width - length for length in lengths]
    batch = torch.cat(
        [torch.nn.functional.pad(text, (pad, 0)) for pad, text in zip(pads, texts, strict=True)]
    )
    valid = batch > 0
    positions = (valid.cumsum(1) - 1).clamp(min=0)
    cache, parts = KVCache(num_layers=2), []
    for start, stop in [(0, width), *((width + i, width + i + 1) for i in range(steps))]:
        mask, places = Causal() & Valid(valid[:, :stop]), positions[:, start:stop]
        parts.append(decoder(batch[:, start:stop], positions_BT=places, mask=mask, cache=cache))
    for row, pad, text in zip(torch.cat(parts, dim=1), pads, texts, strict=True):
        assert_same(row[pad:], decoder(text)[0])


@settings(deadline=None, max_examples=6)
@given(lengths=st.lists(st.integers(1, 12), min_size=2, max_size=5))
def test_a_packed_batch_equals_one_document_at_a_time(decoder: Model, lengths: list[int]) -> None:
    texts = documents(lengths)
    numbers = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))[None]
    positions = torch.cat([torch.arange(length) for length in lengths])[None]
    mask = Causal() & Documents(numbers)
    packed = decoder(torch.cat(texts, dim=1), positions_BT=positions, mask=mask)
    for part, text in zip(packed.split(lengths, dim=1), texts, strict=True):
        assert_same(part, decoder(text))
