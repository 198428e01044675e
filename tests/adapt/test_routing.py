"""Several adapters in one batch: each row as if its adapter were alone.

Shapes: N rows of a batch.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from oracle import random_ids
from peft_oracle import IDS_BT, KINDS, ours_of, pair, randomize
from torch import Tensor

from pharos.adapt import Adapters, BottleneckConfig, LoraConfig, disabled
from pharos.adapt.layers import Dequantizes
from pharos.core.errors import ModelError
from pharos.models.doubles import tiny_bert, tiny_llama
from pharos.models.family import Model
from pharos.models.load import new_model
from pharos.ops import pack
from pharos.quant import convert_bf16, convert_nf4, convert_w8a8, convert_w8a16

CONFIGS: dict[str, Any] = {
    "one": LoraConfig(r=4),
    "two": LoraConfig(r=3, use_rslora=True, target_modules=("v_proj", "value", "c_attn")),
    "dora": LoraConfig(r=2, use_dora=True),
    "rows": LoraConfig(r=2, trainable_token_indices=(5, 2)),
    "after": BottleneckConfig(size=4),
}
PARTS = [("one", 3), (None, 4), ("two", 1), ("one", 2), ("dora", 5), ("rows", 4), ("after", 3)]
TOTAL = sum(count for _, count in PARTS)
Run = Callable[[Model, Tensor], Tensor]


def fill(adapters: Adapters, configs: dict[str, Any]) -> Adapters:
    """With random values everywhere, of which no two adapters have the same."""
    known = " ".join(adapters.sites)
    for seed, (name, config) in enumerate(configs.items()):
        if isinstance(config, LoraConfig) and not isinstance(config.target_modules, str):
            targets = tuple(t for t in config.target_modules if t in known)
            config = LoraConfig(r=config.r, use_rslora=True, target_modules=targets)
        adapters.add(config, name)
        randomize(adapters.model, lambda p: p.requires_grad, seed=seed)
    adapters.activate()
    return adapters


def rows_of(parts: Sequence[tuple[str | None, int]]) -> dict[str | None, list[int]]:
    rows: dict[str | None, list[int]] = {}
    start = 0
    for name, count in parts:
        rows.setdefault(name, []).extend(range(start, start + count))
        start += count
    return rows


def by_rows(model: Model, ids_N: Tensor) -> Tensor:
    """Every row is a sequence of its own: what differs between rows are their adapters."""
    return ours_of(model, ids_N[:, None])[:, 0]


@pytest.mark.parametrize("name", ["llama", "gpt2"])
@torch.inference_mode()
def test_a_mixed_batch_gives_each_row_what_its_adapter_alone_gives(name: str) -> None:
    model = pair(KINDS[name]).ours
    adapters = fill(Adapters(model), CONFIGS)
    ids_N = random_ids(1, TOTAL, seed=5)[0]
    base_N = by_rows(model, ids_N)
    with adapters.route(PARTS):
        mixed_N = by_rows(model, ids_N)
    for owner, rows in rows_of(PARTS).items():
        adapters.activate(*([] if owner is None else [owner]))
        alone_N = by_rows(model, ids_N)
        torch.testing.assert_close(mixed_N[rows], alone_N[rows], rtol=1e-4, atol=1e-5)
        changed = (alone_N[rows] - base_N[rows]).abs().max() > 1e-3
        assert changed == (owner is not None), owner


@torch.inference_mode()
def test_in_a_flat_batch_and_a_padded_one_rows_are_counted_alike() -> None:
    model = tiny_llama()
    adapters = fill(Adapters(model), {"one": LoraConfig(r=4), "two": LoraConfig(r=2)})
    ids_BT = IDS_BT % 50
    with adapters.route([("one", 7), ("two", 7)]):
        mixed_BTV = model(ids_BT)
    for row, owner in enumerate(("one", "two")):
        with adapters.route([(owner, 7)]):
            torch.testing.assert_close(mixed_BTV[row : row + 1], model(ids_BT[row : row + 1]))


@torch.inference_mode()
def test_a_route_of_no_adapter_is_the_base_bit_for_bit() -> None:
    model = tiny_llama()
    ids_BT = IDS_BT % 50
    base = model(ids_BT)
    adapters = fill(Adapters(model), {"one": LoraConfig(r=4)})
    adapters.activate("one")
    with adapters.route([(None, 14)]):
        assert torch.equal(model(ids_BT), base)
    with adapters.route([("one", 7), (None, 7)]):
        mixed = model(ids_BT)
        with disabled(model):
            assert torch.equal(model(ids_BT), base)
    assert not torch.equal(mixed[0], base[0])
    assert torch.equal(mixed[1], base[1])


@torch.inference_mode()
def test_texts_of_a_packed_batch_go_through_adapters_of_their_own() -> None:
    texts = [[3, 4, 5, 6], [7, 8, 9, 1], [6] * 20]
    model = tiny_bert()
    adapters = fill(Adapters(model), {"one": LoraConfig(r=4), "two": LoraConfig(r=4)})
    batch = pack(texts)
    lengths = [run.texts * run.length for run in batch.runs]
    assert lengths == [32, 32]
    with adapters.route([("one", 16), (None, 16), ("two", 32)]):
        mixed_ND = model.encode(batch)
    owners: list[str | None] = ["one", None, "two"]
    for owner, text, start in zip(owners, texts, (0, 16, 32), strict=True):
        alone = pack([text])
        with adapters.route([(owner, len(alone.ids))]):
            alone_ND = model.encode(alone)
        rows = slice(start, start + len(text))
        torch.testing.assert_close(mixed_ND[rows], alone_ND[: len(text)], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["bert", "llama classifier"])
@torch.inference_mode()
def test_heads_that_adapters_saved_follow_a_route_of_their_own(kind: str) -> None:
    model = pair(KINDS[kind]).ours
    adapters = fill(Adapters(model), {"one": LoraConfig(r=4), "two": LoraConfig(r=4)})
    assert adapters.configs["one"].modules_to_save is None
    owners: list[str | None] = ["one", None, "two"]
    ids_BT = random_ids(3, 7)
    with adapters.route([(owner, 7) for owner in owners]):
        x_BTD = model.body(ids_BT)
    head = getattr(model, "score", None)
    with adapters.route([(owner, 1) for owner in owners]):
        mixed_BC = model.logits(x_BTD) if head is None else head(x_BTD[:, -1])
    for row, owner in enumerate(owners):
        adapters.activate(*([] if owner is None else [owner]))
        torch.testing.assert_close(mixed_BC[row : row + 1], ours_of(model, ids_BT[row : row + 1]))


TIED = {
    "rows": LoraConfig(target_modules=("c_attn",), trainable_token_indices=(5, 2)),
    "table": LoraConfig(target_modules=("c_attn",), modules_to_save=("wte",)),
}


@pytest.mark.parametrize("config", TIED.values(), ids=TIED)
@torch.inference_mode()
def test_a_tied_head_has_the_rows_and_the_table_of_each_adapter(config: LoraConfig) -> None:
    model = pair(KINDS["gpt2"]).ours
    adapters = fill(Adapters(model), {"one": config, "two": config})
    parts: list[tuple[str | None, int]] = [("one", 3), (None, 7), ("two", 4)]
    with adapters.route(parts):
        mixed_NV = by_rows(model, IDS_BT.flatten())
    for owner, rows in rows_of(parts).items():
        adapters.activate(*([] if owner is None else [owner]))
        alone_NV = by_rows(model, IDS_BT.flatten())
        torch.testing.assert_close(mixed_NV[rows], alone_NV[rows])


def with_its_weights(converted: Model) -> Model:
    """A plain model in float32 that computes what a converted one does, but for rounding."""
    plain = tiny_llama(std=0.1)
    for name, module in converted.named_modules():
        if isinstance(module, Dequantizes):
            plain.get_submodule(name).get_parameter("weight").data = module.dequantize(torch.float)
    return plain


@pytest.mark.parametrize("convert", [convert_bf16, convert_nf4, convert_w8a8, convert_w8a16])
@pytest.mark.parametrize("loads_first", [True, False])
@torch.inference_mode()
def test_a_converted_base_is_only_multiplied(
    convert: Callable[[Model], Model], loads_first: bool
) -> None:
    configs = {"one": LoraConfig(r=4), "two": LoraConfig(r=2, use_dora=True)}
    plain = fill(Adapters(with_its_weights(convert(tiny_llama(std=0.1)))), configs)
    adapters = Adapters(model := tiny_llama(std=0.1))
    if loads_first:
        fill(adapters, configs)
    convert(model)
    if not loads_first:
        fill(adapters, configs)
    for name in configs:
        for part, other in zip(adapters.parts(name), plain.parts(name), strict=True):
            part.load(other.tensors())
    parts: list[tuple[str | None, int]] = [("one", 7), (None, 3), ("two", 4)]
    ids_1N = random_ids(1, 14) % 50
    with plain.route(parts), adapters.route(parts):
        expected, found = plain.model(ids_1N), model(ids_1N).float()
    assert torch.nn.functional.cosine_similarity(expected, found, dim=-1).min() > 0.99


@pytest.mark.parametrize("config", TIED.values(), ids=TIED)
@pytest.mark.parametrize("convert", [convert_bf16, convert_w8a8])
@torch.inference_mode()
def test_a_converted_table_is_adapted_as_a_plain_one(
    convert: Callable[[Model], Model], config: LoraConfig
) -> None:
    plain = fill(Adapters(pair(KINDS["gpt2"]).ours), {"one": config})
    adapters = fill(Adapters(convert(pair(KINDS["gpt2"]).ours)), {"one": config})
    for part, other in zip(adapters.parts("one"), plain.parts("one"), strict=True):
        part.load(other.tensors())
        part.to(torch.bfloat16)
    parts: list[tuple[str | None, int]] = [("one", 7), (None, 7)]
    with plain.route(parts), adapters.route(parts):
        expected, found = ours_of(plain.model), ours_of(adapters.model).float()
    assert torch.nn.functional.cosine_similarity(expected, found, dim=-1).min() > 0.99


@torch.inference_mode()
def test_batches_side_by_side_keep_to_their_own_route() -> None:
    model = tiny_llama()
    adapters = fill(Adapters(model), {"one": LoraConfig(r=4), "two": LoraConfig(r=4)})
    ids_BT = IDS_BT % 50

    @torch.inference_mode()
    def run(owner: str | None) -> Tensor:
        with adapters.route([(owner, 14)]):
            logits: Tensor = model(ids_BT)
        return logits

    owners: list[str | None] = ["one", "two", None] * 8
    expected = {owner: run(owner) for owner in owners[:3]}
    with ThreadPoolExecutor(4) as pool:
        for owner, found in zip(owners, pool.map(run, owners), strict=True):
            assert torch.equal(found, expected[owner])


def test_another_models_route_does_not_matter() -> None:
    model, other = tiny_llama(), tiny_llama(seed=1)
    adapters = fill(Adapters(model), {"one": LoraConfig(r=4)})
    others = fill(Adapters(other), {"one": LoraConfig(r=4)})
    others.activate("one")
    expected = other(IDS_BT % 50)
    with adapters.route([("one", 3), (None, 4)]):
        assert torch.equal(other(IDS_BT % 50), expected)
    with adapters.route([("one", 14)]), others.route([(None, 14)]):
        routed = model(IDS_BT % 50)
    adapters.activate("one")
    torch.testing.assert_close(model(IDS_BT % 50), routed)


def test_rows_and_names_are_checked() -> None:
    model = tiny_llama()
    adapters = fill(Adapters(model), {"one": LoraConfig(r=4)})
    with pytest.raises(ValueError, match="unknown adapter 'two'; there are one"):
        adapters.route([("two", 3)])
    with pytest.raises(ValueError, match="-1 rows for adapter 'one'"):
        adapters.route([("one", -1)])
    with (
        adapters.route([("one", 3), (None, 4)]),
        pytest.raises(ValueError, match=r"module of 14 rows within a route of 7; .* its own"),
    ):
        model(IDS_BT % 50)
    with (
        adapters.route([("one", 7)]),
        pytest.raises(ValueError, match="module of 14 rows within a route of 7"),
    ):
        model(IDS_BT % 50)
    adapters.activate("one")
    adapters.merge()
    with adapters.route([("one", 14)]), pytest.raises(ValueError, match="unmerge them"):
        model(IDS_BT % 50)


def test_models_and_adapters_that_mix_rows_are_refused() -> None:
    t5 = fill(Adapters(pair(KINDS["t5"]).ours), {"one": LoraConfig(r=4)})
    with pytest.raises(ModelError, match="t5 does not: activate one adapter at a time"):
        t5.route([("one", 3), (None, 4)])
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    raw = {"model_type": "mixtral", "vocab_size": 31, "intermediate_size": 16, **sizes}
    model = new_model(raw | {"num_key_value_heads": 2, "num_local_experts": 2}, "causal_lm")
    configs = {"all": LoraConfig(r=4), "attention": LoraConfig(r=4, target_modules=("q_proj",))}
    adapters = Adapters(model.eval())
    for name, config in configs.items():
        adapters.add(config, name)
    with pytest.raises(ModelError, match="adapter 'all' changes experts"):
        adapters.route([("all", 3), (None, 4)])
    ids_BT = torch.tensor([[1, 2, 3, 4, 5, 6, 7]])
    with adapters.route([("attention", 3), (None, 4)]):
        model(ids_BT)
    with adapters.route([("all", 7)]):
        model(ids_BT)


def test_a_linear_that_took_over_the_gelu_is_not_adapted() -> None:
    model = convert_bf16(tiny_bert())
    with pytest.raises(ModelError, match="load adapters before the model is converted"):
        Adapters(model).add(LoraConfig(target_modules=("intermediate.dense",)))
