"""What holds for adapters on any model.

Shapes: B sequences, T tokens.
"""

from typing import Any

import pytest
import torch
from oracle import assert_close
from peft_oracle import IDS_BT, KINDS, Kind, ours_of, pair, randomize
from torch import nn

from pharos.adapt import (
    Adapters,
    BottleneckConfig,
    LoraConfig,
    PromptTuningConfig,
    disabled,
    grow_vocabulary,
    is_tied,
    load_adapter,
    save_adapter,
    untie_embeddings,
    virtual_ids,
    with_prompt,
)
from pharos.core.errors import ModelError
from pharos.models.doubles import tiny_llama
from pharos.models.family import Model
from pharos.models.load import load_model, save_model
from pharos.quant import convert_nf4

CONFIGS: dict[str, Any] = {
    "lora": LoraConfig(r=4, trainable_token_indices=(5, 2)),
    "dora": LoraConfig(r=4, use_dora=True),
    "bottleneck": BottleneckConfig(size=8),
}
MERGEABLE = {name: config for name, config in CONFIGS.items() if name != "bottleneck"}
every_kind = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
every_config = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
every_mergeable = pytest.mark.parametrize("config", MERGEABLE.values(), ids=MERGEABLE)


def frozen(kind: Kind) -> Model:
    """Gradients may change which kernel computes the attention, and so the last bits."""
    return pair(kind).ours.requires_grad_(False)


def adapted(model: Any, config: Any) -> Adapters:
    """With random values in all that trains."""
    adapters = Adapters(model)
    adapters.add(config)
    randomize(model, lambda p: p.requires_grad)
    return adapters


@every_kind
@every_config
def test_a_new_adapter_changes_nothing(kind: Kind, config: Any) -> None:
    model = frozen(kind)
    base = ours_of(model)
    Adapters(model).add(config)
    torch.testing.assert_close(ours_of(model), base, rtol=1e-5, atol=1e-6)


@every_kind
@every_config
def test_switched_off_it_is_the_base_bit_for_bit(kind: Kind, config: Any) -> None:
    model = frozen(kind)
    base = ours_of(model)
    adapters = adapted(model, config)
    changed = ours_of(model)
    assert not torch.allclose(changed, base, atol=1e-3)
    with disabled(model):
        assert torch.equal(ours_of(model), base)
    assert torch.equal(ours_of(model), changed)
    adapters.activate()
    assert torch.equal(ours_of(model), base)
    assert torch.equal(ours_of(adapters.unload()), base)


@every_kind
@every_mergeable
def test_merged_equals_unmerged_and_unmerging_brings_the_base_back(kind: Kind, config: Any) -> None:
    model = frozen(kind)
    base = ours_of(model)
    adapters = adapted(model, config)
    unmerged = ours_of(model)
    adapters.merge()
    assert_close(ours_of(model), unmerged)
    with disabled(model):
        assert torch.equal(ours_of(model), base)
    adapters.unmerge()
    assert torch.equal(ours_of(model), unmerged)
    with disabled(model):
        assert torch.equal(ours_of(model), base)


@every_kind
def test_a_merged_model_is_plain_and_survives_its_files(kind: Kind, tmp_path: Any) -> None:
    model = pair(kind).ours
    adapters = adapted(model, LoraConfig(r=4, trainable_token_indices=(3,)))
    unmerged = ours_of(model)
    save_model(adapters.merge_and_unload(), tmp_path)
    assert_close(ours_of(load_model(tmp_path, task=kind.task)), unmerged)


@every_kind
@every_config
def test_two_steps_change_every_parameter_of_the_adapter_and_no_other(
    kind: Kind, config: Any
) -> None:
    model = pair(kind).ours.train()
    adapters = Adapters(model)
    adapters.add(config)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    trained = [p for p in model.parameters() if p.requires_grad]
    assert set(map(id, trained)) == {id(p) for part in adapters.parts() for p in part.parameters()}
    optimizer = torch.optim.SGD(trained, lr=0.01)
    for _ in range(2):
        optimizer.zero_grad()
        ours_of(model, torch.tensor([[5, 2, 7, 9, 11]] * 2)).square().sum().backward()
        optimizer.step()
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name]) != parameter.requires_grad, name


def test_dropout_falls_on_the_adapter_alone() -> None:
    model = tiny_llama()
    base = model(IDS_BT % 50)
    Adapters(model).add(LoraConfig(r=4, lora_dropout=0.5))
    randomize(model, lambda p: p.requires_grad)
    assert torch.equal(model(IDS_BT % 50), model(IDS_BT % 50))
    model.train()
    one, other = model(IDS_BT % 50), model(IDS_BT % 50)
    assert not torch.equal(one, other)
    with disabled(model):
        assert torch.equal(model(IDS_BT % 50), base)


