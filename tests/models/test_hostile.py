"""A model's folder that a stranger made: whatever is wrong in it, loading says so in one error that
names it, runs nothing and asks for no memory."""

import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from pharos.core import ModelError
from pharos.models.checkpoint import INDEX_FILE, WEIGHTS_FILE
from pharos.models.load import FAMILY_FILES, build_model, load_model, save_model

SIZES = {
    "vocab_size": 96,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
}
RAW: dict[str, dict[str, Any]] = {
    "distilbert": {"vocab_size": 96, "dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 48},
    "gpt2": {"vocab_size": 96, "n_embd": 32, "n_layer": 2, "n_head": 4},
    "longformer": SIZES | {"attention_window": [4, 4]},
    "falcon": {name: size for name, size in SIZES.items() if name != "intermediate_size"},
    "mixtral": SIZES | {"num_local_experts": 2},
    "t5": {"vocab_size": 96, "d_model": 32, "num_layers": 2, "num_heads": 4, "d_ff": 48, "d_kv": 8},
}
for name in ("transformer", "marian"):
    towers = {"layers": 2, "attention_heads": 4, "ffn_dim": 48}
    RAW[name] = {"vocab_size": 96, "d_model": 32} | {
        f"{tower}_{setting}": size
        for tower in ("encoder", "decoder")
        for setting, size in towers.items()
    }
RAW = {name: RAW.get(name, SIZES) | {"model_type": name} for name in FAMILY_FILES}
ABSURD = [10**9, 10**30, -1, 0, "12", True, None, 2.5, [], {}, [[[[1]]]], "x" * 10**6]
BERT = RAW["bert"] | {"architectures": ["BertModel"]}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A small BERT without a fault."""
    save_model(build_model(BERT, "body"), tmp_path)
    load_model(tmp_path)
    return tmp_path


def change_config(folder: Path, text: str | bytes) -> None:
    content = text if isinstance(text, bytes) else text.encode()
    (folder / "config.json").write_bytes(content)


# The config


@pytest.mark.parametrize("value", ABSURD, ids=lambda value: repr(value)[:12])
@pytest.mark.parametrize("model_type", FAMILY_FILES)
def test_an_absurd_size_is_refused_by_its_name(model_type: str, value: object) -> None:
    build_model(RAW[model_type], "body")
    for name, right in RAW[model_type].items():
        if type(right) is int:
            with pytest.raises(ModelError, match=rf"config\.json.*{name}") as error:
                build_model(RAW[model_type] | {name: value}, "body")
            assert len(str(error.value)) < 500


@pytest.mark.parametrize("model_type", FAMILY_FILES)
def test_a_value_of_another_type_anywhere_gives_no_other_error(model_type: str) -> None:
    family_settings = build_model(RAW[model_type], "body").config.to_hugging_face()
    for name in family_settings.keys() - {"model_type", "id2label", "label2id"}:
        for value in (-(10**12), 10**30, "x", [1, "x"], {"a": None}, [], {}, 1e300):
            try:
                build_model(family_settings | {name: value}, "body")
            except ModelError as error:
                assert "config.json" in str(error)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rope_theta": -5.0}, "theta is -5.0"),
        ({"rope_theta": 1.0}, "theta is 1.0"),
        ({"partial_rotary_factor": 2.0}, "partial_rotary_factor is 2.0"),
        ({"rope_scaling": {"type": "linear", "factor": 0.5}}, "factor is 0.5"),
        ({"rope_scaling": {"type": "linear", "factor": 1e999}}, "factor is inf"),
        ({"rope_scaling": {"type": "yarn", "factor": 2.0, "beta_fast": "x"}}, "beta_fast is 'x'"),
        ({"rope_scaling": {"type": "yarn", "factor": 2.0, "beta_slow": 0}}, "beta_slow is 0"),
        ({"rope_scaling": {"type": "yarn", "factor": 2, "mscale": [1]}}, r"mscale is \[1\]"),
        ({"rope_scaling": {"type": "dynamic", "factor": 2.0}, "head_dim": 2}, "width 2"),
        ({"rms_norm_eps": -1.0}, "rms_norm_eps is -1.0; it must be at least 0"),
        ({"attention_dropout": 2.0}, "attention_dropout is 2.0; it must be a probability"),
        ({"initializer_range": -1.0}, "initializer_range is -1.0; it must be at least 0"),
        ({"attention_bias": "no"}, "qkv_bias is 'no'; it must be bool"),
    ],
    ids=str,
)
def test_a_number_that_no_layer_can_compute_with_is_refused_before_one_does(
    settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ModelError, match=rf"config\.json.*{message}"):
        build_model(RAW["llama"] | {"max_position_embeddings": 64} | settings, "causal_lm")


def test_sizes_within_the_bounds_that_no_memory_holds_are_refused() -> None:
    huge = {"vocab_size": 2**24, "hidden_size": 2**24, "intermediate_size": 2**24}
    with pytest.raises(ModelError, match="network of these sizes cannot be built"):
        build_model(BERT | huge, "body")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "cannot be read as JSON"),
        ("{", "cannot be read as JSON"),
        ("[1]", "holds a list; it must be a JSON object"),
        (b"\xff\xfe\x00", "is not UTF-8"),
        ("[" * 10**6, "nested too deeply"),
        ('{"a":' * 10**5 + "1" + "}" * 10**5, "nested too deeply"),
        ('{"hidden_size": 1, "hidden_size": 2}', "'hidden_size' stands in one object twice"),
        ('{"layer_norm_eps": NaN}', "NaN is not a value of JSON"),
        ('{"layer_norm_eps": -Infinity}', "-Infinity is not a value of JSON"),
        (json.dumps(BERT | {"layer_norm_eps": 7})[:-1] + ', "x": 1' + "0" * 5000 + "}", "digit"),
        (
            json.dumps(BERT | {"pad": "x" * 5_000_000}),
            "a file of up to 4,000,000 bytes is expected",
        ),
        (json.dumps(BERT).replace("48", "1e999"), "intermediate_size is inf"),
        (json.dumps({}), "unknown model_type None"),
        (json.dumps({"model_type": ["bert"]}), "unknown model_type"),
        (json.dumps({"model_type": "../../bert"}), "unknown model_type"),
        (json.dumps(BERT | {"architectures": "BertModel"}), "architectures is 'BertModel'"),
        (json.dumps(BERT | {"architectures": [7]}), "architectures is"),
        (json.dumps(BERT | {"id2label": {"0": "a", "7": "b"}}), "id2label"),
        (json.dumps(BERT | {"id2label": [["x"]]}), "id2label"),
        (json.dumps(BERT | {"id2label": None, "num_labels": 10**12}), "num_labels is 1000000"),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_a_malformed_config_is_named_with_its_fault(
    folder: Path, text: str | bytes, message: str
) -> None:
    change_config(folder, text)
    with pytest.raises(ModelError, match=rf"config\.json.*{message}|{message}.*config\.json"):
        load_model(folder)


def test_code_beside_the_weights_is_not_run(folder: Path, tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    for name in ("modeling_bert.py", "configuration_bert.py", "__init__.py", "conftest.py"):
        (folder / name).write_text(f"open({str(ran)!r}, 'w').close()")
    auto_map = {"AutoModel": "modeling_bert.Bert", "AutoConfig": "configuration_bert.Config"}
    change_config(folder, json.dumps(BERT | {"auto_map": auto_map, "trust_remote_code": True}))
    load_model(folder)
    assert not ran.exists()


# The weights


class Exploit:
    """Unpickled, it leaves a file behind."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "pytorch_model-00001-of-00002.bin"])
def test_a_pickle_is_named_and_not_opened(folder: Path, tmp_path: Path, name: str) -> None:
    (folder / WEIGHTS_FILE).unlink()
    (folder / name).write_bytes(pickle.dumps(Exploit(tmp_path / "ran")))
    with pytest.raises(ModelError, match=rf"no model\.safetensors; {name} is a pickle"):
        load_model(folder)
    assert not (tmp_path / "ran").exists()


def test_a_pickle_under_the_name_of_safetensors_is_not_opened(folder: Path, tmp_path: Path) -> None:
    content = pickle.dumps(Exploit(tmp_path / "ran"))
    for padding in (b"", b"\0" * 10_000):
        (folder / WEIGHTS_FILE).write_bytes(content + padding)
        with pytest.raises(ModelError, match=r"model\.safetensors cannot be read as safetensors"):
            load_model(folder)
    torch.save({"embeddings": Exploit(tmp_path / "ran")}, folder / WEIGHTS_FILE)
    with pytest.raises(ModelError, match=r"model\.safetensors cannot be read as safetensors"):
        load_model(folder)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("kept", [0, 4, 8, 100, 0.5, 0.999])
def test_a_truncated_file_is_named(folder: Path, kept: float) -> None:
    content = (folder / WEIGHTS_FILE).read_bytes()
    end = kept if isinstance(kept, int) else int(len(content) * kept)
    (folder / WEIGHTS_FILE).write_bytes(content[:end])
    with pytest.raises(ModelError, match=r"model\.safetensors cannot be read as safetensors"):
        load_model(folder)


def with_header(header: object, data: bytes = b"", *, length: int | None = None) -> bytes:
    text = header.encode() if isinstance(header, str) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def entry(shape: list[int], end: int, dtype: str = "F32", start: int = 0) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


@pytest.mark.parametrize(
    "content",
    [
        with_header({"a": entry([2**62, 2**62], 4)}, b"1234"),
        with_header({"a": entry([10**9, 10**9], 4 * 10**18)}, b"1234"),
        with_header({"a": entry([1], 2**63)}, b"1234"),
        with_header({"a": entry([1], -4)}, b"1234"),
        with_header({"a": entry([-1], 4)}, b"1234"),
        with_header({"a": entry([2], 4)}, b"1234"),
        with_header({"a": entry([1], 8, start=4)}, b"12345678"),
        with_header({"a": entry([1], 4), "b": entry([1], 4)}, b"1234"),
        with_header({"a": entry([1], 4, "PICKLE")}, b"1234"),
        with_header({"a": entry([1], 4)}, b"1234567890"),
        with_header("{}", length=2**63),
        with_header("{}", length=2**40),
        with_header("{}", length=10**8),
        with_header("{" * 100_000),
        with_header('{"a": ' * 100_000),
        with_header("[]"),
        with_header(b"\xff\xff".decode("latin1")),
    ],
    ids=range(17),
)
def test_a_header_that_lies_is_refused(folder: Path, content: bytes) -> None:
    (folder / WEIGHTS_FILE).write_bytes(content)
    with pytest.raises(ModelError, match=r"model\.safetensors cannot be read as safetensors"):
        load_model(folder)


def test_a_header_that_names_a_tensor_twice_gives_an_error(folder: Path) -> None:
    name = "embeddings.LayerNorm.bias"
    one = f'"{name}": {json.dumps(entry([1], 4))}'
    (folder / WEIGHTS_FILE).write_bytes(with_header(f"{{{one}, {one}}}", b"1234"))
    with pytest.raises(ModelError):
        load_model(folder)


def change_weights(folder: Path, **changed: torch.Tensor | None) -> None:
    weights = load_file(folder / WEIGHTS_FILE) | changed
    kept = {name: tensor.clone() for name, tensor in weights.items() if tensor is not None}
    save_file(kept, folder / WEIGHTS_FILE)


NORM = "embeddings.LayerNorm.bias"


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (None, rf"{NORM} is missing"),
        (torch.zeros(7), rf"{NORM} is \(7,\); the model has \(32,\)"),
        (torch.zeros(32, 1), rf"{NORM} is \(32, 1\); the model has \(32,\)"),
        (torch.zeros(()), rf"{NORM} is \(\); the model has \(32,\)"),
        (torch.zeros(32, dtype=torch.int64), rf"{NORM} is int64; weights are floating point"),
        (torch.zeros(32, dtype=torch.bool), rf"{NORM} is bool; weights are floating point"),
    ],
)
def test_a_weight_that_does_not_fit_is_named(
    folder: Path, tensor: torch.Tensor | None, message: str
) -> None:
    change_weights(folder, **{NORM: tensor})
    with pytest.raises(ModelError, match=message):
        load_model(folder)


