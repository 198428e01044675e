"""A padded step over tensors that stay where they are gives what the runner gives, and is such that
a GPU can record and replay it."""

import random
from collections.abc import Iterator, Mapping
from collections.abc import Sequence as Seq
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from pharos.adapt import Adapters, LoraConfig, save_adapter
from pharos.core import SamplingParams
from pharos.models.doubles import tiny_llama
from pharos.models.heads import CausalLM
from pharos.models.load import build_model
from pharos.serve.engine import build, decode_graphs
from pharos.serve.engine.batch import Batch, Row
from pharos.serve.engine.build import EngineConfig, SpeculationConfig, engine_over
from pharos.serve.engine.decode_graphs import DecodeGraphs, GraphSizes, Pass, obstacle
from pharos.serve.engine.engine import Engine
from pharos.serve.engine.paged_kv import PagedKV
from pharos.serve.engine.plan import Part, Plan
from pharos.serve.engine.request import Output, Request, Sequence
from pharos.serve.engine.runner import Runner
from pharos.serve.engine.scheduler import SchedulerConfig

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
LONG: dict[str, Any] = {"factor": 4.0, "original_max_position_embeddings": 16}
CONFIGS: dict[str, dict[str, Any]] = {
    "llama": LLAMA,
    "llama, stretched": LLAMA | {"rope_scaling": {"rope_type": "llama3"} | LONG},
    "mistral, window of 5": LLAMA | {"model_type": "mistral", "sliding_window": 5},
    "qwen3, yarn": LLAMA | {"model_type": "qwen3", "rope_scaling": {"rope_type": "yarn"} | LONG},
    "gpt2": {
        "model_type": "gpt2",
        "vocab_size": VOCAB,
        "n_embd": 32,
        "n_layer": 2,
        "n_head": 4,
        "n_positions": 64,
    },
    "falcon": FALCON,
}
REFUSED: dict[str, dict[str, Any]] = {
    "mixture of experts": LLAMA | {"model_type": "mixtral"},
    "ALiBi": FALCON | {"alibi": True, "parallel_attn": False, "multi_query": False},
}
BLOCK, NUM_BLOCKS = 4, 800
SIZES = GraphSizes((1, 2, 4), max_len=30)

on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def decoder(config: Mapping[str, Any]) -> CausalLM:
    """Random weights, large enough that a token's neighbours matter."""
    torch.manual_seed(0)
    model = build_model(config, "causal_lm").requires_grad_(False).eval()
    for parameter in model.parameters():
        parameter.normal_(std=0.3)
    assert isinstance(model, CausalLM)
    return model


def blocks_of(model: CausalLM, *, with_scratch: bool) -> PagedKV:
    kv = PagedKV(
        model.body.attention_shapes(),
        num_blocks=NUM_BLOCKS,
        block_size=BLOCK,
        with_scratch=with_scratch,
        dtype=model.dtype,
        device=model.body.embedding.weight.device,
    )
    for layer in kv.layers_2GPCK:
        layer.fill_(float("nan"))
    return kv


def runners_of(model: CausalLM, sizes: GraphSizes = SIZES) -> tuple[Runner, Runner, DecodeGraphs]:
    """One without graphs, and one with them."""
    kv = blocks_of(model, with_scratch=True)
    graphs = DecodeGraphs(model, kv, sizes)
    plain = Runner(model, blocks_of(model, with_scratch=False))
    return plain, Runner(model, kv, graphs=graphs), graphs


def sequences_of(lengths: Seq[int], sizes: GraphSizes = SIZES) -> list[Sequence]:
    """Texts with as many blocks as they can ever need, which stand in any order."""
    generator, ids = random.Random(0), list(range(NUM_BLOCKS))
    generator.shuffle(ids)
    made = []
    for number, length in enumerate(lengths):
        prompt = [generator.randrange(1, VOCAB) for _ in range(length)]
        sequence = Sequence(Request(id=str(number), prompt=prompt), number, list(prompt))
        sequence.blocks = [ids.pop() for _ in range(sizes.num_blocks(BLOCK))]
        made.append(sequence)
    return made


def read(sequences: Seq[Sequence], *runners: Runner) -> None:
    """All but the last token of each."""
    plan = Plan([Part(each, 0, len(each.tokens) - 1, 0) for each in sequences])
    for runner in runners:
        runner.run(plan)


def written(sequences: Seq[Sequence]) -> Plan:
    return Plan([Part(each, len(each.tokens) - 1, 1, 1) for each in sequences])


def steps(sequences: list[Sequence], count: int) -> Iterator[Plan]:
    """Some of them, in any order, each of which then has a token more."""
    generator = random.Random(1)
    for _ in range(count):
        some = generator.sample(sequences, generator.randint(1, len(sequences)))
        yield written(some)
        for sequence in some:
            sequence.tokens.append(generator.randrange(VOCAB))


def assert_same(found: Tensor, expected: Tensor, *, tolerance: float = 1e-5) -> None:
    limit = tolerance * expected.nan_to_num().abs().max().item()
    torch.testing.assert_close(found, expected, rtol=0.0, atol=limit, equal_nan=True)