def test_adapters_of_one_model_add_up() -> None:
    model = pair(KINDS["bert"]).ours
    adapters = Adapters(model)
    outcomes = {}
    for name, targets in {"one": ("query",), "two": ("value", "output.dense")}.items():
        adapters.add(LoraConfig(target_modules=targets, modules_to_save=()), name)
        randomize(model, lambda p: p.requires_grad, seed=len(name))
        outcomes[name] = ours_of(model)
    adapters.activate("one", "two")
    both = ours_of(model)
    adapters.merge()
    assert_close(ours_of(model), both)
    adapters.unmerge()
    adapters.activate("one")
    assert torch.equal(ours_of(model), outcomes["one"])
    adapters.remove("one")
    adapters.activate("two")
    assert torch.equal(ours_of(model), outcomes["two"])


def test_what_does_not_add_up_is_refused() -> None:
    adapters = Adapters(tiny_llama())
    for name in ("one", "two"):
        adapters.add(LoraConfig(use_dora=True), name)
    with pytest.raises(ValueError, match=r"do not add up at body\.blocks.0.attention.query"):
        adapters.activate("one", "two")


def test_a_prompt_is_tokens_in_front_of_the_text() -> None:
    model = tiny_llama()
    adapters = Adapters(model)
    adapters.add(PromptTuningConfig(num_virtual_tokens=3, init_ids=(7, 8)))
    ids_BT = IDS_BT % 50
    assert virtual_ids(model) == [50, 51, 52]
    spelled_out = torch.cat([torch.tensor([[7, 8, 7]] * 2), ids_BT], dim=1)
    expected = tiny_llama()(spelled_out)
    assert torch.equal(model(with_prompt(model, ids_BT)), expected)
    with disabled(model):
        assert torch.equal(with_prompt(model, ids_BT), ids_BT)
    with pytest.raises(ValueError, match="a prompt cannot be merged"):
        adapters.merge()


def test_what_cannot_be_merged_leaves_the_model_as_it_is() -> None:
    model = tiny_llama()
    adapters = adapted(model, BottleneckConfig())
    before = model(IDS_BT % 50)
    for merge in (adapters.merge, adapters.merge_and_unload):
        with pytest.raises(ValueError, match="a bottleneck cannot be merged"):
            merge()
    assert torch.equal(model(IDS_BT % 50), before)


def test_bottlenecks_stand_behind_attention_and_feed_forward(tmp_path: Any) -> None:
    model = pair(KINDS["bert"]).ours
    adapters = adapted(model, BottleneckConfig(size=8, activation="relu"))
    names = {part.name.partition("layer.")[2] for part in adapters.parts() if hasattr(part, "name")}
    assert names == {f"{i}.{end}.dense" for i in (0, 1) for end in ("attention.output", "output")}
    save_adapter(adapters, tmp_path)
    again = pair(KINDS["bert"]).ours
    load_adapter(Adapters(again), tmp_path)
    assert torch.equal(ours_of(again), ours_of(model))


# --- tied embeddings, new tokens -----------------------------------------------------------------


def tied() -> Any:
    model = frozen(KINDS["gpt2"])
    assert is_tied(model)
    return model


@pytest.mark.parametrize("target", ["wte", "lm_head"])
def test_low_rank_updates_of_a_tied_weight_are_refused_with_the_way_out(target: str) -> None:
    model = tied()
    base = ours_of(model)
    with pytest.raises(ModelError, match=r"untie_embeddings\(model\)"):
        Adapters(model).add(LoraConfig(target_modules=("c_attn", target)))
    assert torch.equal(ours_of(model), base)
    untie_embeddings(model)
    assert torch.equal(ours_of(model), base)
    adapters = adapted(model, LoraConfig(target_modules=("c_attn", target)))
    unmerged = ours_of(model)
    adapters.merge()
    assert_close(ours_of(model), unmerged)


def test_an_untied_model_says_so_in_its_files(tmp_path: Any) -> None:
    model = tied()
    untie_embeddings(model)
    adapters = adapted(model, LoraConfig(target_modules=("wte", "lm_head")))
    unmerged = ours_of(model)
    save_model(adapters.merge_and_unload(), tmp_path)
    again = load_model(tmp_path)
    assert not is_tied(again)
    assert_close(ours_of(again), unmerged)


