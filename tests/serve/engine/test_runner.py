"""Whatever a step mixes, the logits are those that a model gives to each text alone."""

import random
from collections.abc import Sequence as Seq
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pharos.models.doubles import tiny_llama
from pharos.models.heads import CausalLM
from pharos.models.kv_cache import KVCache
from pharos.models.load import build_model
from pharos.serve.engine.paged_kv import PagedKV
from pharos.serve.engine.plan import Move, Part, Plan
from pharos.serve.engine.request import Kind, Request, Sequence
from pharos.serve.engine.runner import Runner

VOCAB = 50
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
FALCON: dict[str, Any] = {
    "model_type": "falcon",
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
CONFIGS: dict[str, dict[str, Any]] = {
    "llama": LLAMA,
    "mistral, window of 5": LLAMA | {"model_type": "mistral", "sliding_window": 5},
    "qwen3": LLAMA | {"model_type": "qwen3"},
    "mixtral": LLAMA | {"model_type": "mixtral"},
    "gpt2": {
        "model_type": "gpt2",
        "vocab_size": VOCAB,
        "n_embd": 32,
        "n_layer": 2,
        "n_head": 4,
        "n_positions": 64,
    },
    "falcon": FALCON,
    "falcon, ALiBi": FALCON | {"alibi": True, "parallel_attn": False, "multi_query": False},
}
BLOCK = 4


@pytest.fixture(params=CONFIGS, scope="module")
def decoder(request: pytest.FixtureRequest) -> CausalLM:
    """Random weights, large enough that a token's neighbours matter."""
    torch.manual_seed(0)
    model = build_model(CONFIGS[request.param], "causal_lm").requires_grad_(False).eval()
    for parameter in model.parameters():
        parameter.normal_(std=0.3)
    assert isinstance(model, CausalLM)
    return model


def runner_of(model: CausalLM, *, num_host_blocks: int = 0, **options: Any) -> Runner:
    shapes = model.body.attention_shapes()
    kv = PagedKV(shapes, num_blocks=64, block_size=BLOCK, num_host_blocks=num_host_blocks)
    for layer in kv.layers_2GPCK:
        layer.fill_(float("nan"))
    return Runner(model, kv, **options)


def sequence_of(length: int, *, seed: int = 0, kind: Kind = "generate") -> Sequence:
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(1, VOCAB, (length,), generator=generator).tolist()
    return Sequence(Request(id=str(seed), prompt=ids, kind=kind), seed, list(ids))


def with_blocks(sequences: Seq[Sequence], *, are_mixed: bool) -> None:
    ids = list(range(64))
    if are_mixed:
        random.Random(0).shuffle(ids)
    for sequence in sequences:
        sequence.blocks = [ids.pop(0) for _ in range(-(-len(sequence.tokens) // BLOCK))]


def expected_logits(model: CausalLM, ids: Seq[int]) -> Tensor:
    """What `Generation`'s cache gives, after each token."""
    return model(torch.tensor([ids]), cache=KVCache(num_layers=2))[0]


def assert_same(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@settings(deadline=None, max_examples=8)
@given(
    lengths=st.lists(st.integers(1, 20), min_size=1, max_size=5),
    are_mixed=st.booleans(),
    chunks=st.randoms(use_true_random=False),
)
def test_chunks_of_many_sequences_equal_each_alone(
    decoder: CausalLM, lengths: list[int], are_mixed: bool, chunks: random.Random
) -> None:
    sequences = [sequence_of(length, seed=i) for i, length in enumerate(lengths)]
    with_blocks(sequences, are_mixed=are_mixed)
    runner = runner_of(decoder)
    expected = [expected_logits(decoder, sequence.tokens) for sequence in sequences]
    while unread := [s for s in sequences if s.num_computed < len(s.tokens)]:
        plan, wanted = Plan(), []
        for sequence in chunks.sample(unread, chunks.randint(1, len(unread))):
            start = sequence.num_computed
            count = chunks.randint(1, len(sequence.tokens) - start)
            num_logits = chunks.randint(0, count)
            plan.parts.append(Part(sequence, start, count, num_logits))
            sequence.num_computed += count
            stop = sequence.num_computed
            wanted.append(expected[sequence.arrival][stop - num_logits : stop])
        assert_same(runner.run(plan), torch.cat(wanted))


def test_drafts_are_read_after_the_tokens(decoder: CausalLM) -> None:
    sequence, neighbour = sequence_of(10, seed=1), sequence_of(7, seed=2)
    with_blocks([sequence, neighbour], are_mixed=True)
    ids, runner = list(sequence.tokens), runner_of(decoder)
    sequence.tokens, sequence.drafts = ids[:6], ids[6:]
    runner.run(Plan([Part(sequence, 0, 5, 0), Part(neighbour, 0, 6, 0)]))
    logits = runner.run(Plan([Part(sequence, 5, 5, 5), Part(neighbour, 6, 1, 1)]))
    assert logits.dtype == torch.float32
    assert_same(logits[:5], expected_logits(decoder, ids)[5:])
    assert_same(logits[5:], expected_logits(decoder, neighbour.tokens)[6:])


def test_rejected_drafts_leave_nothing_behind(decoder: CausalLM) -> None:
    sequence = sequence_of(10)
    with_blocks([sequence], are_mixed=False)
    ids, runner = list(sequence.tokens), runner_of(decoder)
    sequence.tokens, sequence.drafts = ids[:6], [7, 7, 7]
    runner.run(Plan([Part(sequence, 0, 9, 4)]))
    sequence.tokens, sequence.drafts = ids, []
    assert_same(runner.run(Plan([Part(sequence, 6, 4, 4)])), expected_logits(decoder, ids)[6:])


def test_blocks_that_went_out_and_came_back_give_the_same_logits() -> None:
    model = tiny_llama()
    sequence = sequence_of(9)
    with_blocks([sequence], are_mixed=True)
    runner = runner_of(model, num_host_blocks=2)
    runner.run(Plan([Part(sequence, 0, 8, 0)]))
    expected = runner.run(Plan([Part(sequence, 8, 1, 1)]))
    first, second, third = sequence.blocks
    runner.move([Move("out", first, 1), Move("out", second, 0)])
    for layer in runner.kv.layers_2GPCK:
        layer[:, :, [first, second, third]] = float("nan")
    sequence.blocks = [40, 30, 50]
    moves = [Move("in", 40, 1), Move("in", 30, 0)]
    runner.move(moves)
    assert torch.equal(runner.run(Plan([Part(sequence, 8, 1, 1)])), expected)


def test_a_plan_without_parts_has_no_logits() -> None:
    assert runner_of(tiny_llama()).run(Plan()).shape == (0, VOCAB)


def test_texts_are_embedded_each_alone(decoder: CausalLM) -> None:
    texts = [sequence_of(length, seed=length, kind="embed") for length in (5, 1, 9)]
    plan = Plan([Part(text, 0, len(text.tokens), 0) for text in texts])
    states = [decoder.body(torch.tensor([text.tokens]))[0] for text in texts]
    normalize = torch.nn.functional.normalize
    last = torch.stack([x_TD[-1] for x_TD in states])
    assert_same(runner_of(decoder).embed(plan), normalize(last))
    mean = torch.stack([x_TD.mean(dim=0) for x_TD in states])
    assert_same(runner_of(decoder, pooling="mean").embed(plan), normalize(mean))


def test_texts_and_generation_share_a_plan() -> None:
    model = tiny_llama()
    text, sequence = sequence_of(5, seed=1, kind="embed"), sequence_of(6, seed=2)
    with_blocks([sequence], are_mixed=False)
    plan, runner = Plan([Part(text, 0, 5, 0), Part(sequence, 0, 6, 1)]), runner_of(model)
    assert_same(runner.run(plan), expected_logits(model, sequence.tokens)[-1:])
    assert runner.embed(plan).shape == (1, 32)


def test_rotations_that_depend_on_the_batch_are_refused() -> None:
    scaling = {"rope_type": "dynamic", "factor": 4.0}
    model = build_model(LLAMA | {"rope_scaling": scaling}, "causal_lm")
    assert isinstance(model, CausalLM)
    with pytest.raises(ValueError, match="linear or yarn"):
        runner_of(model)