def assert_steps_are_the_plain_runners(
    model: CausalLM, lengths: Seq[int], sizes: GraphSizes = SIZES, *, tolerance: float = 1e-5
) -> None:
    """Logits, and what stands in every block that a sequence may have; the others stay untouched,
    whatever padding wrote."""
    plain, fast, graphs = runners_of(model, sizes)
    sequences = sequences_of(lengths, sizes)
    read(sequences, plain, fast)
    for plan in steps(sequences, 14):
        assert graphs.take(Batch.of(plan, "generate"))
        assert_same(fast.run(plan), plain.run(plan), tolerance=tolerance)
    for ours, theirs in zip(fast.kv.layers_2GPCK, plain.kv.layers_2GPCK, strict=True):
        assert_same(ours[:, :, :NUM_BLOCKS], theirs, tolerance=tolerance)


@pytest.mark.parametrize("config", CONFIGS.values(), ids=list(CONFIGS))
def test_padded_steps_are_those_of_the_plain_runner(config: dict[str, Any]) -> None:
    assert_steps_are_the_plain_runners(decoder(config), [2, 9, 4, 13])


def test_padding_forgets_whose_row_it_was() -> None:
    _, fast, _ = runners_of(decoder(LLAMA))
    sequences = sequences_of([3, 3, 3, 3])
    read(sequences, fast)
    fast.run(written(sequences))
    gone = sequences.pop().blocks
    for layer in fast.kv.layers_2GPCK:
        layer[:, :, gone] = float("nan")
    assert fast.run(written(sequences)).isfinite().all()
    assert all(layer[:, :, gone].isnan().all() for layer in fast.kv.layers_2GPCK)


ONE = Row(ids=[7], start=9, num_logits=1, blocks=[1, 2, 3], adapter=0)


@pytest.mark.parametrize(
    ("rows", "are_taken"),
    [
        ([ONE], True),
        ([ONE] * 4, True),
        ([], False),
        ([ONE] * 5, False),
        ([ONE, ONE._replace(ids=[7, 8])], False),
        ([ONE, ONE._replace(ids=[7, 8], num_logits=2)], False),
        ([ONE._replace(num_logits=0)], False),
        ([ONE._replace(adapter=1), ONE], False),
        ([ONE._replace(start=29, blocks=list(range(8)))], True),
        ([ONE._replace(start=30, blocks=list(range(8)))], False),
    ],
    ids=[
        "one",
        "as many as the ladder has",
        "none",
        "more than that",
        "one that is being read",
        "drafts",
        "no logits",
        "an adapter",
        "as long as it may be",
        "longer",
    ],
)
def test_only_steps_that_write_are_taken(rows: list[Row], are_taken: bool) -> None:
    _, _, graphs = runners_of(decoder(LLAMA))
    assert graphs.take(Batch("generate", rows, [])) is are_taken


def test_steps_that_are_not_taken_are_computed_as_ever() -> None:
    plain, fast, graphs = runners_of(decoder(LLAMA))
    sequences = sequences_of([5, 9, 2, 6, 3])
    read(sequences, plain, fast)
    mixed = Plan([Part(sequences[0], 4, 1, 1), Part(sequences[1], 6, 3, 3)])
    for plan in (written(sequences), mixed):
        assert not graphs.take(Batch.of(plan, "generate"))
        assert_same(fast.run(plan), plain.run(plan))


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LoRA that says something else than the model."""
    folder = tmp_path_factory.mktemp("adapter")
    adapters = Adapters(tiny_llama())
    adapters.add(LoraConfig(r=4))
    with torch.no_grad():
        for part in adapters.parts():
            for parameter in part.parameters():
                parameter.normal_(std=0.1)
    save_adapter(adapters, folder)
    return folder


@settings(deadline=None, max_examples=6)
@given(
    prompts=st.lists(st.tuples(st.integers(1, 14), st.booleans()), min_size=1, max_size=5),
    chunk=st.sampled_from([3, 64]),
    num_blocks=st.sampled_from([12, 64]),
    drafts=st.sampled_from([None, SpeculationConfig()]),
)
def test_an_engine_writes_the_same_with_them(
    adapter: Path,
    prompts: list[tuple[int, bool]],
    chunk: int,
    num_blocks: int,
    drafts: SpeculationConfig | None,
) -> None:
    """Among steps that are not taken: prompts in chunks, drafts, adapters, too many or too long
    texts; and with blocks that go from one text to another."""
    config = EngineConfig(
        scheduler=SchedulerConfig(max_num_seqs=chunk, max_num_batched_tokens=chunk),
        num_blocks=num_blocks,
        block_size=BLOCK,
        speculation=drafts,
    )
    texts = []
    for graphs in (None, GraphSizes((1, 2, 4), max_len=24)):
        engine = engine_over(tiny_llama(), None, config, graphs=graphs)
        engine.load_adapter("legal", adapter)
        for number, (length, is_adapted) in enumerate(prompts):
            request = Request(
                id=str(number),
                prompt=[number + 5] * length,
                params=SamplingParams(max_tokens=12, temperature=number % 2),
                seed=number,
                adapter="legal" if is_adapted else None,
            )
            engine.add(request)
        texts.append(written_by(engine))
    assert texts[0] == texts[1]


def written_by(engine: Engine) -> dict[str, list[int]]:
    texts: dict[str, list[int]] = {}
    while engine.has_work:
        for news in engine.step():
            assert isinstance(news, Output)
            texts.setdefault(news.request_id, []).extend(token.id for token in news.tokens)
        engine.check()
    return texts


# Recording


class NothingFromTheHost(TorchDispatchMode):
    """Forbids what a graph cannot hold: data that is copied from the host. (What is asked of the
    device, tensors without data refuse by themselves.)"""

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        leaves = tree_leaves((args, kwargs))
        from_host = any(x.is_cpu and x.ndim for x in leaves if isinstance(x, Tensor))
        if from_host and any(x.is_meta for x in tree_leaves(out) if isinstance(x, Tensor)):
            raise RuntimeError(f"{func} copies from the host")
        return out


class NothingMadeFromLists(TorchFunctionMode):
    """Forbids what the dispatcher does not see: a tensor of the device made of Python's numbers."""

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        if func in (torch.tensor, torch.as_tensor) and out.is_meta:
            raise RuntimeError(f"{func.__name__} copies from the host")
        return out