def test_a_trained_copy_of_a_tied_embedding_is_the_head_too(tmp_path: Any) -> None:
    model = tied()
    adapters = adapted(model, LoraConfig(target_modules=("c_attn",), modules_to_save=("wte",)))
    unmerged = ours_of(model)
    save_adapter(adapters, tmp_path / "adapter")
    again = tied()
    load_adapter(Adapters(again), tmp_path / "adapter")
    assert torch.equal(ours_of(again), unmerged)
    save_model(adapters.merge_and_unload(), tmp_path / "model")
    merged = load_model(tmp_path / "model")
    assert is_tied(merged)
    assert_close(ours_of(merged), unmerged)


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_new_tokens_are_trained_and_saved_with_the_adapter(name: str, tmp_path: Any) -> None:
    model = pair(KINDS[name]).ours
    before = ours_of(model)
    new = grow_vocabulary(model, 2)
    assert_close(ours_of(model)[..., :99], before)
    targets = tuple(KINDS[name].targets)
    config = LoraConfig(target_modules=targets, trainable_token_indices=tuple(new))
    adapters = adapted(model, config)
    ids_BT = torch.cat([IDS_BT, torch.tensor([list(new)] * 2)], dim=1)
    expected = ours_of(model, ids_BT)
    save_adapter(adapters, tmp_path)
    ungrown = pair(KINDS[name]).ours
    with pytest.raises(ModelError, match="grow_vocabulary"):
        load_adapter(Adapters(ungrown), tmp_path)
    grow_vocabulary(ungrown, 2)
    load_adapter(Adapters(ungrown), tmp_path)
    assert torch.equal(ours_of(ungrown, ids_BT), expected)


# --- a quantized base ----------------------------------------------------------------------------


def test_qloras_gradients_are_loras_on_the_dequantized_base() -> None:
    quantized = convert_nf4(tiny_llama())
    dequantized = tiny_llama()
    for name, module in quantized.named_modules():
        if hasattr(module, "dequantize"):
            weight = dequantized.get_submodule(name).get_parameter("weight")
            weight.data = module.dequantize(torch.float32)
    gradients = []
    for model in (quantized, dequantized):
        adapters = Adapters(model)
        adapters.add(LoraConfig(r=4))
        randomize(model, lambda p: p.requires_grad)
        model(IDS_BT % 50).square().sum().backward()
        gradients.append([p.grad for part in adapters.parts() for p in part.parameters()])
    assert len(gradients[0]) == 2 * 14
    for ours, plain in zip(*gradients, strict=True):
        assert_close(ours, plain)


@every_mergeable
def test_an_adapter_is_merged_into_the_dequantized_base_in_16_bits(config: Any) -> None:
    model = convert_nf4(tiny_llama())
    base = model(IDS_BT % 50)
    adapters = adapted(model, config)
    unmerged = model(IDS_BT % 50)
    into_another = tiny_llama()
    randomize_like = adapted(into_another, config)
    for part, other in zip(adapters.parts(), randomize_like.parts(), strict=True):
        other.load(part.tensors())
    adapters.merge()
    assert model.body.blocks[0].attention.query.merged.weight.dtype == torch.bfloat16
    merged = model.to(torch.bfloat16)(IDS_BT % 50)
    far = (into_another(IDS_BT % 50) - unmerged).norm() / unmerged.norm()
    near = (merged.float() - unmerged).norm() / unmerged.norm()
    assert near < 0.03 < far
    adapters.unmerge()
    with disabled(model):
        assert_close(model(IDS_BT % 50).float(), base, within=0.03)


def test_names_are_checked() -> None:
    adapters = Adapters(tiny_llama())
    with pytest.raises(ModelError, match=r"no module 'q_prj' to adapt; did you mean 'q_proj'\?"):
        adapters.add(LoraConfig(target_modules=("q_prj",)))
    with pytest.raises(ModelError, match="no module 'head' to save"):
        adapters.add(LoraConfig(modules_to_save=("head",)))
    with pytest.raises(ValueError, match=r"cannot be named 'a\.b'"):
        adapters.add(LoraConfig(), "a.b")
    with pytest.raises(ValueError, match="cannot be named 'keys'"):
        adapters.add(LoraConfig(), "keys")
    with pytest.raises(ValueError, match="r is 0; it must be at least 1"):
        LoraConfig(r=0)
    assert not any(isinstance(m, nn.ModuleDict) for m in adapters.model.modules())
    adapters.add(LoraConfig())
    with pytest.raises(ValueError, match="already"):
        adapters.add(LoraConfig())
    with pytest.raises(ValueError, match="the model has adapters already"):
        Adapters(adapters.model)
