import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from pharos.adapt import Adapters, LoraConfig, grow_vocabulary, save_adapter
from pharos.models.family import Model, Task
from pharos.models.load import family_of, load_model, load_under_new_head, save_model, task_of
from pharos.quant import convert_nf4

IDS = torch.tensor([[3, 1, 4, 1, 5]])


@pytest.fixture
def adapter(llama_folder: Path, tmp_path: Path) -> Path:
    return trained(llama_folder, tmp_path / "adapter", LoraConfig(r=4))


def trained(model_folder: Path, folder: Path, config: LoraConfig, *, nf4: bool = False) -> Path:
    model = load_model(model_folder)
    return trained_on(convert_nf4(model) if nf4 else model, folder, config)


def trained_on(model: Model, folder: Path, config: LoraConfig) -> Path:
    if config.trainable_token_indices:
        grow_vocabulary(model, 2)
    adapters = Adapters(model)
    adapters.add(config)
    for part in adapters.parts():
        for parameter in part.parameters():
            torch.nn.init.normal_(parameter, std=0.1)
    save_adapter(adapters, folder)
    torch.save(model(IDS), folder / "expected.pt")
    return folder


def expected(folder: Path) -> torch.Tensor:
    logits: torch.Tensor = torch.load(folder / "expected.pt")
    return logits


def test_the_merged_folder_is_a_model(
    pharos, llama_folder: Path, adapter: Path, tmp_path: Path
) -> None:
    run = pharos("merge", llama_folder, adapter, tmp_path / "out", "--json")
    facts = json.loads(run.out)
    assert run.code == 0
    assert facts["merged_places"] == 14
    assert facts["base"] == "as it is"
    assert facts["largest_logit_difference"] < 1e-4
    assert "tokenizer.json" in facts["copied"]
    merged = load_model(tmp_path / "out")
    torch.testing.assert_close(merged(IDS), expected(adapter), rtol=1e-4, atol=1e-4)
    assert pharos("generate", tmp_path / "out", "The keeper", "--max-tokens", "3").code == 0


def test_an_adapter_of_an_nf4_base_is_merged_into_what_nf4_made_of_it(
    pharos, llama_folder: Path, tmp_path: Path
) -> None:
    config = LoraConfig(r=4, target_modules=("q_proj",))
    adapter = trained(llama_folder, tmp_path / "adapter", config, nf4=True)
    facts = json.loads(pharos("merge", llama_folder, adapter, tmp_path / "out", "--json").out)
    assert (facts["base"], facts["dtype"]) == ("nf4", "bfloat16")
    merged = load_model(tmp_path / "out", dtype=torch.float32)(IDS)
    pharos("merge", llama_folder, adapter, tmp_path / "other", "--no-nf4")
    wrong = load_model(tmp_path / "other")(IDS)
    truth = expected(adapter)
    assert (merged - truth).norm() < 0.02 * truth.norm() < (wrong - truth).norm()


def test_new_tokens_are_added_to_the_model(pharos, llama_folder: Path, tmp_path: Path) -> None:
    size = load_model(llama_folder).config.vocab_size
    config = LoraConfig(r=4, trainable_token_indices=(size, size + 1))
    adapter = trained(llama_folder, tmp_path / "adapter", config)
    facts = json.loads(pharos("merge", llama_folder, adapter, tmp_path / "out", "--json").out)
    assert facts["new_tokens"] == 2
    merged = load_model(tmp_path / "out")
    assert merged.config.vocab_size == size + 2
    torch.testing.assert_close(merged(IDS), expected(adapter), rtol=1e-4, atol=1e-4)


def test_the_adapters_tokenizer_is_the_newer_one(
    pharos, llama_folder: Path, adapter: Path, tmp_path: Path
) -> None:
    shutil.copyfile(llama_folder / "tokenizer.json", adapter / "tokenizer.json")
    (adapter / "chat_template.jinja").write_text("{{ messages }}")
    run = pharos("merge", llama_folder, adapter, tmp_path / "out")
    assert "largest_logit_difference" in run.out
    assert (tmp_path / "out" / "chat_template.jinja").read_text() == "{{ messages }}"