def test_many_faults_are_told_in_short(folder: Path) -> None:
    change_config(folder, json.dumps(BERT | {"num_hidden_layers": 1000}))
    with pytest.raises(ModelError, match=r"is missing.* and 15956 more") as error:
        load_model(folder)
    assert len(str(error.value)) < 2000


def test_a_thousand_unexpected_tensors_are_told_in_short(folder: Path) -> None:
    change_weights(folder, **{f"{'x' * 1000}{i}": torch.zeros(1) for i in range(1000)})
    with pytest.raises(ModelError, match="is unexpected") as error:
        load_model(folder)
    assert len(str(error.value)) < 20_000


def test_nothing_but_regular_files_is_read(folder: Path, tmp_path: Path) -> None:
    """A pipe would wait for ever, /dev/zero would never end."""
    weights = folder / WEIGHTS_FILE
    weights.unlink()
    os.mkfifo(weights)
    with pytest.raises(ModelError, match=r"no model\.safetensors"):
        load_model(folder)
    for target in ("/dev/zero", tmp_path / "nowhere", weights, folder):
        weights.unlink()
        weights.symlink_to(target)
        with pytest.raises(ModelError, match=r"no model\.safetensors"):
            load_model(folder)


def test_a_link_to_weights_is_followed_as_in_the_hubs_cache(folder: Path) -> None:
    blob = (folder / WEIGHTS_FILE).rename(folder / "blob")
    (folder / WEIGHTS_FILE).symlink_to(blob)
    load_model(folder)


