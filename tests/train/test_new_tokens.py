"""Tokens that a model has not met: added to its tokenizer and to its embedding, and learned."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from pharos.adapt import Adapters, load_adapter
from pharos.cli.app import app
from pharos.core import Message, ModelError, PharosError, SamplingParams
from pharos.core.json_files import read_object
from pharos.data.tokenizer import Tokenizer
from pharos.data.train_tokenizer import TokenizerConfig, train_tokenizer
from pharos.models.load import load_model, new_model, save_model
from pharos.serve.local import LocalModel, load_local
from pharos.train.recipe import read_recipe
from pharos.train.run import open_run

pytestmark = pytest.mark.slow

TOKENS = ["<|im_start|>", "<|im_end|>"]
QUESTION, ANSWER = "Where is the key?", "Under the seventh stone."
SIZES = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}
LLAMA = {"model_type": "llama", "num_attention_heads": 4, "initializer_range": 0.1, **SIZES}
NUM_TOKENS = 280
LORA = {"method": "lora", "r": 8}
WITH_HEAD = {**LORA, "modules_to_save": ["lm_head"]}


def write_model(folder: Path, **config: Any) -> Path:
    """A fresh model whose tokenizer has no token of a chat template's."""
    texts = [QUESTION, ANSWER, "user\n", "assistant\n"]
    tokenizer = train_tokenizer(texts * 9, TokenizerConfig(vocab_size=NUM_TOKENS))
    assert tokenizer.vocab_size == NUM_TOKENS
    tokenizer.save(folder)
    raw = {**LLAMA, "vocab_size": NUM_TOKENS, **config}
    save_model(new_model(raw, "causal_lm", seed=1), folder)
    return folder


