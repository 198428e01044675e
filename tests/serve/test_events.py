import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pharos.core import EndpointError
from pharos.serve import events
from pharos.serve.events import read_events


@given(
    texts=st.lists(st.text(max_size=20)), sizes=st.lists(st.integers(1, 7), min_size=1, max_size=5)
)
def test_events_do_not_depend_on_how_the_bytes_are_cut(texts: list[str], sizes: list[int]) -> None:
    body = "".join(f"data: {json.dumps(t, ensure_ascii=False)}\n\n" for t in texts).encode()
    chunks, at = [], 0
    for turn in range(len(body)):
        size = sizes[turn % len(sizes)]
        chunks.append(body[at : at + size])
        at += size
    assert [json.loads(event) for event in read_events(chunks)] == texts


def test_comments_other_fields_and_carriage_returns_are_no_data() -> None:
    body = b": ping\r\n\r\nevent: x\r\nid: 4\r\ndata: one\r\ndata:two\r\n\r\ndata: [DONE]"
    assert list(read_events([body])) == ["one\ntwo", "[DONE]"]


def test_an_event_that_is_never_closed_is_dropped() -> None:
    assert list(read_events([b"data: whole\n\ndata: half"])) == ["whole"]


def test_a_line_without_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "MAX_LINE_BYTES", 100)
    with pytest.raises(EndpointError, match="more than 100 bytes"):
        list(read_events([b"data: ", b"x" * 200]))
