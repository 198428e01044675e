"""When the vectors of a library are indexed, and how the index is searched.

Up to `MIN_ROWS` windows every vector is compared: exact, and quick enough. Beyond, an inverted file
with residual quantization (RaBitQ, Gao & Long 2024) finds as many candidates as are asked for, and
they are compared exactly, which also makes their distances true cosines. It looks into `PROBES`
cells (docs/log.md has what is found there), and into more as long as a filter leaves too few. Its
cells are those of the windows it was trained on; when the table has outgrown them, it is trained
anew.
"""

from typing import cast

from lancedb.index import IvfRq
from lancedb.query import LanceVectorQueryBuilder
from lancedb.table import Table
from numpy import float32
from numpy.typing import NDArray

MIN_ROWS = 20_000
OUTGROWN = 4
PROBES = 50
NO_LIMIT = 0


def index_vectors(windows: Table, trained_on: int) -> int:
    """Train the index if the table wants a new one; returns how many windows it was trained on."""
    rows = windows.count_rows()
    if rows < MIN_ROWS or rows < OUTGROWN * trained_on:
        return trained_on
    windows.create_index("vector", config=IvfRq(distance_type="cosine"), replace=True)
    return rows


def nearest(
    windows: Table, vector: NDArray[float32], *, is_filtered: bool
) -> LanceVectorQueryBuilder:
    """A search for the windows nearest to `vector`; its `_distance` is 1 - cosine. To be able to
    look into more cells costs time, so only a filtered search may."""
    search = cast(LanceVectorQueryBuilder, windows.search(vector, vector_column_name="vector"))
    search = search.distance_type("cosine").minimum_nprobes(PROBES)
    search = search.maximum_nprobes(NO_LIMIT if is_filtered else PROBES)
    return search.refine_factor(1)
