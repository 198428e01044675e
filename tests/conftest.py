"""What tests of several packages share."""

import importlib.util
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import HealthCheck, settings

# The same examples everywhere, however slow a machine is. `--hypothesis-profile explore` looks for
# others.
settings.register_profile(
    "explore",
    deadline=None,
    derandomize=False,
    suppress_health_check=[HealthCheck.too_slow],
    print_blob=True,
)
settings.register_profile("same", settings.get_profile("explore"), derandomize=True)
settings.load_profile("same")

# Triton looks at this when it is imported, and transformers imports it: without a GPU it
# interprets.
if shutil.which("nvidia-smi") is None:
    os.environ.setdefault("TRITON_INTERPRET", "1")


def _load_corpus() -> ModuleType:
    spec = importlib.util.spec_from_file_location("corpus", Path(__file__).with_name("corpus.py"))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


_corpus = _load_corpus()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The files with slow tests come first, so that no worker is left with one at the end."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One real document of every format, by format. Written once: copy before changing."""
    paths: dict[str, Path] = _corpus.write_corpus(tmp_path_factory.mktemp("corpus"))
    return paths


@pytest.fixture(scope="session")
def facts() -> dict[str, str]:
    """What each document of the corpus says and no other does, by format."""
    return dict(_corpus.FACTS)


TEXTS = ["The keeper of the light feeds seven gulls by the harbour of Alexandria. "] * 9
CHATML = ("<|im_start|>", "<|im_end|>")


def _tokenizer_in(folder: Path) -> int:
    """Puts a small byte-level tokenizer into a model's folder; its vocabulary's size."""
    from pharos.data.train_tokenizer import TokenizerConfig, train_tokenizer

    tokenizer = train_tokenizer(TEXTS, TokenizerConfig(vocab_size=320, special_tokens=CHATML))
    tokenizer.save(folder)
    return tokenizer.vocab_size


@pytest.fixture(scope="session")
def llama_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A decoder of random weights with a tokenizer, as a model's folder. It writes nonsense, the
    same each time."""
    from pharos.models.doubles import tiny_llama
    from pharos.models.load import save_model

    folder = tmp_path_factory.mktemp("models") / "tiny-llama"
    save_model(tiny_llama(vocab_size=_tokenizer_in(folder)), folder)
    return folder


@pytest.fixture(scope="session")
def t5_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same of an encoder-decoder, whose files ask for two beams and nine tokens."""
    from pharos.models.load import new_model, save_model

    folder = tmp_path_factory.mktemp("models") / "tiny-t5"
    sizes = {"d_model": 16, "d_kv": 4, "d_ff": 16, "num_layers": 1, "num_heads": 2}
    raw = {"model_type": "t5", "vocab_size": _tokenizer_in(folder), **sizes}
    save_model(new_model(raw, "seq2seq_lm"), folder)
    decoding = '{"decoder_start_token_id": 0, "num_beams": 2, "max_new_tokens": 9}'
    (folder / "generation_config.json").write_text(decoding, encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def bert_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same of an encoder, which generates nothing."""
    from pharos.models.load import new_model, save_model

    folder = tmp_path_factory.mktemp("models") / "tiny-bert"
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    raw = {"model_type": "bert", "vocab_size": _tokenizer_in(folder), "intermediate_size": 16}
    save_model(new_model(raw | sizes | {"max_position_embeddings": 32}, "masked_lm"), folder)
    return folder


@pytest.fixture(scope="module", params=["torch", "kernel"])
def either_way(request: pytest.FixtureRequest) -> Iterator[None]:
    """The next token is chosen by torch's operators, and by the kernel for large vocabularies."""
    from pharos.ops.native import library

    if request.param == "kernel" and library() is None:
        pytest.skip("there are no native kernels here")
    least = 1 if request.param == "kernel" else 2**62
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("pharos.ops.native.sampling.LEAST", least)
        yield
