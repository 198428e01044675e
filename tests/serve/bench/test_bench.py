"""The client against a real server that streams as OpenAI's does, well and badly."""

import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pharos.serve.bench import (
    BenchClient,
    Distribution,
    Load,
    LoadReport,
    Prompt,
    Span,
    Timing,
    closed_loop,
    file_prompts,
    measure,
    open_loop,
    random_prompts,
    shared_prompts,
    summarize,
)

OUTPUT = Span(3, 3)
Events = list[dict[str, Any]]


class Server:
    """What it was asked, and how many requests it had in hand at a time."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.lock = threading.Lock()
        self.in_hand = self.most_in_hand = 0


def chat_events(body: dict[str, Any]) -> Events:
    pieces = [{"choices": [{"delta": {"role": "assistant", "content": ""}}]}]
    pieces += [{"choices": [{"delta": {"content": "w\u2028"}}]} for _ in range(body["max_tokens"])]
    pieces += [{"choices": [{"delta": {}, "finish_reason": "length"}]}]
    usage = {"prompt_tokens": 10, "completion_tokens": body["max_tokens"]}
    return [*pieces, {"choices": [], "usage": usage}]


@contextmanager
def serving(
    events: Callable[[dict[str, Any]], Events] = chat_events, *, status: int = 200
) -> Iterator[tuple[str, Server]]:
    served = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            with served.lock:
                served.asked.append({"path": self.path, **body})
                served.in_hand += 1
                served.most_in_hand = max(served.most_in_hand, served.in_hand)
            self.send_response(status)
            self.end_headers()
            for event in events(body):
                text = json.dumps(event, ensure_ascii=False)
                self.wfile.write(f"data: {text}\n\n".encode())
            self.wfile.write(b"data: [DONE]\n\n" if status == 200 else b"")
            with served.lock:
                served.in_hand -= 1

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=lambda: server.serve_forever(poll_interval=0.01))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1", served
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


async def asked(url: str, prompt: Prompt, **how: Any) -> Timing:
    async with BenchClient(url, model="tiny", **how) as client:
        return await client.ask(prompt)


PROMPT = Prompt(text="Tell me.", max_tokens=4)

# One request


def test_a_reply_is_timed_piece_by_piece_and_counted_by_the_endpoint() -> None:
    with serving() as (url, server):
        timing = asyncio.run(asked(url, PROMPT))
    assert timing.error is None and timing.is_counted
    assert (timing.num_prompt, timing.num_output, len(timing.pieces_s)) == (10, 4, 4)
    times = [timing.due_s, timing.sent_s, *timing.pieces_s, timing.end_s]
    assert times == sorted(times)
    (body,) = server.asked
    assert body["path"] == "/v1/chat/completions"
    assert body["messages"] == [{"role": "user", "content": "Tell me."}]
    assert body["ignore_eos"] is True and body["stream_options"] == {"include_usage": True}


def test_completions_are_asked_for_as_text() -> None:
    def events(body: dict[str, Any]) -> Events:
        return [{"choices": [{"text": "a", "finish_reason": None}]}] * 2

    with serving(events) as (url, server):
        timing = asyncio.run(asked(url, PROMPT, api="completions", ignore_eos=False))
    assert (timing.num_output, timing.is_counted) == (2, False)
    assert server.asked[0]["prompt"] == "Tell me."
    assert "ignore_eos" not in server.asked[0]


@pytest.mark.parametrize(
    ("events", "status", "error"),
    [
        ([{"error": {"message": "out of memory"}}], 200, "out of memory"),
        ([{"error": {"message": "wait"}}], 429, "429"),
    ],
)
def test_what_goes_wrong_is_in_the_timing(events: Events, status: int, error: str) -> None:
    with serving(lambda _: events, status=status) as (url, _):
        timing = asyncio.run(asked(url, PROMPT))
    assert timing.error is not None and error in timing.error


def test_where_nothing_answers_the_request_has_failed() -> None:
    timing = asyncio.run(asked("http://127.0.0.1:9/v1", PROMPT))
    assert timing.error == "ConnectError"


# Load


def test_in_a_closed_loop_no_user_asks_twice_at_a_time() -> None:
    async def run(url: str) -> list[Timing]:
        async with BenchClient(url, model="tiny") as client:
            prompts = random_prompts(words=Span(2, 5), output=OUTPUT, seed=1)
            return await closed_loop(client, prompts, num_requests=20, concurrency=3)

    with serving() as (url, server):
        timings = asyncio.run(run(url))
    assert len(timings) == len(server.asked) == 20
    assert server.most_in_hand <= 3


def test_in_an_open_loop_requests_are_due_at_their_own_moments() -> None:
    async def run(url: str) -> list[Timing]:
        async with BenchClient(url, model="tiny") as client:
            prompts = random_prompts(words=Span(2, 5), output=OUTPUT, seed=1)
            return await open_loop(client, prompts, num_requests=10, rate=1000.0, seed=4)

    with serving() as (url, _):
        first, second = asyncio.run(run(url)), asyncio.run(run(url))
    gaps = [[b.due_s - a.due_s for a, b in pairwise(t)] for t in (first, second)]
    assert gaps[0] == pytest.approx(gaps[1])
    assert all(timing.sent_s >= timing.due_s for timing in first)


def test_a_sweep_doubles_the_load_until_it_is_too_much() -> None:
    async def run(url: str) -> list[LoadReport]:
        load = Load(num_requests=4, rate=1e6, is_sweep=True)
        async with BenchClient(url, model="tiny") as client:
            prompts = random_prompts(words=Span(2, 5), output=OUTPUT, seed=1)
            return [report async for report in measure(client, prompts, load)]

    with serving() as (url, _):
        reports = asyncio.run(run(url))
    assert [report.rate for report in reports] == [1e6], "nobody does a million a second"
    doubled = Load(concurrency=3, is_sweep=True).doubled()
    assert doubled.concurrency == 6


def test_a_level_of_a_sweep_lasts_as_long_as_the_first() -> None:
    doubled = Load(num_requests=10, rate=2.0, is_sweep=True).doubled()
    assert (doubled.rate, doubled.num_requests) == (4.0, 20)


@pytest.mark.parametrize(("concurrency", "rate"), [(None, None), (1, 1.0), (0, None), (None, -1.0)])
def test_loads_that_cannot_be_are_refused(concurrency: int | None, rate: float | None) -> None:
    with pytest.raises(ValueError, match=f"concurrency (is )?{concurrency} and rate"):
        Load(concurrency=concurrency, rate=rate)


# Figures


def timing(due: float, pieces: list[float], end: float, num_output: int) -> Timing:
    return Timing(
        due_s=due,
        sent_s=due,
        end_s=end,
        pieces_s=tuple(pieces),
        num_prompt=5,
        num_output=num_output,
        is_counted=True,
    )


def test_figures_are_as_the_field_defines_them() -> None:
    report = summarize([timing(0.0, [1.0, 1.5], 2.0, 3), timing(1.0, [4.0], 4.0, 1)], concurrency=2)
    assert report.ttft_ms is not None and report.ttft_ms.mean == 2000.0
    assert report.tpot_ms is not None and report.tpot_ms.p50 == 250.0
    assert report.itl_ms is not None and report.itl_ms.p99 == 500.0
    assert (report.duration_s, report.request_throughput) == (4.0, 0.5)
    assert (report.output_throughput, report.total_throughput) == (1.0, 3.5)


def test_what_failed_is_counted_apart() -> None:
    failed = Timing(due_s=0.0, sent_s=0.0, end_s=9.0, error="ReadTimeout")
    report = summarize([failed, timing(0.0, [1.0], 1.0, 1)], rate=1.0)
    assert (report.num_failed, report.failures) == (1, {"ReadTimeout": 1})
    assert report.ttft_ms == Distribution(mean=1000.0, p50=1000.0, p95=1000.0, p99=1000.0)


@given(st.lists(st.floats(0.0, 100.0), min_size=1, max_size=50))
def test_percentiles_are_in_order_and_within_what_was_measured(values: list[float]) -> None:
    of = Distribution.of(values)
    assert of is not None
    low, high = 1000 * min(values), 1000 * max(values)
    assert low <= of.p50 * (1 + 1e-9) and of.p50 <= of.p95 * (1 + 1e-9)
    assert of.p95 <= of.p99 * (1 + 1e-9) and of.p99 <= high * (1 + 1e-9)


# Workloads


def test_a_seed_gives_the_same_prompts_again_and_another_others() -> None:
    def texts(seed: int) -> list[str]:
        prompts = random_prompts(words=Span(5, 9), output=OUTPUT, seed=seed)
        return [prompt.text for prompt in islice(prompts, 5)]

    assert texts(1) == texts(1) != texts(2)
    assert all(5 <= len(text.split()) <= 9 for text in texts(3))


def test_prompts_share_so_many_beginnings() -> None:
    prompts = shared_prompts(
        num_prefixes=2, prefix=Span(50, 50), words=Span(3, 3), output=OUTPUT, seed=1
    )
    texts = [prompt.text for prompt in islice(prompts, 6)]
    assert len(set(texts)) == 6
    assert len({text.partition("\n\n")[0] for text in texts}) == 2


def test_prompts_come_from_a_file_over_and_over(tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"prompt": "a", "max_tokens": 7}\n\n{"prompt": "b"}\n')
    prompts = list(islice(file_prompts(path, output=OUTPUT, seed=1), 3))
    assert [(prompt.text, prompt.max_tokens) for prompt in prompts] == [
        ("a", 7),
        ("b", 3),
        ("a", 7),
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "has no prompts"),
        ("nonsense", "prompts.jsonl:1 is not JSON"),
        ('{"text": "a"}', "prompts.jsonl:1 has no text"),
        ('{"prompt": "a", "max_tokens": 0}', "max_tokens is 0"),
    ],
)
def test_a_file_that_has_no_prompts_is_refused(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text(content)
    with pytest.raises(ValueError, match=message):
        next(file_prompts(path, output=OUTPUT, seed=1))


@pytest.mark.parametrize("text", ["", "a", "5:2", "0", "1:", "-3", "1:2:3"])
def test_what_is_no_span_is_refused(text: str) -> None:
    if text == "1:":
        assert Span.parse(text) == (1, 1)
    else:
        with pytest.raises(ValueError, match=f"'{text}'"):
            Span.parse(text)


def test_an_open_loops_clock_starts_when_its_prompts_are_drawn() -> None:
    class Client(BenchClient):
        async def ask(self, prompt: Prompt, *, due_s: float | None = None) -> Timing:
            assert due_s is not None
            assert due_s >= drawn_s[-1]
            return Timing(due_s=due_s, sent_s=due_s, end_s=due_s)

    def prompts() -> Iterator[Prompt]:
        while True:
            drawn_s.append(time.perf_counter())
            yield Prompt(text="x", max_tokens=1)

    async def main() -> list[Timing]:
        async with Client("http://localhost:1/v1", model="m") as client:
            return await open_loop(client, prompts(), num_requests=3, rate=1e9, seed=0)

    drawn_s: list[float] = []
    assert len(asyncio.run(main())) == len(drawn_s) == 3
