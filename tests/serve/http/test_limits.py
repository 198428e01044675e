"""Keys, sizes, queues, time, and clients that leave."""

import json
import socket
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import httpx
import openai
import pytest

ASKED: dict[str, Any] = {"model": "tiny", "prompt": "The keeper", "max_tokens": 1500}
LONG = ASKED | {"extra_body": {"ignore_eos": True}}


def metric(url: str, name: str, **labels: str) -> float:
    """The value of a metric now."""
    text = httpx.get(f"{url}/metrics", headers={"Authorization": "Bearer second"}).text
    wanted = [f'{key}="{value}"' for key, value in labels.items()]
    for line in text.splitlines():
        if line.startswith(f"pharos:{name}{{") and all(pair in line for pair in wanted):
            return float(line.rpartition(" ")[2])
    return 0.0


def wait_for(url: str, value: float, name: str, **labels: str) -> None:
    """Ask again and again, until the metric has that value."""
    for _ in range(5_000):
        if metric(url, name, **labels) == value:
            return
    raise AssertionError(f"{name} is {metric(url, name, **labels)} and never {value}")


@pytest.fixture(scope="module")
def guarded(serve: Any) -> Iterator[Any]:
    with serve(
        api_keys=frozenset({"first", "second"}), max_body_bytes=5_000, max_output_tokens=1_600,
        max_pending=2,
    ) as running:  # fmt: skip
        yield running


def test_a_key_is_asked_for(guarded: Any) -> None:
    for key in ("third", "first ly"):
        with pytest.raises(openai.AuthenticationError) as refused:
            guarded.client(api_key=key).models.list()
        assert refused.value.code == "invalid_api_key"
    assert guarded.client(api_key="second").models.list().data[0].id == "tiny"
    assert httpx.get(f"{guarded.url}/v1/models").headers["www-authenticate"] == "Bearer"
    assert httpx.get(f"{guarded.url}/metrics").status_code == 401
    strange = [(b"Authorization", b"Bearer \xe9\xff")]
    assert httpx.get(f"{guarded.url}/v1/models", headers=strange).status_code == 401
    assert httpx.get(f"{guarded.url}/health").json() == {"status": "ok"}


def test_a_web_page_under_a_strangers_name_is_sent_away(running: Any, guarded: Any) -> None:
    port = urlsplit(running.url).port
    for host, status in (
        (f"evil.example:{port}", 403),
        (f"localhost.evil.example:{port}", 403),
        ("[", 403),
        (f"localhost:{port}", 200),
        (f"[::1]:{port}", 200),
        ("127.0.0.1", 200),
    ):
        reply = httpx.get(f"{running.url}/v1/models", headers={"Host": host})
        assert reply.status_code == status, host
    headers = {"Host": "model.example", "Authorization": "Bearer first"}
    assert httpx.get(f"{guarded.url}/v1/models", headers=headers).status_code == 200


def test_a_body_that_is_too_large_is_refused_before_it_is_read(guarded: Any) -> None:
    client = guarded.client(api_key="first")
    with pytest.raises(openai.APIStatusError) as refused:
        client.completions.create(model="tiny", prompt="x" * 6_000)
    assert refused.value.status_code == 413

    def pieces() -> Iterator[bytes]:  # sent in chunks, without a length
        yield from [b" " * 1_000] * 6

    headers = {"Authorization": "Bearer first"}
    reply = httpx.post(f"{guarded.url}/v1/completions", content=pieces(), headers=headers)
    assert reply.status_code == 413


def test_more_tokens_than_the_server_writes_are_refused(guarded: Any) -> None:
    with pytest.raises(openai.BadRequestError, match="at most 1600"):
        guarded.client(api_key="first").completions.create(**ASKED | {"max_tokens": 1_601})


def test_a_full_queue_says_when_to_come_back(guarded: Any) -> None:
    client = guarded.client(api_key="first")
    before = metric(guarded.url, "request_failure_total", reason="client_gone")
    with client.completions.create(**LONG, n=2, stream=True) as stream:
        next(iter(stream))
        with pytest.raises(openai.RateLimitError) as refused:
            client.completions.create(**ASKED | {"max_tokens": 1})
        assert int(refused.value.response.headers["retry-after"]) >= 1
        assert refused.value.code == "queue_full"
    wait_for(guarded.url, 0, "num_requests_running")
    wait_for(guarded.url, before + 2, "request_failure_total", reason="client_gone")
    assert client.completions.create(**ASKED | {"max_tokens": 1}).choices[0].text is not None


def test_leaving_a_stream_ends_its_work(guarded: Any) -> None:
    client = guarded.client(api_key="first")
    before = metric(guarded.url, "request_failure_total", reason="client_gone")
    with client.completions.create(**LONG, stream=True) as stream:
        next(iter(stream))
    wait_for(guarded.url, before + 1, "request_failure_total", reason="client_gone")
    wait_for(guarded.url, 0, "num_requests_running")
    wait_for(guarded.url, 0, "kv_cache_usage_perc")


def test_leaving_before_the_reply_ends_its_work(guarded: Any) -> None:
    """A client that closes its connection while nothing has been sent yet."""
    before = metric(guarded.url, "request_failure_total", reason="client_gone")
    address = urlsplit(guarded.url)
    body = json.dumps(ASKED | {"ignore_eos": True}).encode()
    with socket.create_connection((address.hostname, address.port)) as connection:
        head = f"Host: localhost\r\nAuthorization: Bearer first\r\nContent-Length: {len(body)}\r\n"
        head += "Content-Type: application/json\r\n"
        connection.sendall(f"POST /v1/completions HTTP/1.1\r\n{head}\r\n".encode() + body)
        wait_for(guarded.url, 1, "num_requests_running")
    wait_for(guarded.url, before + 1, "request_failure_total", reason="client_gone")
    wait_for(guarded.url, 0, "num_requests_running")


def test_a_request_may_take_only_so_long(serve: Any) -> None:
    with serve(timeout_s=0.05) as running:
        with pytest.raises(openai.APIStatusError) as late:
            running.client().completions.create(**LONG)
        assert late.value.status_code == 504
        with pytest.raises(openai.APIError, match="took longer"):
            list(running.client().completions.create(**LONG, stream=True))
        assert metric(running.url, "request_failure_total", reason="timeout") == 2


def test_a_server_that_is_told_to_end_ends_what_it_began(serve: Any) -> None:
    with serve(drain_s=60) as running:
        client = running.client()
        chunks = iter(client.completions.create(**LONG | {"max_tokens": 200}, stream=True))
        next(chunks)
        running.stop()
        reasons = [chunk.choices[0].finish_reason for chunk in chunks]
        assert reasons[-1] == "length"
        with pytest.raises(openai.APIConnectionError):
            client.models.list()
