"""Few rows by native kernels say what torch's own path says.

Shapes: N rows of a flat batch, V vocabulary.
"""

import copy
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from pharos.adapt import Adapters, LoraConfig
from pharos.core import SamplingParams
from pharos.models.heads import CausalLM
from pharos.models.load import build_model
from pharos.ops.native import NativeBlocks, library
from pharos.ops.native.load import SWITCH
from pharos.ops.paged_attention import Segment
from pharos.quant import METHODS, convert
from pharos.quant.native import MOST_OF_ONE, NativeLlama, NativeRMSNorm, use_native
from pharos.serve.engine.build import EngineConfig, engine_over
from pharos.serve.engine.paged_cache import PagedCache
from pharos.serve.engine.paged_kv import PagedKV
from pharos.serve.engine.request import Request
from pharos.serve.engine.tensor_parallel import Share, split_model

SIZES: dict[str, Any] = {
    "vocab_size": 96,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "tie_word_embeddings": True,
}
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {},
    "mistral": {"sliding_window": 8},
    "qwen2": {},
    "qwen3": {"head_dim": 16},
}
OTHERS: dict[str, dict[str, Any]] = {"mixtral": {"num_local_experts": 2}}
NATIVE = ["bf16", "w8a8", "w8a16"]
LEARNED = ["attention_norm", "mlp.up"]
TABLES = ([3, 4, 5, 20, 9, 10, 11], [6, 1, 2, 7, 8, 15, 16])


@pytest.fixture(autouse=True)
def _native() -> None:
    if library() is None:
        pytest.skip("there are no native kernels here")


def decoder(family: str) -> CausalLM:
    torch.manual_seed(0)
    sizes = SIZES | (FAMILIES | OTHERS)[family] | {"model_type": family}
    model = build_model(sizes, "causal_lm").eval().requires_grad_(False)
    for parameter in model.parameters():
        parameter.copy_(torch.randn_like(parameter) * 0.15 + (parameter.ndim == 1))
    assert isinstance(model, CausalLM)
    return model


def pair(family: str, method: str, monkeypatch: pytest.MonkeyPatch) -> tuple[CausalLM, CausalLM]:
    """One with native kernels, and its twin without. Skips where the weights do not lie so."""
    ours = convert(decoder(family), method)
    if not isinstance(ours.body, NativeLlama):
        pytest.skip(f"{method} weights do not lie as the kernels read them on this processor")
    with monkeypatch.context() as patch:
        patch.setenv(SWITCH, "0")
        twin = convert(decoder(family), method)
    assert not isinstance(twin.body, NativeLlama)
    return ours, twin


@torch.inference_mode()
def written(model: CausalLM, passes: Sequence[Sequence[Segment]]) -> Tensor:
    """The logits of some passes, one after another."""
    num_blocks = 1 + max(max(segment.table) for segments in passes for segment in segments)
    shapes = model.body.attention_shapes()
    kv = PagedKV(shapes, num_blocks=num_blocks, block_size=4, dtype=model.dtype)
    generator, logits = torch.Generator().manual_seed(1), []
    for segments in passes:
        positions = [s.start + i for s in segments for i in range(s.num_tokens)]
        ids = torch.randint(96, (1, len(positions)), generator=generator)
        x_1ND = model.body(
            ids, positions_BT=torch.tensor([positions]), cache=PagedCache(kv, segments)
        )
        logits.append(model.logits(x_1ND[0]).float())
    return torch.cat(logits)


ONE, TWO = TABLES
PASSES = [
    [Segment(ONE, 0, 17), Segment(TWO, 0, 18)],
    [Segment(ONE, 17, 1), Segment(TWO, 18, 1)],
    [Segment(TWO, 19, 1), Segment(ONE, 18, 1)],
    [Segment(ONE, 19, 5), Segment(TWO, 20, 3)],
    [Segment(ONE, 24, 1)],
]


