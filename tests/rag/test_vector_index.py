from pathlib import Path

import lancedb
import numpy as np
import pyarrow as pa
import pytest
from lancedb.table import Table
from numpy.typing import NDArray

from pharos.rag import vector_index
from pharos.rag.schema import windows_schema
from pharos.rag.vector_index import index_vectors, nearest

DIM = 32


@pytest.fixture(scope="module")
def vectors() -> NDArray[np.float32]:
    """In clusters, as texts are."""
    generator = np.random.default_rng(0)
    topics = generator.normal(size=(80, DIM))
    drawn = topics[generator.integers(80, size=4000)] + 0.5 * generator.normal(size=(4000, DIM))
    drawn = drawn.astype(np.float32)
    unit: NDArray[np.float32] = drawn / np.linalg.norm(drawn, axis=1, keepdims=True)
    return unit


@pytest.fixture
def windows(vectors: NDArray[np.float32], tmp_path: Path) -> Table:
    table = lancedb.connect(tmp_path).create_table("windows", schema=windows_schema(DIM))
    ids = [str(i) for i in range(len(vectors))]
    same = ["x"] * len(vectors)
    column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), DIM)
    table.add(pa.table([ids, same, same, same, column], schema=windows_schema(DIM)))
    return table


def test_a_small_table_is_searched_exactly(windows: Table, vectors: NDArray[np.float32]) -> None:
    assert index_vectors(windows, 0) == 0
    rows = nearest(windows, vectors[7], is_filtered=False).limit(10).to_list()
    cosines = vectors @ vectors[7]
    assert [int(row["passage_id"]) for row in rows] == list(np.argsort(-cosines)[:10])
    assert [1.0 - row["_distance"] for row in rows] == pytest.approx(
        sorted(cosines)[:-11:-1], abs=1e-5
    )


def test_the_index_finds_nearly_all_and_tells_true_cosines(
    windows: Table, vectors: NDArray[np.float32], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vector_index, "MIN_ROWS", 1000)
    assert index_vectors(windows, 0) == len(vectors)
    found = 0
    for query in vectors[:20]:
        cosines = vectors @ query
        exact = set(np.argsort(-cosines)[:10])
        for row in nearest(windows, query, is_filtered=True).limit(100).to_list():
            id_ = int(row["passage_id"])
            found += id_ in exact
            assert 1.0 - row["_distance"] == pytest.approx(float(cosines[id_]), abs=1e-4)
    assert found / 200 > 0.9


def test_the_index_is_trained_anew_only_when_it_is_outgrown(
    windows: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vector_index, "MIN_ROWS", 1000)
    assert index_vectors(windows, 3000) == 3000
    assert windows.list_indices() == []
    assert index_vectors(windows, 1000) == 4000
