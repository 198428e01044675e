import json
from pathlib import Path


def test_list_says_where_the_encoder_is(pharos) -> None:
    (model,) = json.loads(pharos("models", "list", "--json").out)["models"]
    assert model["name"] == "all-MiniLM-L6-v2"
    assert model["folder"].endswith("model")
    assert "all-MiniLM-L6-v2" in pharos("models", "list").out


def test_show_says_whether_the_weights_are_the_published_ones(pharos) -> None:
    model = json.loads(pharos("models", "show", "all-MiniLM-L6-v2", "--json").out)
    assert model["published"] is True
    assert model["hidden_size"] == 384


def test_an_unknown_model_is_one_line_with_the_choices(pharos) -> None:
    run = pharos("models", "show", "minilm")
    assert run.code == 1
    assert len(run.err.splitlines()) == 1
    assert "all-MiniLM-L6-v2" in run.err


LLAMA_70B = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 128256,
    "hidden_size": 8192,
    "intermediate_size": 28672,
    "num_hidden_layers": 80,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
}


def folder_with(config: dict[str, object], folder: Path) -> str:
    (folder / "config.json").write_text(json.dumps(config))
    return str(folder)


def test_show_describes_a_large_model_from_its_config_alone(pharos, tmp_path: Path) -> None:
    run = pharos("models", "show", folder_with(LLAMA_70B, tmp_path), "--context", "1000", "--json")
    architecture = json.loads(run.out)["architecture"]
    assert architecture["parameters"] == 70_553_706_496
    assert architecture["weight_bytes"]["bf16"] == 2 * 70_553_706_496
    assert architecture["kv_bytes_per_token"]["bf16"] == 2 * 80 * 2 * 8 * 128
    assert architecture["context"] == 1000
    down = next(part for part in architecture["parts"] if "down" in part["name"])
    assert (down["shape"], down["count"]) == ([8192, 28672], 80)


def test_show_prints_the_parts_as_a_table(pharos, tmp_path: Path) -> None:
    out = pharos("models", "show", folder_with(LLAMA_70B, tmp_path)).out
    assert "blocks.*.mlp.down.weight" in out
    assert "80 times 64 heads of 128, 8 of keys and values" in out
    assert "141 GB in bf16" in out
    assert "no weights here" in out


def test_show_tells_the_folder_of_a_network_that_is_not_known(pharos, tmp_path: Path) -> None:
    run = pharos("models", "show", folder_with({"model_type": "mamba"}, tmp_path), "--json")
    assert json.loads(run.out)["architecture"] is None
    assert "unknown model_type 'mamba'" in run.err
