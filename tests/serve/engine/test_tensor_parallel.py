"""Two processes that share a model write what one does."""

import asyncio
import os
import socket
from collections.abc import Sequence as Seq
from contextlib import aclosing
from dataclasses import replace
from itertools import count
from pathlib import Path
from queue import SimpleQueue
from threading import Event
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.nn.functional import normalize

from pharos.core import SamplingParams
from pharos.models.generation import Generation
from pharos.models.heads import CausalLM
from pharos.models.load import build_model
from pharos.serve.engine.build import EngineConfig, SpeculationConfig, build_engine
from pharos.serve.engine.client import EngineClient
from pharos.serve.engine.engine import Engine, News
from pharos.serve.engine.followers import Followers, agree_on_least, follow
from pharos.serve.engine.hosts import InThread
from pharos.serve.engine.paged_kv import PagedKV
from pharos.serve.engine.plan import Move, Part, Plan
from pharos.serve.engine.request import Output, Request, Sequence
from pharos.serve.engine.runner import Runner
from pharos.serve.engine.scheduler import SchedulerConfig
from pharos.serve.engine.tensor_parallel import Share, own_shapes, split_model

VOCAB, BLOCK, NUM_BLOCKS = 50, 4, 64
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
    "bias": True,
}
CONFIGS: dict[str, dict[str, Any]] = {
    "llama": LLAMA | {"mlp_bias": True, "attention_bias": True},
    "llama, one key head, tied": LLAMA | {"num_key_value_heads": 1, "tie_word_embeddings": True},
    "odd vocabulary": LLAMA | {"vocab_size": 49},
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
    "falcon, multi-query": FALCON,
    "falcon, grouped": FALCON | {"new_decoder_architecture": True, "num_kv_heads": 2},
}
PATIENCE_S = 120.0
PROMPTS = ([5, 6, 7, 8, 9], [1, 2, 3], [4] * 12)


def decoder(name: str) -> CausalLM:
    """Random weights, large enough that a token's neighbours matter."""
    torch.manual_seed(0)
    model = build_model(CONFIGS[name], "causal_lm").requires_grad_(False).eval()
    for parameter in model.parameters():
        parameter.normal_(std=0.3)
    assert isinstance(model, CausalLM)
    return model


def runner_of(name: str, share: Share, followers: Followers | None = None) -> Runner:
    model = decoder(name)
    shapes = own_shapes(model, share.size)
    split_model(model, share)
    num_blocks = agree_on_least(NUM_BLOCKS + share.rank)
    assert num_blocks == NUM_BLOCKS
    kv = PagedKV(shapes, num_blocks=num_blocks, block_size=BLOCK, num_host_blocks=2)
    return Runner(model, kv, followers=followers)


def each_runner(share: Share) -> Runner:
    """A follower of several models, one after another, and then of one that it cannot build."""
    for name in CONFIGS:
        follow(runner_of(name, share))
    raise ValueError("this rank has no memory")


