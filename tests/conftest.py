"""What tests of several packages share."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest


def _load_corpus() -> ModuleType:
    spec = importlib.util.spec_from_file_location("corpus", Path(__file__).with_name("corpus.py"))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


_corpus = _load_corpus()


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One real document of every format, by format. Written once: copy before changing."""
    paths: dict[str, Path] = _corpus.write_corpus(tmp_path_factory.mktemp("corpus"))
    return paths


@pytest.fixture(scope="session")
def facts() -> dict[str, str]:
    """What each document of the corpus says and no other does, by format."""
    return dict(_corpus.FACTS)


@pytest.fixture(scope="session")
def llama_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A decoder of random weights with a byte-level tokenizer, as a model's folder. It writes
    nonsense, the same each time."""
    from pharos.data.train_tokenizer import TokenizerConfig, train_tokenizer
    from pharos.models.doubles import tiny_llama
    from pharos.models.load import save_model

    folder = tmp_path_factory.mktemp("models") / "tiny-llama"
    texts = ["The keeper of the light feeds seven gulls by the harbour of Alexandria. "] * 9
    chatml = ("<|im_start|>", "<|im_end|>")
    tokenizer = train_tokenizer(texts, TokenizerConfig(vocab_size=320, special_tokens=chatml))
    save_model(tiny_llama(vocab_size=tokenizer.vocab_size), folder)
    tokenizer.save(folder)
    return folder
