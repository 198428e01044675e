import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import ClassVar

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


def test_docs_of_which_nothing_can_be_read_are_a_failure_and_not_an_abstention(
    pharos, library, tmp_path, monkeypatch
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    for place in ((), ("--library", library)):
        run = pharos("ask", QUESTION, "--docs", tmp_path / "nowhere", *place)
        assert run.code == 1
        assert run.out == ""
        assert "nothing could be read: " in run.err
        assert "nowhere" in run.err


def test_where_docs_are_kept_is_said_once(pharos, manuals, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    first = pharos("ask", QUESTION, "--docs", manuals / "backup.md")
    (kept,) = (tmp_path / "pharos" / "asked").iterdir()
    assert f"safe to delete: {kept}" in first.err
    assert str(kept) not in pharos("ask", QUESTION, "--docs", manuals / "backup.md").err


def test_asking_as_a_group_changes_no_readers_of_a_library_that_was_named(
    pharos, manuals, tmp_path
) -> None:
    folder, file = tmp_path / "x.library", manuals / "roles.md"
    Library.open(folder).ingest([file])
    arguments = ("ask", QUESTION, "--docs", file, "--library", folder)
    assert pharos(*arguments, "--group", "legal", "--group", "public").code == 0
    (record,) = Library.open(folder).documents()
    assert record.groups == ("public",)


def test_docs_asked_as_a_group_are_kept_for_that_group(
    pharos, manuals, tmp_path, monkeypatch
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert pharos("ask", QUESTION, "--docs", manuals / "roles.md", "--group", "legal").code == 0
    (kept,) = (tmp_path / "pharos" / "asked").iterdir()
    assert Library.open(kept).stats().groups == ("legal",)


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
    read = [line for line in run.err.splitlines() if line.startswith("  read ")]
    assert "roles.md" in read[0]
    for score in ("score ", "cosine ", "cosine_rank 1", "bm25 ", "bm25_rank 1"):
        assert score in read[0]
    assert "  nearest (" in run.err


def test_what_the_specialists_said_is_in_the_object_only_where_it_is_asked_for(
    pharos, library
) -> None:
    plain = json.loads(pharos("ask", QUESTION, "--library", library, "--json").out)
    explained = json.loads(pharos("ask", QUESTION, "--library", library, "--json", "--explain").out)
    assert explained.keys() - plain.keys() == {"explain"}
    assert explained["explain"].keys() == {
        "candidates", "answerable", "spans", "grounding", "risks",
    }  # fmt: skip
    assert explained["explain"]["candidates"][0]["document"].endswith("roles.md")


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
    assert pharos("ask", QUESTION, "--keep-unsupported").code == 2
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
    """Serves one model and knows no other; streams one true sentence and one invented."""

    def do_GET(self) -> None:
        self.reply({"data": [{"id": "harbour-7b"}]})

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if request["model"] != "harbour-7b" or not request["stream"]:
            self.reply({"error": {"message": f"no model {request['model']}"}}, 404)
            return
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.end_headers()
        text = "A role is dropped with the command DROP ROLE [1]. It was invented in Paris [1]."
        for word in text.split(" "):
            self.send_event({"choices": [{"delta": {"content": f"{word} "}}]})
        self.send_event(self.end)

    end: ClassVar[dict[str, object]] = {"choices": [{"delta": {}, "finish_reason": "stop"}]}

    def send_event(self, event: object) -> None:
        self.wfile.write(f"data: {json.dumps(event)}\n\n".encode())
        self.wfile.flush()

    def reply(self, value: object, status: int = 200) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
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


def test_a_model_s_answer_is_said_once_then_its_sources(pharos, library, endpoint) -> None:
    run = pharos("ask", QUESTION, "--library", library, "--model", endpoint)
    answer = "A role is dropped with the command DROP ROLE. [1]"
    assert run.out.startswith(f"{answer}\n\nSources (")
    assert run.out.count(answer) == 1
    as_json = pharos("ask", QUESTION, "--library", library, "--model", endpoint, "--json")
    assert json.loads(as_json.out)["answer"] == answer


def test_an_answer_that_breaks_off_ends_its_line_and_fails(
    pharos, library, endpoint, monkeypatch
) -> None:
    monkeypatch.setattr(Endpoint, "end", {"error": {"message": "out of memory"}})
    run = pharos("ask", QUESTION, "--library", library, "--model", endpoint)
    assert run.code == 1
    assert run.out == "A role is dropped with the command DROP ROLE. [1]\n"
    assert "out of memory" in run.err


def test_what_a_model_invents_is_dropped_and_counted(pharos, library, endpoint) -> None:
    run = pharos("ask", QUESTION, "--library", library, "--model", endpoint)
    assert run.code == 0
    assert run.out.startswith("A role is dropped with the command DROP ROLE. [1]\n")
    assert "Paris" not in run.out
    assert "not borne out by the sources: 1" in run.err
    kept = pharos("ask", QUESTION, "--library", library, "--model", endpoint, "--keep-unsupported")
    assert "Paris" in kept.out