def greedy(runner: Runner, prompts: Seq[Seq[int]], count: int) -> list[list[int]]:
    """What each prompt goes on with, all in one batch; the prompts are read in two steps."""
    ids = iter(range(NUM_BLOCKS))
    sequences = []
    for i, prompt in enumerate(prompts):
        sequence = Sequence(Request(id=str(i), prompt=prompt), i, list(prompt))
        sequence.blocks = [next(ids) for _ in range(-(-(len(prompt) + count) // BLOCK))]
        sequences.append(sequence)
    runner.run(Plan([Part(s, 0, s.num_prompt - 1, 0) for s in sequences]))
    for _ in range(count):
        parts = [Part(s, len(s.tokens) - 1, 1, 1) for s in sequences]
        drawn = runner.run(Plan(parts)).argmax(dim=-1).tolist()
        for sequence, id_ in zip(sequences, drawn, strict=True):
            sequence.tokens.append(id_)
    return [sequence.tokens[sequence.num_prompt :] for sequence in sequences]


def greedy_alone(model: CausalLM, prompts: Seq[Seq[int]], count: int) -> list[list[int]]:
    texts: list[list[int]] = [[] for _ in prompts]
    for token in Generation(model, prompts, SamplingParams(max_tokens=count)):
        texts[token.sequence].append(token.id)
    return texts


def test_two_processes_write_what_one_does() -> None:
    followers = Followers.start(each_runner, 2)
    try:
        for name in CONFIGS:
            runner, whole = runner_of(name, Share(0, 2), followers), decoder(name)
            assert greedy(runner, PROMPTS, 6) == greedy_alone(whole, PROMPTS, 6), name
            assert_embeds_alike(runner, whole)
            assert_moves_on_both(runner, whole)
            dist.broadcast_object_list([None], src=0)
        assert_names_who_failed(followers)
    finally:
        followers.stop()


class Unreadable:
    """How to build a runner, for nobody can read it."""

    def __call__(self, share: Share) -> Runner:
        raise AssertionError("nobody could read it")

    def __reduce__(self) -> tuple[type[int], tuple[str]]:
        return int, ("not a number",)


def test_a_process_that_ends_before_it_begins_is_not_waited_for() -> None:
    with pytest.raises(RuntimeError, match="rank 1 of the model has failed: it ended without"):
        Followers.start(Unreadable(), 2)


def never_built(share: Share) -> Runner:
    """As one that waits for a rank in the midst of a sum."""
    Event().wait()
    raise AssertionError("nothing wakes it")


def test_a_process_ends_with_rank_0_whatever_it_is_at_and_its_end_is_told() -> None:
    followers = Followers.start(never_built, 2)
    told: SimpleQueue[str] = SimpleQueue()
    followers.on_loss(told.put)
    with socket.socket(fileno=os.dup(followers._pipes[0].fileno())) as end:
        end.shutdown(socket.SHUT_WR)  # as if this process were gone
    assert followers._processes[0].wait(PATIENCE_S) == 1
    reason = "rank 1 of the model has failed: it ended without a word"
    assert told.get(timeout=PATIENCE_S) == reason
    followers.on_loss(told.put)
    assert told.get(timeout=PATIENCE_S) == reason, "also to who asks late"
    followers.stop()
    assert not dist.is_initialized()


def test_a_process_that_hangs_does_not_hinder_the_end_and_is_not_lost() -> None:
    followers = Followers.start(never_built, 2)
    lost: list[str] = []
    followers.on_loss(lost.append)
    followers.stop()
    assert followers._processes[0].poll() is not None
    assert lost == [], "it ended because it was told to"
    assert not dist.is_initialized()


def assert_names_who_failed(followers: Followers) -> None:
    reason = "rank 1 of the model has failed: ValueError: this rank has no memory"
    with pytest.raises(RuntimeError, match=reason), followers.together():
        agree_on_least(1)
    with pytest.raises(RuntimeError, match="start the engine anew"), followers.together():
        pass


def assert_embeds_alike(runner: Runner, whole: CausalLM) -> None:
    text = Sequence(Request(id="0", prompt=PROMPTS[0], kind="embed"), 0, PROMPTS[0])
    (vector_D,) = runner.embed(Plan([Part(text, 0, len(PROMPTS[0]), 0)]))
    state_D = whole.body(torch.tensor([PROMPTS[0]]))[0, -1]
    torch.testing.assert_close(vector_D, normalize(state_D, dim=0), rtol=1e-4, atol=1e-5)


def assert_moves_on_both(runner: Runner, whole: CausalLM) -> None:
    """A block that was on the host comes back on every rank."""
    ids = PROMPTS[0]
    sequence = Sequence(Request(id="0", prompt=ids), 0, list(ids))
    sequence.blocks = [0, 1]
    runner.run(Plan([Part(sequence, 0, 4, 0)]))
    runner.move([Move("out", 9, 0), Move("out", 0, 1)])
    sequence.blocks = [5, 6]
    runner.move([Move("in", 5, 1)])
    (logits_V,) = runner.run(Plan([Part(sequence, 4, 1, 1)]))
    expected_V = whole(torch.tensor([ids]))[0, -1]
    torch.testing.assert_close(logits_V, expected_V, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "size", "message"),
    [
        ("llama", 3, "tensor parallelism of 3 over 4 heads with 2 for keys"),
        ("llama", 8, "tensor parallelism of 8 over 4 heads"),
    ],
)
def test_shares_that_do_not_come_out_even_are_refused(name: str, size: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        split_model(decoder(name), Share(0, size))


def test_alibi_is_refused() -> None:
    model = build_model(FALCON | {"alibi": True}, "causal_lm")
    assert isinstance(model, CausalLM)
    with pytest.raises(ValueError, match="ALiBi"):
        split_model(model, Share(0, 2))


def test_one_process_keeps_the_model_as_it_is() -> None:
    model = decoder("llama")
    names = [name for name, _ in model.named_modules()]
    split_model(model, Share(0, 1))
    assert [name for name, _ in model.named_modules()] == names
    assert own_shapes(model, 1) == model.body.attention_shapes()


def written(folder: Path, config: EngineConfig) -> tuple[list[list[int]], Engine]:
    """What an engine goes on with; the engine, which is closed then."""
    engine = build_engine(folder, config)
    try:
        for i, prompt in enumerate(PROMPTS):
            engine.add(Request(id=str(i), prompt=prompt, params=SamplingParams(max_tokens=12)))
        texts: list[list[int]] = [[] for _ in PROMPTS]
        while engine.has_work:
            for news in engine.step():
                assert isinstance(news, Output)
                texts[int(news.request_id)] += [token.id for token in news.tokens]
        return texts, engine
    finally:
        engine.close()


def test_two_processes_write_what_one_does_also_where_there_is_no_room_and_drafts_are_made(
    llama_folder: Path,
) -> None:
    scheduling = SchedulerConfig(max_num_seqs=3, max_num_batched_tokens=5)
    config = EngineConfig(scheduler=scheduling, block_size=4, dtype="float32")
    alone, _ = written(llama_folder, config)
    assert [len(text) for text in alone] == [12] * 3
    crowded = replace(config, num_blocks=9, num_host_blocks=8, speculation=SpeculationConfig())
    texts, engine = written(llama_folder, replace(crowded, tensor_parallel=2))
    assert texts == alone
    assert engine.stats.num_preemptions > 0
    assert engine.stats.num_draft_tokens > 0
    assert engine.scheduler.pool.pace.move_s is not None, "blocks went to the host"


@pytest.mark.slow
def test_a_process_that_dies_within_a_step_fails_its_requests_and_all_are_started_again(
    llama_folder: Path,
) -> None:
    config = EngineConfig(block_size=4, num_blocks=64, tensor_parallel=2)
    engines: list[Engine] = []

    def build() -> Engine:
        engines.append(build_engine(llama_folder, config))
        if len(engines) == 1:
            lose_a_part_of(engines[0], in_step=3)
        return engines[-1]

    async def outputs_of(client: EngineClient, max_tokens: int) -> list[Output]:
        asked = Request(id="a", prompt=PROMPTS[0], params=SamplingParams(max_tokens=max_tokens))
        async with aclosing(client.generate(asked)) as outputs:
            return [output async for output in outputs]

    async def run() -> None:
        async with EngineClient(InThread(build), restart_s=0.0) as client:
            *_, last = await outputs_of(client, 20)
            assert last.finish_reason == "error"
            assert "rank 1 of the model has failed: it ended without a word" in str(last.error)
            assert not client.is_healthy
            await asyncio.wait_for(client.until_ready(), PATIENCE_S)
            *_, last = await outputs_of(client, 5)
            assert (last.finish_reason, last.num_generated) == ("length", 5)

    asyncio.run(run())
    assert len(engines) == 2


def lose_a_part_of(engine: Engine, *, in_step: int) -> None:
    """Its follower dies when rank 0 is about to compute that step."""
    followers, step, number = engine.runner.followers, engine.step, count(1)
    assert followers is not None

    def losing_step() -> list[News]:
        if next(number) == in_step:
            followers._processes[0].kill()
        return step()

    engine.step = losing_step  # type: ignore[method-assign]
