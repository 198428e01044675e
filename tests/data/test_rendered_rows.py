from collections.abc import Sequence
from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pharos.data.examples import IGNORED
from pharos.data.rendered_rows import PackedRows, RenderedRows, rendered_once
from pharos.data.rendering import Rendered

MOST = 12


def rendered(length: int, number: int = 0, *, num_cut: int = 0) -> Rendered:
    """Ids that tell the text; the second half is learned."""
    ids = np.arange(length, dtype=np.int32) + 100 * number
    labels = np.where(np.arange(length) < length // 2, IGNORED, ids).astype(np.int32)
    return Rendered(ids=ids, labels=labels, num_cut=num_cut)


lengths = st.lists(st.integers(1, MOST), min_size=1, max_size=30)


@given(lengths=lengths)
def test_packed_rows_hold_each_text_whole_with_its_labels(lengths: list[int]) -> None:
    texts = [rendered(length, number) for number, length in enumerate(lengths)]
    packed = PackedRows(RenderedRows(texts), MOST)
    found = []
    for index in range(len(packed)):
        row = packed.row(index, 0)
        assert (row["labels"][row["document"] < 0] == IGNORED).all()
        for document in range(row["document"].max() + 1):
            is_its = row["document"] == document
            found.append((row["ids"][is_its].tolist(), row["labels"][is_its].tolist()))
    assert sorted(found) == sorted((text.ids.tolist(), text.labels.tolist()) for text in texts)


def test_texts_are_rendered_once_and_again_only_for_another_key(tmp_path: Path) -> None:
    times = 0

    def render() -> Sequence[Rendered]:
        nonlocal times
        times += 1
        return [rendered(3, times, num_cut=2), rendered(5, times)]

    path = tmp_path / "data" / "rendered.npz"
    first, again, other = (rendered_once(path, key, render) for key in ("a", "a", "b"))
    assert times == 2
    for one, same in zip(first, again, strict=True):
        assert one.ids.tolist() == same.ids.tolist()
        assert one.labels.tolist() == same.labels.tolist()
        assert one.num_cut == same.num_cut
    assert other[0].ids.tolist() != first[0].ids.tolist()