@pytest.mark.parametrize("method", NATIVE)
@pytest.mark.parametrize("family", FAMILIES)
def test_prompts_tokens_and_drafts_get_the_twins_logits(
    family: str, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, twin = pair(family, method, monkeypatch)
    assert all(segment.num_tokens > MOST_OF_ONE for segment in PASSES[0]), "these go the usual way"
    similar = torch.cosine_similarity(written(ours, PASSES), written(twin, PASSES), dim=-1)
    assert similar.min() > (0.99 if method == "w8a8" else 0.998)


def test_what_is_read_is_embedded_once_by_either_way(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, _ = pair("llama", "w8a16", monkeypatch)
    embedded: list[int] = []
    ours.body.embedding.register_forward_hook(lambda _, ids, __: embedded.append(ids[0].numel()))
    written(ours, PASSES)
    assert embedded == [sum(segment.num_tokens for segment in batch) for batch in PASSES]


@pytest.mark.parametrize("method", NATIVE)
@pytest.mark.parametrize("num_sequences", [7, 16, 33, 64])
def test_many_sequences_at_a_time_get_the_twins_logits(
    num_sequences: int, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, twin = pair("llama", method, monkeypatch)
    tables = [[2 * n, 2 * n + 1] for n in range(num_sequences)]
    passes = [[Segment(table, 0, 5 + n % 3) for n, table in enumerate(tables)]]
    passes += [[Segment(table, 5 + n % 3, 1) for n, table in enumerate(tables)]]
    rows = rows_of_native_passes(monkeypatch)
    similar = torch.cosine_similarity(written(ours, passes), written(twin, passes), dim=-1)
    assert similar.min() > (0.99 if method == "w8a8" else 0.998)
    assert isinstance(ours.body, NativeLlama)
    most = ours.body.native.most_rows(ours.dtype)
    asked = [sum(segment.num_tokens for segment in batch) for batch in passes]
    assert rows == [count for count in asked if count <= most]


def rows_of_native_passes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many rows the kernels have been given in each pass, from now on."""
    rows: list[int] = []
    compute = NativeBlocks.__call__

    def counting(blocks: NativeBlocks, x_1ND: Tensor, *args: Any) -> Tensor:
        rows.append(x_1ND.shape[1])
        return compute(blocks, x_1ND, *args)

    monkeypatch.setattr(NativeBlocks, "__call__", counting)
    return rows


@pytest.mark.parametrize(("length", "is_native"), [(MOST_OF_ONE, True), (MOST_OF_ONE + 1, False)])
def test_a_prompt_goes_the_usual_way_unless_it_is_very_short(
    length: int, is_native: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its tokens share their keys, and the kernels read them for each."""
    ours, twin = pair("llama", "w8a8", monkeypatch)
    assert isinstance(ours.body, NativeLlama) and ours.body.native is not None
    is_native = is_native and length <= ours.body.native.most_rows(ours.dtype)
    rows = rows_of_native_passes(monkeypatch)
    passes = [[Segment(ONE, 0, length)]]
    found, expected = written(ours, passes), written(twin, passes)
    assert rows == ([length] if is_native else [])
    assert torch.cosine_similarity(found, expected, dim=-1).min() > (0.99 if is_native else 0.999)


@pytest.mark.parametrize("method", NATIVE)
def test_who_watches_a_gate_sees_its_output_and_the_same_is_computed(
    method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, twin = pair("llama", method, monkeypatch)
    ids = torch.randint(96, (1, 100), generator=torch.Generator().manual_seed(2))
    plain = ours.logits(ours.body(ids)).float()
    seen: list[Tensor] = []
    kept: list[Tensor] = []

    def watch(_: object, __: object, y: Tensor) -> None:
        seen.append(y)
        kept.append(y.clone())

    for name, part in ours.body.named_modules():
        if name.endswith(("mlp.gate", "mlp.up")):
            part.register_forward_hook(watch)
    watched = ours.logits(ours.body(ids)).float()
    assert [y.shape[-1] for y in seen] == [SIZES["intermediate_size"]] * 4
    assert all(torch.equal(*each) for each in zip(seen, kept, strict=True))
    for other in (watched, twin.logits(twin.body(ids)).float()):
        assert torch.cosine_similarity(plain, other, dim=-1).min() > 0.99


def test_a_feed_forward_that_was_replaced_by_parts_computes_with_them() -> None:
    """Matrices of the old linears would not do."""
    model = convert(decoder("llama"), "bf16")
    mlp = model.body.get_submodule("blocks.0.mlp")
    x = torch.randn(1, 100, SIZES["hidden_size"]).bfloat16()
    before = mlp(x)
    gate = nn.Linear(SIZES["hidden_size"], SIZES["intermediate_size"], bias=False).bfloat16()
    mlp.gate = gate.requires_grad_(False)
    expected = mlp.down(silu(mlp.gate(x)) * mlp.up(x))
    torch.testing.assert_close(mlp(x), expected, rtol=0.02, atol=0.02)
    assert not torch.allclose(before.float(), expected.float(), atol=0.1)


@pytest.mark.parametrize("method", NATIVE)
def test_other_decoders_have_native_linears(method: str) -> None:
    model = decoder("mixtral")
    twin = decoder("mixtral").bfloat16()
    convert(model, method)
    assert not isinstance(model.body, NativeLlama)
    assert any(isinstance(part, NativeRMSNorm) for part in model.modules())
    similar = torch.cosine_similarity(written(model, PASSES), written(twin, PASSES), dim=-1)
    assert similar.median() > 0.99  # a token may get another expert


def test_a_copy_computes_the_same_by_itself() -> None:
    """Packed weights cannot be copied; those of W8A16 are not packed."""
    model = convert(decoder("llama"), "w8a16")
    ids = torch.randint(96, (1, 100), generator=torch.Generator().manual_seed(3))
    copied = copy.deepcopy(model)
    expected = model.logits(model.body(ids)).float()
    for parameter in model.parameters():
        parameter.zero_()
    found = copied.logits(copied.body(ids)).float()
    assert torch.cosine_similarity(found, expected, dim=-1).min() > 0.999


def test_gradients_go_through_native_norms_and_gates() -> None:
    model = decoder("llama")
    plain = copy.deepcopy(model)
    use_native(model)
    gradients = []
    for each in (model, plain):
        weights = [each.get_submodule(f"body.blocks.0.{name}").weight for name in LEARNED]
        for weight in weights:
            weight.requires_grad_(True)
        torch.manual_seed(4)
        each.logits(each.body(torch.arange(12)[None])).square().sum().backward()
        gradients.append([weight.grad for weight in weights])
    assert any(isinstance(part, NativeRMSNorm) for part in model.modules())
    for found, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(found, expected)


def tokens(model: CausalLM) -> dict[str, list[int]]:
    engine = engine_over(model, None, EngineConfig(num_blocks=32, block_size=4))
    for name, prompt in {"0": [1, 2, 3], "1": list(range(20))}.items():
        engine.add(Request(id=name, prompt=prompt, params=SamplingParams(max_tokens=8)))
    found: dict[str, list[int]] = {}
    while engine.has_work:
        for news in engine.step():
            found.setdefault(news.request_id, []).extend(t.id for t in getattr(news, "tokens", ()))
    return found


@pytest.mark.parametrize("method", NATIVE)
def test_an_engine_writes_as_many_tokens_and_the_same_ones_again(
    method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, _ = pair("llama", method, monkeypatch)
    found = tokens(ours)
    assert {name: len(ids) for name, ids in found.items()} == {"0": 8, "1": 8}
    assert tokens(ours) == found


@pytest.mark.parametrize("method", NATIVE)
def test_adapters_on_a_native_model_are_not_passed_by(
    method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, twin = pair("llama", method, monkeypatch)
    before = written(ours, PASSES)
    adapters = [Adapters(model) for model in (ours, twin)]
    for each in adapters:
        each.add(LoraConfig(r=4))
        for part in each.parts():
            torch.manual_seed(2)
            for parameter in part.parameters():
                parameter.data.normal_(std=0.2)
    found, expected = written(ours, PASSES), written(twin, PASSES)
    assert torch.cosine_similarity(found, expected, dim=-1).min() > 0.98
    assert torch.cosine_similarity(found, before, dim=-1).min() < 0.98
    adapters[0].remove()
    torch.testing.assert_close(written(ours, PASSES), before, rtol=0, atol=0)


def test_a_share_of_a_split_model_is_left_as_it_is() -> None:
    model = decoder("llama")
    split_model(model, Share(0, 2))
    assert not isinstance(convert(model, "w8a16").body, NativeLlama)


@pytest.mark.parametrize("method", set(METHODS) - set(NATIVE))
def test_formats_without_kernels_stay_as_they_are(method: str) -> None:
    assert not isinstance(convert(decoder("llama"), method).body, NativeLlama)


def test_a_model_in_float32_stays_as_it_is() -> None:
    assert type(decoder("llama").body).__name__ == "Llama"


def test_names_of_parameters_stay_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, twin = pair("qwen3", "w8a16", monkeypatch)
    assert list(ours.state_dict()) == list(twin.state_dict())
    assert ours.weight_map("model.") == twin.weight_map("model.")
