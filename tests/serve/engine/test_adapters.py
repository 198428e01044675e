"""Adapters come and go while requests run, and each request keeps the one it began with."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule
from torch import Tensor

from pharos.adapt import (
    Adapters,
    BottleneckConfig,
    LoraConfig,
    PromptTuningConfig,
    load_adapter,
    save_adapter,
)
from pharos.core import SamplingParams
from pharos.core.errors import ModelError
from pharos.models.doubles import tiny_llama
from pharos.models.heads import CausalLM
from pharos.models.load import new_model
from pharos.quant import convert, convert_bf16
from pharos.serve.engine.adapters import BASE, AdapterRegistry
from pharos.serve.engine.build import EngineConfig, engine_over
from pharos.serve.engine.paged_kv import PagedKV
from pharos.serve.engine.plan import Part, Plan
from pharos.serve.engine.request import Kind, Output, Request, Sequence
from pharos.serve.engine.runner import Runner

PROMPTS = [[3, 1, 4, 1, 5], [9, 2, 6], [5, 3, 5, 8, 9, 7], [2, 7, 1]]
LORA, DORA = LoraConfig(r=4), LoraConfig(r=2, use_dora=True, trainable_token_indices=(5, 2))
Folders = dict[str, Path]


@torch.no_grad()
def write_adapter(folder: Path, config: Any, *, seed: int, model: CausalLM | None = None) -> Path:
    """With random values in everything that trains."""
    adapters = Adapters(tiny_llama() if model is None else model)
    adapters.add(config)
    generator = torch.Generator().manual_seed(seed)
    for part in adapters.parts():
        for parameter in part.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    save_adapter(adapters, folder)
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    configs = {"one": LORA, "two": DORA, "three": BottleneckConfig(size=4), "four": LORA}
    root = tmp_path_factory.mktemp("adapters")
    return {
        name: write_adapter(root / name, config, seed=seed)
        for seed, (name, config) in enumerate(configs.items())
    }


def merged(folder: Path) -> CausalLM:
    """The model with one adapter alone."""
    adapters = Adapters(model := tiny_llama())
    load_adapter(adapters, folder)
    return model


def runner_of(registry: AdapterRegistry, model: CausalLM) -> Runner:
    dtype = model.body.norm.weight.dtype
    kv = PagedKV(model.body.attention_shapes(), num_blocks=16, block_size=4, dtype=dtype)
    return Runner(model, kv, adapters=registry)


def parts_of(generations: list[int], *, kind: Kind = "generate") -> list[Part]:
    parts = []
    for i, (prompt, generation) in enumerate(zip(PROMPTS, generations, strict=True)):
        sequence = Sequence(Request(id=str(i), prompt=prompt, kind=kind), i, list(prompt))
        sequence.generation = generation
        sequence.blocks = [2 * i, 2 * i + 1]
        parts.append(Part(sequence, 0, len(prompt), 2))
    return parts


@torch.inference_mode()
def last_two(model: CausalLM, prompt: list[int]) -> Tensor:
    logits: Tensor = model(torch.tensor([prompt]))[0, -2:]
    return logits


def test_a_step_of_mixed_adapters_gives_each_request_its_own(folders: Folders) -> None:
    registry = AdapterRegistry(model := tiny_llama())
    names = ["one", None, "two", "three"]
    for name in names:
        if name is not None:
            registry.load(name, folders[name])
    plan = Plan(parts_of([registry.acquire(name) for name in names]))
    found = runner_of(registry, model).run(plan).split(2)
    for name, prompt, rows in zip(names, PROMPTS, found, strict=True):
        alone = tiny_llama() if name is None else merged(folders[name])
        torch.testing.assert_close(rows, last_two(alone, prompt), rtol=1e-4, atol=1e-4)


def test_texts_are_embedded_with_their_adapters_too(folders: Folders) -> None:
    registry = AdapterRegistry(model := tiny_llama())
    one = registry.load("one", folders["one"]).generation
    plan = Plan(parts_of([one, BASE, BASE, one], kind="embed"))
    mixed = runner_of(registry, model).embed(plan)
    for row in (0, 3):
        alone = runner_of(registry, model).embed(Plan([plan.parts[row]]))
        torch.testing.assert_close(mixed[row : row + 1], alone)
    base = Runner(tiny_llama(), PagedKV(model.body.attention_shapes(), num_blocks=1, block_size=4))
    expected = base.embed(plan)
    torch.testing.assert_close(mixed[1:3], expected[1:3])
    assert (mixed[0] - expected[0]).abs().max() > 1e-3


def test_a_name_loaded_anew_is_another_adapter_and_running_requests_keep_theirs(
    folders: Folders,
) -> None:
    registry = AdapterRegistry(model := tiny_llama())
    first = registry.load("legal", folders["one"])
    running = registry.acquire("legal")
    second = registry.load("legal", folders["four"])
    assert (first.generation, second.generation) == (1, 2)
    assert [loaded.generation for loaded in registry.loaded()] == [2]
    new = registry.acquire("legal")
    runner = runner_of(registry, model)
    found = runner.run(Plan(parts_of([running, new, running, new]))).split(2)
    for name, prompt, rows in zip(["one", "four"] * 2, PROMPTS, found, strict=True):
        expected = last_two(merged(folders[name]), prompt)
        torch.testing.assert_close(rows, expected, rtol=1e-4, atol=1e-4)
    registry.release(running)
    registry.check()
    registry.unload("legal")
    registry.check()
    assert not registry.loaded()
    with pytest.raises(ValueError, match="there is no adapter 'legal'; loaded are none"):
        registry.acquire("legal")
    runner.run(Plan(parts_of([new] * 4)))
    registry.release(new)
    registry.check()
    plain = runner.run(Plan(parts_of([BASE] * 4)))
    other = runner_of(AdapterRegistry(same := tiny_llama()), same)
    assert torch.equal(plain, other.run(Plan(parts_of([BASE] * 4))))
    assert registry.load("legal", folders["one"]).generation == 3


@pytest.mark.parametrize("converts_first", [True, False])
def test_adapters_are_loaded_into_a_converted_model(folders: Folders, converts_first: bool) -> None:
    model = tiny_llama()
    if converts_first:
        convert_bf16(model)
    registry = AdapterRegistry(model)
    if not converts_first:
        convert_bf16(model)
    names = ["one", "two", "three", "four"]
    sizes = [registry.load(name, folders[name]).num_bytes for name in names]
    weights = [sum(p.nbytes for p in wrapped_parts(folders[name])) for name in names]
    assert sizes == [nbytes // 2 for nbytes in weights]
    found = runner_of(registry, model).run(Plan(parts_of([registry.acquire(n) for n in names])))
    for name, prompt, rows in zip(names, PROMPTS, found.split(2), strict=True):
        expected = last_two(merged(folders[name]), prompt)
        assert torch.nn.functional.cosine_similarity(rows, expected).min() > 0.97


def wrapped_parts(folder: Path) -> list[torch.nn.Parameter]:
    adapters = Adapters(tiny_llama())
    load_adapter(adapters, folder)
    return [parameter for part in adapters.parts() for parameter in part.parameters()]


def mixtral() -> Any:
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4}
    raw = {"model_type": "mixtral", "vocab_size": 50, "intermediate_size": 16, **sizes}
    return new_model(raw | {"num_key_value_heads": 2, "num_local_experts": 2}, "causal_lm").eval()


REFUSED: dict[str, tuple[Any, Callable[[], CausalLM], str]] = {
    "prompt": (PromptTuningConfig(num_virtual_tokens=2), tiny_llama, "adapter 'x' is a prompt"),
    "experts": (LORA, mixtral, "'x' changes experts"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_served_is_refused_by_name_and_leaves_nothing(
    kind: str, tmp_path: Path
) -> None:
    config, make, message = REFUSED[kind]
    write_adapter(tmp_path, config, seed=0, model=make())
    registry = AdapterRegistry(model := make())
    modules = [type(module) for module in model.modules()]
    with pytest.raises(ModelError, match=message):
        registry.load("x", tmp_path)
    with pytest.raises(ModelError, match=r"nowhere.adapter_config\.json"):
        registry.load("x", tmp_path / "nowhere")
    registry.check()
    assert [type(module) for module in model.modules()] == modules


def test_a_failed_load_keeps_what_the_name_stood_for(folders: Folders, tmp_path: Path) -> None:
    registry = AdapterRegistry(tiny_llama(), max_adapters=2)
    before = registry.load("legal", folders["one"])
    write_adapter(tmp_path, PromptTuningConfig(num_virtual_tokens=2), seed=0)
    with pytest.raises(ModelError, match="is a prompt"):
        registry.load("legal", tmp_path)
    assert registry.loaded() == [before]
    registry.acquire("legal")
    registry.load("legal", folders["four"])
    with pytest.raises(ModelError, match="2 adapters are in memory, as many as there may be"):
        registry.load("medical", folders["two"])
    registry.check()


class Comings(RuleBasedStateMachine):
    """Any order of loading, unloading, beginning and ending."""

    folders: Folders
    running = Bundle("running")

    def __init__(self) -> None:
        super().__init__()
        self.registry = AdapterRegistry(tiny_llama(), max_adapters=4)
        self.of_running: dict[int, int] = {}

    @rule(name=st.sampled_from("ab"), which=st.sampled_from(["one", "four"]))
    def load(self, name: str, which: str) -> None:
        before = {loaded.generation for loaded in self.registry.loaded()} | set(self.of_running)
        if len(before) < 4:
            assert self.registry.load(name, self.folders[which]).generation > max(before, default=0)

    @rule(name=st.sampled_from("ab"))
    def unload(self, name: str) -> None:
        if name in {loaded.name for loaded in self.registry.loaded()}:
            self.registry.unload(name)

    @rule(target=running, name=st.sampled_from(["a", "b", None]))
    def begin(self, name: str | None) -> int:
        known: set[str | None] = {loaded.name for loaded in self.registry.loaded()}
        generation = self.registry.acquire(name if name in known else None)
        if generation != BASE:
            self.of_running[generation] = self.of_running.get(generation, 0) + 1
        return generation

    @rule(generation=consumes(running))
    def end(self, generation: int) -> None:
        self.registry.release(generation)
        if generation != BASE:
            self.of_running[generation] -= 1
            if not self.of_running[generation]:
                del self.of_running[generation]

    @invariant()
    def adds_up(self) -> None:
        self.registry.check()


def test_any_order_of_comings_and_goings_adds_up(folders: Folders) -> None:
    machine = type("Machine", (Comings,), {"folders": folders})
    case = machine.TestCase
    case.settings = settings(max_examples=15, stateful_step_count=12, deadline=None)
    case("runTest").runTest()


@pytest.mark.parametrize("method", ["w8a8", "w8a16"])
def test_an_engine_over_eight_bit_weights_serves_adapters(folders: Folders, method: str) -> None:
    model = convert(tiny_llama(), method)
    engine = engine_over(model, None, EngineConfig(num_blocks=32, block_size=4))
    engine.load_adapter("one", folders["one"])
    names = ["one", None, "one", None]
    for i, (name, prompt) in enumerate(zip(names, PROMPTS, strict=True)):
        params = SamplingParams(max_tokens=6)
        engine.add(Request(id=str(i), prompt=prompt, params=params, adapter=name))
    written: dict[str, list[int]] = {}
    while engine.has_work:
        for news in engine.step():
            assert isinstance(news, Output)
            written.setdefault(news.request_id, []).extend(token.id for token in news.tokens)
    assert sorted(written) == list("0123")
    assert {len(ids) for ids in written.values()} == {6}