def test_a_config_that_is_a_pipe_is_not_read(folder: Path) -> None:
    (folder / "config.json").unlink()
    os.mkfifo(folder / "config.json")
    with pytest.raises(ModelError, match=r"has no config\.json"):
        load_model(folder)


# Shards


@pytest.fixture
def shards(folder: Path) -> Path:
    save_model(load_model(folder), folder, max_shard_bytes=20_000)
    load_model(folder)
    return folder


def change_index(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    index = json.loads((folder / INDEX_FILE).read_text())
    change(index)
    (folder / INDEX_FILE).write_text(json.dumps(index))


@pytest.mark.parametrize("name", ["../secret.safetensors", "/etc/passwd", "a/b", "..", "", 7, None])
def test_a_shard_outside_the_folder_is_refused(shards: Path, name: object) -> None:
    change_index(shards, lambda index: index["weight_map"].update({NORM: name}))
    with pytest.raises(ModelError, match=rf"index\.json lists {name!r}; a shard must be a file"):
        load_model(shards)


def test_a_shard_that_is_missing_or_a_pipe_is_named(shards: Path) -> None:
    shard = sorted(shards.glob("model-*.safetensors"))[0]
    shard.unlink()
    with pytest.raises(ModelError, match=rf"{shard.name}, which .* lists, is missing"):
        load_model(shards)
    os.mkfifo(shard)
    with pytest.raises(ModelError, match=rf"{shard.name}, which .* lists, is missing, or no regu"):
        load_model(shards)


def test_a_tensor_in_two_shards_is_refused(shards: Path) -> None:
    one, other, *_ = sorted(shards.glob("model-*.safetensors"))
    save_file(load_file(one) | load_file(other), other)
    with pytest.raises(ModelError, match=rf"{other.name} holds .*, which an earlier shard holds"):
        load_model(shards)


def test_an_index_with_a_name_twice_or_too_large_is_refused(shards: Path) -> None:
    (shards / INDEX_FILE).write_text('{"weight_map": {"a": "x.safetensors", "a": "y.safetensors"}}')
    with pytest.raises(ModelError, match=rf"{INDEX_FILE} .*'a' stands in one object twice"):
        load_model(shards)
    (shards / INDEX_FILE).write_text('{"weight_map": {"a": "' + "x" * 32_000_000 + '"}}')
    with pytest.raises(ModelError, match=rf"{INDEX_FILE} is .* up to 32,000,000 bytes is"):
        load_model(shards)