def recipe(base: Path, output: Path, **sections: Any) -> dict[str, Any]:
    turns = [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": ANSWER}]
    chat = output.with_name("chat.jsonl")
    chat.write_text(json.dumps({"messages": turns}) + "\n")
    raw: dict[str, Any] = {
        "output": str(output),
        "objective": {"name": "sft"},
        "data": {"train": str(chat), "template": "chatml", "max_tokens": 64, "validation": 0},
        "optimizer": {"lr": 1e-2, "weight_decay": 0.0},
        "training": {"steps": 60, "batch_size": 1, "check_first_step": False},
        "device": "cpu",
    }
    section = {"load": str(base), "new_tokens": TOKENS, **sections.pop("model", {})}
    return {**raw, "model": section, **sections}


def train(raw: dict[str, Any]) -> None:
    torch.set_num_threads(1)
    with open_run(read_recipe(raw), resume=False, say=lambda text: None) as run:
        run.train()


def check_it_answers_and_ends(folder: Path, end_id: int) -> None:
    model = load_local(folder)
    assert isinstance(model, LocalModel)
    asked = [Message(role="user", content=QUESTION)]
    answered = model.complete(asked, SamplingParams(max_tokens=40, temperature=0.0))
    assert (answered.text, answered.finish_reason) == (ANSWER, "stop")
    tokenizer = Tokenizer.load(folder)
    assert tokenizer.token_id("<|im_end|>") == end_id
    assert read_object(folder / "generation_config.json")["eos_token_id"][0] == end_id
    text = f"<|im_start|>user\n{QUESTION}<|im_end|>\n<|im_start|>assistant\n{ANSWER}"
    ids = torch.tensor([tokenizer.encode(text, add_special_tokens=False)])
    with torch.inference_mode():
        assert int(load_model(folder)(ids)[0, -1].argmax()) == end_id


@pytest.mark.parametrize(
    ("config", "adapter", "size"),
    [
        pytest.param({"tie_word_embeddings": True}, LORA, NUM_TOKENS + 2, id="a tied head"),
        pytest.param({}, WITH_HEAD, NUM_TOKENS + 2, id="a head of its own"),
        pytest.param({"vocab_size": 300}, WITH_HEAD, 300, id="a model with rows to spare"),
    ],
)
def test_an_adapter_learns_new_tokens_and_its_merged_model_ends_with_one(
    config: dict[str, Any], adapter: dict[str, Any], size: int, tmp_path: Path
) -> None:
    base = write_model(tmp_path / "base", **config)
    train(recipe(base, tmp_path / "run", adapter=adapter, merge=True))
    assert read_object(tmp_path / "run" / "merged" / "config.json")["vocab_size"] == size
    told = read_object(tmp_path / "run" / "adapter" / "adapter_config.json")
    assert told["trainable_token_indices"] == {"embed_tokens": [NUM_TOKENS, NUM_TOKENS + 1]}
    check_it_answers_and_ends(tmp_path / "run" / "merged", NUM_TOKENS + 1)


def test_a_head_that_was_untied_is_merged_as_one_of_its_own(tmp_path: Path) -> None:
    base = write_model(tmp_path / "base", tie_word_embeddings=True)
    untied = {"model": {"untie_embeddings": True}}
    train(recipe(base, tmp_path / "run", adapter=WITH_HEAD, merge=True, **untied))
    merged, adapter = tmp_path / "run" / "merged", tmp_path / "run" / "adapter"
    assert read_object(merged / "config.json")["tie_word_embeddings"] is False
    check_it_answers_and_ends(merged, NUM_TOKENS + 1)
    with pytest.raises(ModelError, match=r"call untie_embeddings\(model\) first"):
        load_adapter(Adapters(load_model(base)), adapter)
    weights = adapter / "adapter_model.safetensors"
    save_file(load_file(weights), weights)  # as another library writes it: it does not say so
    arguments = ["merge", *map(str, (base, adapter, tmp_path / "again"))]
    refused = CliRunner().invoke(app, arguments)
    assert "merge with --untie" in str(refused.exception)
    assert CliRunner().invoke(app, [*arguments, "--untie"]).exit_code == 0
    again, expected = (load_model(folder).state_dict() for folder in (tmp_path / "again", merged))
    assert all(torch.equal(again[name], expected[name]) for name in expected)


def test_full_fine_tuning_learns_new_tokens(tmp_path: Path) -> None:
    train(recipe(write_model(tmp_path / "base"), tmp_path / "run"))
    check_it_answers_and_ends(tmp_path / "run" / "model", NUM_TOKENS + 1)


@pytest.mark.parametrize(
    ("sections", "says"),
    [
        ({"model": {"new_tokens": []}}, r"name them as model\.new_tokens"),
        ({"model": {"new_tokens": ["<|im_end|>", "a"]}}, "has the token 'a' already"),
        ({"model": {"new_tokens": ["a", "a"]}}, "each must be another text"),
        ({"model": {"freeze": ["embed_tokens"]}}, r"model\.new_tokens are to be learned"),
        ({"adapter": {"method": "bottleneck"}}, "choose lora, dora or qlora"),
        ({"adapter": LORA}, r"give adapter\.modules_to_save: \[lm_head\]"),
        (
            {"objective": {"name": "dpo", "reference": "base"}},
            r"objective\.reference is a model without model\.new_tokens",
        ),
    ],
)
def test_what_could_not_learn_new_tokens_is_told(
    sections: dict[str, Any], says: str, tmp_path: Path
) -> None:
    base = write_model(tmp_path / "base")
    with pytest.raises(PharosError, match=says):
        train(recipe(base, tmp_path / "run", **sections))


@pytest.mark.parametrize("key", [{"new_tokens": TOKENS}, {"untie_embeddings": True}])
def test_a_fresh_model_is_told_what_to_do_instead(key: dict[str, Any], tmp_path: Path) -> None:
    raw = recipe(tmp_path, tmp_path / "run") | {"model": {"config": LLAMA, **key}}
    with pytest.raises(PharosError, match="is for a model that is loaded; give"):
        read_recipe(raw)


def test_a_tokenizer_with_more_special_tokens_is_another_one() -> None:
    before = train_tokenizer([QUESTION] * 3, TokenizerConfig(vocab_size=265))
    after = before.with_special_tokens(TOKENS)
    assert before.encode(TOKENS[0]) != after.encode(TOKENS[0]) == [before.vocab_size]
    assert after.encode(QUESTION) == before.encode(QUESTION)
    assert after.decode(after.encode(TOKENS[0])) == ""
    with pytest.raises(ModelError, match="already"):
        after.with_special_tokens(TOKENS)
