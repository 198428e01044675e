import json
from pathlib import Path
from typing import Any

import pytest
import torch
from oracle import assert_close
from peft_oracle import (
    IDS_BT,
    KINDS,
    Kind,
    ours_of,
    pair,
    peft,
    peft_load,
    peft_model,
    randomize,
    theirs_of,
)

from pharos.adapt import (
    Adapters,
    LoraConfig,
    PromptTuningConfig,
    load_adapter,
    save_adapter,
    untie_embeddings,
    with_prompt,
)
from pharos.core.errors import ModelError

SETTINGS: dict[str, dict[str, Any]] = {
    "lora": {},
    "rslora": {"use_rslora": True},
    "dora": {"use_dora": True},
}
every_kind = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
every_setting = pytest.mark.parametrize("setting", SETTINGS.values(), ids=SETTINGS)


@every_kind
@every_setting
def test_we_load_what_peft_saved(kind: Kind, setting: dict[str, Any], tmp_path: Path) -> None:
    both = pair(kind)
    theirs = peft_model(
        both.theirs,
        peft.LoraConfig(
            r=4, lora_alpha=10, task_type=kind.task_type, target_modules=kind.targets, **setting
        ),
    )
    theirs.save_pretrained(tmp_path)
    base = ours_of(both.ours)
    load_adapter(Adapters(both.ours), tmp_path)
    assert_close(ours_of(both.ours), theirs_of(theirs))
    assert not torch.allclose(ours_of(both.ours), base, atol=1e-3)


@every_kind
@every_setting
def test_peft_loads_what_we_saved(kind: Kind, setting: dict[str, Any], tmp_path: Path) -> None:
    both = pair(kind)
    adapters = Adapters(both.ours)
    config = LoraConfig(
        r=4,
        lora_alpha=10,
        rank_pattern={kind.targets[0]: 3},
        alpha_pattern={kind.targets[1]: 5.0},
        **setting,
    )
    adapters.add(config)
    randomize(both.ours, lambda p: p.requires_grad)
    save_adapter(adapters, tmp_path)
    theirs = peft_load(both.theirs, tmp_path)
    assert_close(ours_of(both.ours), theirs_of(theirs))


@every_kind
def test_what_we_saved_we_load_bit_for_bit(kind: Kind, tmp_path: Path) -> None:
    first, second = pair(kind).ours, pair(kind).ours
    adapters = Adapters(first)
    adapters.add(LoraConfig(r=4, use_rslora=True, rank_pattern={kind.targets[0]: 3}))
    randomize(first, lambda p: p.requires_grad)
    save_adapter(adapters, tmp_path / "one")
    again = Adapters(second)
    load_adapter(again, tmp_path / "one", "other")
    assert torch.equal(ours_of(first), ours_of(second))
    save_adapter(again, tmp_path / "two", "other")
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


@pytest.mark.parametrize("name", ["llama", "bert", "t5"])
def test_prompts_go_both_ways(name: str, tmp_path: Path) -> None:
    both, kind = pair(KINDS[name]), KINDS[name]
    config = peft.PromptTuningConfig(task_type=kind.task_type, num_virtual_tokens=3)
    theirs = peft_model(both.theirs, config)
    theirs.save_pretrained(tmp_path / "theirs")
    adapters = Adapters(both.ours)
    load_adapter(adapters, tmp_path / "theirs")
    expected = theirs_of(theirs)
    assert_close(ours_of(both.ours, with_prompt(both.ours, IDS_BT)), expected)
    adapters.remove()
    adapters.add(PromptTuningConfig(num_virtual_tokens=2))
    save_adapter(adapters, tmp_path / "ours")
    ours = ours_of(both.ours, with_prompt(both.ours, IDS_BT))
    assert_close(ours, theirs_of(peft_load(both.theirs, tmp_path / "ours")))


def test_trained_tokens_and_heads_go_both_ways(tmp_path: Path) -> None:
    for tied in (False, True):
        kind = KINDS["gpt2"] if tied else KINDS["llama"]
        both, embedding = pair(kind), "wte" if tied else "embed_tokens"
        config = peft.LoraConfig(
            task_type="CAUSAL_LM",
            target_modules=kind.targets,
            trainable_token_indices={embedding: [9, 3]},
        )
        theirs = peft_model(both.theirs, config)
        theirs.save_pretrained(tmp_path / "theirs")
        adapters = Adapters(both.ours)
        load_adapter(adapters, tmp_path / "theirs")
        assert_close(ours_of(both.ours), theirs_of(theirs))
        save_adapter(adapters, tmp_path / "ours")
        assert_close(ours_of(both.ours), theirs_of(peft_load(both.theirs, tmp_path / "ours")))


def test_an_embedding_and_a_head_are_adapted_as_in_peft(tmp_path: Path) -> None:
    both = pair(KINDS["llama"])
    targets = ["embed_tokens", "lm_head", "v_proj"]
    config = peft.LoraConfig(r=4, task_type="CAUSAL_LM", target_modules=targets)
    theirs = peft_model(both.theirs, config)
    theirs.save_pretrained(tmp_path / "theirs")
    adapters = Adapters(both.ours)
    load_adapter(adapters, tmp_path / "theirs")
    assert_close(ours_of(both.ours), theirs_of(theirs))
    save_adapter(adapters, tmp_path / "ours")
    assert_close(ours_of(both.ours), theirs_of(peft_load(both.theirs, tmp_path / "ours")))


def test_the_names_in_the_file_are_hugging_faces(tmp_path: Path) -> None:
    both = pair(KINDS["bert"])
    adapters = Adapters(both.ours)
    adapters.add(LoraConfig(r=4, target_modules=("query", "value")))
    save_adapter(adapters, tmp_path, base_model="somebody/bert")
    raw = json.loads((tmp_path / "adapter_config.json").read_text())
    assert raw["target_modules"] == ["query", "value"]
    assert raw["base_model_name_or_path"] == "somebody/bert"
    assert raw["modules_to_save"] == ["bert.pooler.dense", "classifier"]


@pytest.mark.parametrize("name", ["gpt2", "t5"])
def test_a_trained_copy_of_a_tied_embedding_is_their_head_too(name: str, tmp_path: Path) -> None:
    both = pair(KINDS[name])
    adapters = Adapters(both.ours)
    table = "wte" if name == "gpt2" else "shared"
    targets = tuple(KINDS[name].targets)
    adapters.add(LoraConfig(r=4, target_modules=targets, modules_to_save=(table,)))
    randomize(both.ours, lambda p: p.requires_grad)
    save_adapter(adapters, tmp_path)
    assert_close(ours_of(both.ours), theirs_of(peft_load(both.theirs, tmp_path)))


def test_a_trained_copy_without_the_head_needs_an_untied_model(tmp_path: Path) -> None:
    both = pair(KINDS["gpt2"])
    config = peft.LoraConfig(
        task_type="CAUSAL_LM", target_modules=["c_attn"], modules_to_save=["wte"]
    )
    theirs = peft_model(both.theirs, config)
    theirs.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="untie_embeddings"):
        load_adapter(Adapters(both.ours), tmp_path)
    untied = pair(KINDS["gpt2"]).ours
    untie_embeddings(untied)
    load_adapter(Adapters(untied), tmp_path)
    assert_close(ours_of(untied), theirs_of(theirs))