def recorded(config: Mapping[str, Any]) -> DecodeGraphs:
    """Each pass once, on a device that is not the host's and whose tensors have no data."""

    def run_all(passes: dict[int, Pass], device: torch.device) -> dict[int, Pass]:
        with NothingFromTheHost(), NothingMadeFromLists():
            for compute in passes.values():
                compute()
        return passes

    with torch.device("meta"):
        model = decoder(config)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decode_graphs, "record_all", run_all)
        kv = blocks_of(model, with_scratch=True)
        return DecodeGraphs(model, kv, GraphSizes((2,), max_len=30))


@torch.inference_mode()
@pytest.mark.parametrize("config", CONFIGS.values(), ids=list(CONFIGS))
def test_a_pass_neither_asks_the_device_nor_copies_to_it(config: dict[str, Any]) -> None:
    recorded(config)


@torch.inference_mode()
@pytest.mark.parametrize("config", REFUSED.values(), ids=list(REFUSED))
def test_models_that_do_are_refused(
    config: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match="run this model without CUDA graphs"):
        recorded(config)
    monkeypatch.setattr(decode_graphs, "obstacle", lambda model: None)
    with pytest.raises(RuntimeError, match=r"with Meta tensors|from the host"):
        recorded(config)


def test_models_that_can_be_recorded_have_no_obstacle() -> None:
    assert [obstacle(decoder(config)) for config in CONFIGS.values()] == [None] * len(CONFIGS)


def test_an_engine_whose_graphs_cannot_be_recorded_goes_on_without_them(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(build, "DecodeGraphs", refuse)
    config = EngineConfig(num_blocks=16, block_size=4)
    engine = engine_over(decoder(LLAMA), None, config, graphs=SIZES)
    engine.add(Request(id="0", prompt=[1, 2], params=SamplingParams(max_tokens=3)))
    assert len(written_by(engine)["0"]) == 3
    assert "are not recorded as CUDA graphs, and go on without" in caplog.text


# Sizes


def test_the_ladder_ends_with_as_many_as_may_run() -> None:
    assert GraphSizes.up_to(40, max_len=100) == ((1, 2, 4, 8, 16, 32, 40), 100)
    assert GraphSizes.up_to(3, max_len=None).rows == (1, 2, 3)
    assert GraphSizes.up_to(1, max_len=None).rows == (1,)


def test_the_ladder_does_not_reach_further_than_pays() -> None:
    sizes = GraphSizes.up_to(1000, max_len=1_000_000)
    assert (sizes.rows[-1], sizes.max_len) == (256, 8192)


def test_what_graphs_hold_grows_with_their_sizes() -> None:
    model = decoder(LLAMA)
    taken = [
        GraphSizes.up_to(rows, max_len=length).num_bytes(model, BLOCK)
        for rows, length in ((8, 512), (64, 512), (64, 4096))
    ]
    assert taken == sorted(set(taken))


# On a GPU


@pytest.mark.gpu
@on_gpu
@pytest.mark.parametrize("config", CONFIGS.values(), ids=list(CONFIGS))
def test_replayed_steps_are_those_of_the_plain_runner(config: dict[str, Any]) -> None:
    assert_steps_are_the_plain_runners(decoder(config).to("cuda"), [2, 9, 4, 13], tolerance=1e-4)


@pytest.mark.gpu
@on_gpu
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-3), (torch.bfloat16, 0.05)], ids=["fp32", "bf16"]
)
def test_long_and_short_sequences_share_a_replayed_step(
    dtype: torch.dtype, tolerance: float
) -> None:
    """Their keys are split among programs, of which a short one needs few."""
    model = decoder(LLAMA | {"max_position_embeddings": 1024}).to("cuda", dtype)
    sizes = GraphSizes((1, 2, 4, 8), max_len=620)
    assert_steps_are_the_plain_runners(model, [600, 2, 300, 255, 31], sizes, tolerance=tolerance)
