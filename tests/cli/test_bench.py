import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest


class Handler(BaseHTTPRequestHandler):
    """An endpoint that says one word for each token it is asked for."""

    def do_GET(self) -> None:
        self.answer(json.dumps({"data": [{"id": "tiny"}]}))

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if self.path.startswith("/strict") and "ignore_eos" in body:
            self.answer(json.dumps({"error": {"message": "unknown field ignore_eos"}}), 400)
            return
        piece = json.dumps({"choices": [{"delta": {"content": "word "}}]})
        usage = {"prompt_tokens": 9, "completion_tokens": body["max_tokens"]}
        events = [piece] * body["max_tokens"]
        events += [json.dumps({"choices": [], "usage": usage}), "[DONE]"]
        self.answer("".join(f"data: {event}\n\n" for event in events))

    def answer(self, text: str, status: int = 200) -> None:
        self.send_response(status)
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=lambda: server.serve_forever(poll_interval=0.01))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()
    thread.join()
    server.server_close()


def test_figures_are_shown_with_the_seed_that_gives_them_again(pharos, url: str) -> None:
    run = pharos("bench", "serve", url, "--requests", "4", "--concurrency", "2", "--output", "5",
                 "--seed", "7")  # fmt: skip
    assert run.code == 0
    for said in ("tiny at http", "TTFT P50", "TPOT P50", "seed is 7"):
        assert said in run.out


def test_figures_are_printed_as_json_and_drawn(pharos, url: str, tmp_path: Path) -> None:
    page = tmp_path / "load.html"
    run = pharos("bench", "serve", url, "--requests", "3", "--rate", "500", "--output", "5",
                 "--workload", "shared-prefix", "--plot", str(page), "--json")  # fmt: skip
    figures = json.loads(run.out)
    (level,) = figures["levels"]
    assert (level["rate"], level["num_output_tokens"], level["num_failed"]) == (500.0, 15, 0)
    assert level["ttft_ms"]["p50"] <= level["ttft_ms"]["p99"]
    assert page.read_text().count("<svg") == 4
    assert " with 500 requests a second" in page.read_text()
    assert figures["saturation"] is None or figures["saturation"]["level"] == 500.0
    assert set(level["pace"]) >= {"offered", "achieved", "keeps_up", "num_under_way"}


def test_a_sweep_tells_each_level(pharos, url: str) -> None:
    run = pharos("bench", "serve", url, "--requests", "2", "--rate", "1e6", "--sweep",
                 "--output", "2")  # fmt: skip
    assert run.code == 0
    assert "at 1e+06:" in run.err
    assert "does not keep up with 1e+06 requests a second" in run.out
    assert "keeps up" in run.out


def test_a_sweep_of_users_ends_where_more_get_nothing_more(pharos, url: str) -> None:
    run = pharos("bench", "serve", url, "--requests", "2", "--sweep", "--output", "2")
    assert run.code == 0
    assert "users" in run.out


def test_two_kinds_of_load_at_once_are_wrong_use(pharos, url: str) -> None:
    run = pharos("bench", "serve", url, "--concurrency", "2", "--rate", "3")
    assert run.code == 2
    assert "choose one" in run.err


def test_where_nothing_answers_is_said(pharos) -> None:
    run = pharos("bench", "serve", "http://127.0.0.1:9/v1", "--requests", "1")
    assert run.code == 1
    assert "nothing answers" in run.err


def test_an_endpoint_that_does_not_know_a_field_can_still_be_measured(pharos, url: str) -> None:
    strict = url.replace("/v1", "/strict/v1")
    run = pharos("bench", "serve", strict, "--requests", "1", "--output", "2")
    assert run.code == 1
    assert "--natural-end" in run.err
    run = pharos("bench", "serve", strict, "--requests", "1", "--output", "2", "--natural-end")
    assert run.code == 0
