import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from pharos import Library

QUESTION = "How is a role dropped?"
UNKNOWN = "How long should an ostrich egg be boiled?"


def test_the_answer_names_its_source_and_where_it_stands(pharos, library, manuals) -> None:
    run = pharos("ask", QUESTION, "--library", library)
    assert run.code == 0
    assert "DROP ROLE" in run.out
    assert "[1] Managing roles" in run.out
    assert str(manuals / "roles.md") in run.out
    assert "characters " in run.out


def test_json_is_one_object_whose_quotes_are_the_documents_text(pharos, library) -> None:
    run = pharos("ask", QUESTION, "--library", library, "--json")
    answer = json.loads(run.out)
    assert list(answer) == ["answer", "abstained", "confidence", "citations", "timings_ms"]
    assert answer["abstained"] is False
    assert 0 <= answer["confidence"] <= 1
    assert answer["citations"]
    for citation in answer["citations"]:
        assert list(citation) == [
            "document", "title", "headings", "page", "start", "end", "quote", "score",
        ]  # fmt: skip
        text = Library.open(library).document(citation["document"]).text
        assert citation["quote"] == text[citation["start"] : citation["end"]]


def test_abstaining_exits_with_3_and_says_what_was_looked_at(pharos, library) -> None:
    run = pharos("ask", UNKNOWN, "--library", library)
    assert run.code == 3
    assert "No answer from these documents" in run.out
    as_json = pharos("ask", UNKNOWN, "--library", library, "--json")
    assert as_json.code == 3
    assert json.loads(as_json.out)["answer"] is None


def test_the_threshold_decides_whether_it_answers(pharos, library) -> None:
    assert pharos("ask", QUESTION, "--library", library, "--threshold", "1.0").code == 3


def test_docs_are_kept_for_the_next_question(pharos, manuals, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert pharos("ask", QUESTION, "--docs", manuals / "roles.md").code == 0
    (kept,) = (tmp_path / "pharos" / "asked").iterdir()
    manifest = (kept / "manifest.json").read_text()
    assert pharos("ask", QUESTION, "--docs", manuals / "roles.md").code == 0
    assert [kept] == list((tmp_path / "pharos" / "asked").iterdir())
    assert (kept / "manifest.json").read_text() == manifest


def test_docs_that_cannot_be_read_are_named_and_the_rest_is_asked(
    pharos, manuals, tmp_path, monkeypatch
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    run = pharos("ask", QUESTION, "--docs", manuals, "--json")
    assert run.code == 0
    assert "broken.pdf" in run.err
    assert json.loads(run.out)["answer"]


def test_an_answer_never_comes_from_what_the_asker_may_not_read(pharos, library) -> None:
    question = "What does the harbour master of Alexandria earn?"
    outside = pharos("ask", question, "--library", library, "--json", "--explain")
    assert "drachmas" not in outside.out + outside.err
    assert "salaries" not in outside.out + outside.err
    inside = pharos("ask", question, "--library", library, "--group", "payroll")
    assert "four hundred drachmas" in inside.out


def test_explain_goes_to_stderr_so_that_json_stays_one_object(pharos, library) -> None:
    run = pharos("ask", QUESTION, "--library", library, "--json", "--explain")
    assert json.loads(run.out)["answer"]
    assert "Confidence" in run.err


def test_a_hostile_document_steers_no_terminal(pharos, library, monkeypatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    question = "How many gulls does the lighthouse keeper feed daily?"
    shown = pharos("ask", question, "--library", library).out
    assert "seven gulls" in shown.replace("[link=file:///etc/passwd]", "")
    assert "[bold red]manual[/bold red]" in shown
    for steering in ("\x1b[31m", "\x1b]0;", "\x1b[2J", "\x07", "\u202e"):
        assert steering not in shown


@pytest.mark.parametrize("columns", ["20", "200"])
def test_a_narrow_terminal_is_no_trouble(pharos, library, monkeypatch, columns: str) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    assert pharos("ask", QUESTION, "--library", library).code == 0


def test_wrong_use_exits_with_2(pharos, library) -> None:
    assert pharos("ask").code == 2
    assert pharos("ask", QUESTION, "--threshold", "2").code == 2
    run = pharos("ask", QUESTION, "--library", library, "--filter", "pdf")
    assert run.code == 2
    assert "KEY=VALUE" in run.err


def test_a_missing_library_is_one_line_that_says_the_way_out(pharos, tmp_path) -> None:
    run = pharos("ask", QUESTION, "--library", tmp_path / "absent")
    assert run.code == 1
    assert run.out == ""
    assert len(run.err.splitlines()) == 1
    assert "pharos ingest" in run.err


def test_an_endpoint_that_is_not_there_is_one_line(pharos, library) -> None:
    run = pharos("ask", QUESTION, "--library", library, "--model", "http://127.0.0.1:9/v1")
    assert run.code == 1
    assert len(run.err.splitlines()) == 1
    assert "127.0.0.1:9" in run.err


class Endpoint(BaseHTTPRequestHandler):
    """One true sentence and one invented, whatever it is asked."""

    def do_GET(self) -> None:
        self.reply({"data": [{"id": "scripted"}]})

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        text = "A role is dropped with the command DROP ROLE [1]. It was invented in Paris [1]."
        message = {"role": "assistant", "content": text}
        self.reply({"choices": [{"message": message, "finish_reason": "stop"}]})

    def reply(self, value: object) -> None:
        body = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def endpoint() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), Endpoint) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/v1"
        server.shutdown()
        thread.join()


def test_what_a_model_invents_is_dropped_and_counted(pharos, library, endpoint) -> None:
    run = pharos("ask", QUESTION, "--library", library, "--model", endpoint)
    assert run.code == 0
    assert run.out.startswith("A role is dropped with the command DROP ROLE. [1]\n")
    assert "Paris" not in run.out
    assert "not borne out by the sources: 1" in run.err
    kept = pharos("ask", QUESTION, "--library", library, "--model", endpoint, "--keep-unsupported")
    assert "Paris" in kept.out