def test_what_is_there_is_never_written_over(
    pharos, llama_folder: Path, adapter: Path, tmp_path: Path
) -> None:
    assert pharos("merge", llama_folder, adapter, llama_folder).code == 2
    assert pharos("merge", llama_folder, tmp_path / "nothing", tmp_path / "out").code == 1


def test_an_adapter_of_another_model_is_one_line(
    pharos, bert_folder: Path, adapter: Path, tmp_path: Path
) -> None:
    run = pharos("merge", bert_folder, adapter, tmp_path / "out")
    assert run.code == 1
    assert "does not fit this model" in run.err
    assert len(run.err.splitlines()) == 1


# --- heads ---------------------------------------------------------------------------------------

LABELS = ("refund", 'size "L"', "größer")


def classifier(folder: Path, out: Path, task: Task, config: LoraConfig | None = None) -> Path:
    """The adapter of a classifier on the body of a model that is none."""
    model, fresh = load_under_new_head(folder, task, labels=LABELS)
    assert fresh
    return trained_on(model, out, config or LoraConfig(r=4))


@pytest.mark.parametrize("task", ["sequence_classification", "token_classification"])
@pytest.mark.parametrize("of", ["bert", "llama"])
def test_a_classifiers_adapter_brings_its_head_and_the_names_of_its_classes(
    of: str, task: Task, pharos, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    folder: Path = request.getfixturevalue(f"{of}_folder")
    adapter = classifier(folder, tmp_path / "adapter", task)
    run = pharos("merge", folder, adapter, tmp_path / "out", "--json")
    assert (run.code, run.err) == (0, "")
    assert json.loads(run.out)["task"] == task
    merged = load_model(tmp_path / "out")
    assert task_of(merged, family_of(merged.config.model_type)) == task
    assert merged.config.labels == LABELS
    torch.testing.assert_close(merged(IDS), expected(adapter), rtol=1e-4, atol=1e-4)


def test_pefts_adapter_of_a_classifier_has_as_many_classes_as_its_head_has_rows(
    pharos, bert_folder: Path, tmp_path: Path
) -> None:
    adapter = classifier(bert_folder, tmp_path / "adapter", "sequence_classification")
    weights = adapter / "adapter_model.safetensors"
    save_file(load_file(weights), weights, metadata={"format": "pt"})
    assert pharos("merge", bert_folder, adapter, tmp_path / "out").code == 0
    merged = load_model(tmp_path / "out")
    assert merged.config.labels == ("LABEL_0", "LABEL_1", "LABEL_2")
    torch.testing.assert_close(merged(IDS), expected(adapter), rtol=1e-4, atol=1e-4)


def test_an_adapter_without_its_head_is_not_merged_under_a_random_one(
    pharos, bert_folder: Path, tmp_path: Path
) -> None:
    config = LoraConfig(r=4, modules_to_save=("classifier",))
    adapter = classifier(bert_folder, tmp_path / "adapter", "sequence_classification", config)
    run = pharos("merge", bert_folder, adapter, tmp_path / "out")
    assert run.code == 1
    assert "lacks bert.pooler.dense.bias, a part of its head" in run.err
    assert not (tmp_path / "out").exists()


def test_a_saved_head_takes_the_type_of_its_model(
    pharos, llama_folder: Path, tmp_path: Path
) -> None:
    small = load_model(llama_folder, dtype=torch.bfloat16)
    save_model(small, tmp_path / "small")
    adapter = trained(llama_folder, tmp_path / "adapter", LoraConfig(modules_to_save=("lm_head",)))
    facts = json.loads(pharos("merge", tmp_path / "small", adapter, tmp_path / "out", "--json").out)
    assert facts["dtype"] == "bfloat16"
    found, truth = load_model(tmp_path / "out")(IDS).float(), expected(adapter)
    assert (found - truth).norm() < 0.05 * truth.norm()
