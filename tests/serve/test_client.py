"""The client against a real server on this machine that speaks the API, well and badly."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from pharos.core import EndpointError, LanguageModel, Message, SamplingParams
from pharos.serve import ChatEndpoint, EndpointConfig, client
from pharos.serve.wire import chat_request

QUESTION = [Message(role="user", content="Who built the lighthouse?")]
HASTY = EndpointConfig(timeout_s=60.0, retries=2, wait_s=0.0)
Answerer = Callable[["Request"], None]


class Request:
    """What the server got, and the means to reply."""

    def __init__(self, handler: BaseHTTPRequestHandler, body: Any) -> None:
        self.path = handler.path
        self.headers = handler.headers
        self.body = body
        self._handler = handler

    def reply(self, status: int, body: bytes, **headers: str) -> None:
        self.start(status, content_length=str(len(body)), **headers)
        self.write(body)

    def reply_json(self, value: object, status: int = 200, **headers: str) -> None:
        self.reply(status, json.dumps(value).encode(), content_type="application/json", **headers)

    def start(self, status: int, **headers: str) -> None:
        self._handler.send_response(status)
        for name, value in headers.items():
            self._handler.send_header(name.replace("_", "-"), value)
        self._handler.end_headers()

    def write(self, data: bytes) -> None:
        self._handler.wfile.write(data)
        self._handler.wfile.flush()

    def stream(self, *events: object, done: bool = True) -> None:
        self.start(200, content_type="text/event-stream")
        for event in events:
            self.write(f"data: {json.dumps(event)}\n\n".encode())
        if done:
            self.write(b"data: [DONE]\n\n")

    def hang_up(self) -> None:
        self._handler.connection.close()


@contextmanager
def serving(answer: Answerer) -> Iterator[tuple[str, list[Request]]]:
    """A server that passes each request to `answer`; its address, and what it was asked."""
    asked: list[Request] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.handle_body(None)

        def do_POST(self) -> None:
            self.handle_body(json.loads(self.rfile.read(int(self.headers["content-length"]))))

        def handle_body(self, body: Any) -> None:
            asked.append(Request(self, body))
            answer(asked[-1])
            self.close_connection = True

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.handle_error = lambda *_: None  # type: ignore[method-assign]
    thread = threading.Thread(target=lambda: server.serve_forever(poll_interval=0.01))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def piece(text: str | None, finish: str | None = None) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": finish}]}


def whole(text: str) -> dict[str, Any]:
    return {
        "choices": [{"message": {"role": "assistant", "content": text}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 7, "completion_tokens": 3},
    }


def ask(url: str, config: EndpointConfig = HASTY) -> list[str]:
    with ChatEndpoint(url, config=config) as model:
        return list(model.stream(QUESTION, SamplingParams()))


def test_streamed_pieces_come_in_order_and_add_up() -> None:
    role = {"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]}
    usage = {"choices": [], "usage": {"prompt_tokens": 1}}
    with serving(
        lambda r: r.stream(role, piece("Sostra"), piece("tus."), piece(None, "stop"), usage)
    ) as (url, _):
        assert ask(url) == ["Sostra", "tus."]


def test_a_complete_reply_carries_its_counts() -> None:
    with (
        serving(lambda r: r.reply_json(whole("Sostratus."))) as (url, _),
        ChatEndpoint(url, config=HASTY) as model,
    ):
        completion = model.complete(QUESTION, SamplingParams())
    assert completion.text == "Sostratus."
    assert (completion.prompt_tokens, completion.completion_tokens) == (7, 3)


def test_an_endpoint_is_a_language_model() -> None:
    with ChatEndpoint("http://127.0.0.1:1") as model:
        assert isinstance(model, LanguageModel)


def test_every_sampling_parameter_is_sent() -> None:
    params = SamplingParams(max_tokens=5, temperature=0.5, top_p=0.9, seed=3, stop=("END",))
    with (
        serving(lambda r: r.stream(piece("x", "stop"))) as (url, asked),
        ChatEndpoint(url, model="m") as model,
    ):
        list(model.stream(QUESTION, params))
    assert asked[0].body == {
        "model": "m",
        "messages": [{"role": "user", "content": "Who built the lighthouse?"}],
        "max_tokens": 5,
        "temperature": 0.5,
        "top_p": 0.9,
        "seed": 3,
        "stop": ["END"],
        "stream": True,
    }


def test_what_is_beyond_the_format_is_sent_under_the_names_that_servers_know() -> None:
    params = SamplingParams(
        top_k=4,
        logit_bias={7: -1.0},
        min_tokens=2,
        ignore_eos=True,
        stop_token_ids=(5,),
        include_stop=True,
    )
    body = chat_request("m", QUESTION, params, stream=False)
    beyond = {"top_k", "logit_bias", "min_tokens", "ignore_eos", "stop_token_ids"}
    assert {name: body[name] for name in beyond} == {
        "top_k": 4,
        "logit_bias": {"7": -1.0},
        "min_tokens": 2,
        "ignore_eos": True,
        "stop_token_ids": [5],
    }
    assert body["include_stop_str_in_output"] is True


@pytest.mark.parametrize("suffix", ["", "/", "/v1", "/v1/", "/v1/chat/completions"])
def test_every_form_of_the_address_leads_to_the_same_place(suffix: str) -> None:
    with serving(lambda r: r.stream(piece("x", "stop"))) as (url, asked):
        ask(url + suffix)
    assert asked[0].path == "/v1/chat/completions"


def test_a_prefix_of_the_api_is_kept() -> None:
    with serving(lambda r: r.stream(piece("x", "stop"))) as (url, asked):
        ask(url + "/openai/v1")
    assert asked[0].path == "/openai/v1/chat/completions"


def test_connecting_settles_on_the_first_model_listed() -> None:
    models = {"data": [{"id": "first"}, {"id": "second"}]}
    with (
        serving(lambda r: r.reply_json(models)) as (url, asked),
        ChatEndpoint.connect(url, config=HASTY) as model,
    ):
        assert model.name == "first"
    assert asked[0].path == "/v1/models"


def test_a_name_after_the_hash_chooses_the_model_without_asking() -> None:
    with (
        serving(lambda r: r.stream(piece("x", "stop"))) as (url, asked),
        ChatEndpoint.connect(url + "#second", config=HASTY) as model,
    ):
        list(model.stream(QUESTION, SamplingParams()))
    assert [request.path for request in asked] == ["/v1/chat/completions"]
    assert asked[0].body["model"] == "second"


def test_a_server_without_a_list_of_models_is_used_all_the_same() -> None:
    with (
        serving(lambda r: r.reply_json({}, 404)) as (url, _),
        ChatEndpoint.connect(url, config=HASTY) as model,
    ):
        assert model.name == "default"


def test_a_server_that_does_not_stream_is_understood() -> None:
    with serving(lambda r: r.reply_json(whole("All at once."))) as (url, _):
        assert ask(url) == ["All at once."]


def test_nothing_at_the_address_is_said_in_one_line() -> None:
    with serving(lambda r: None) as (url, _):
        pass  # the port is free again
    with pytest.raises(EndpointError, match="nothing answers at http://127"):
        ChatEndpoint.connect(url, config=HASTY)


@pytest.mark.parametrize(
    ("status", "says"),
    [
        (401, "PHAROS_API_KEY"),
        (403, "may not use"),
        (404, "#NAME"),
        (400, "too long"),
        (429, "wait"),
    ],
)
def test_a_refusal_says_what_to_do(status: int, says: str) -> None:
    error = {"error": {"message": "prompt too long\x1b[2J", "type": "x"}}
    with (
        serving(lambda r: r.reply_json(error, status)) as (url, _),
        pytest.raises(EndpointError, match=says) as caught,
    ):
        ask(url)
    assert f"answered {status}" in str(caught.value)
    assert str(caught.value).isprintable()


def test_a_refusal_while_connecting_is_not_swallowed() -> None:
    with (
        serving(lambda r: r.reply(401, b"no")) as (url, _),
        pytest.raises(EndpointError, match="answered 401"),
    ):
        ChatEndpoint.connect(url, config=HASTY)


def test_a_passing_refusal_is_tried_again() -> None:
    def answer(request: Request) -> None:
        if len(asked) < 3:
            request.reply_json({"error": "busy"}, 503, retry_after="0")
        else:
            request.stream(piece("at last", "stop"))

    with serving(answer) as (url, asked):
        assert ask(url) == ["at last"]
    assert len(asked) == 3


def test_a_connection_closed_without_a_reply_is_tried_again() -> None:
    def answer(request: Request) -> None:
        if len(asked) == 1:
            request.hang_up()
        else:
            request.stream(piece("hello", "stop"))

    with serving(answer) as (url, asked):
        assert ask(url) == ["hello"]


def test_nothing_is_tried_again_once_text_has_come() -> None:
    with serving(lambda r: r.stream(piece("half an"), done=False)) as (url, asked):
        got: list[str] = []
        with (
            ChatEndpoint(url, config=HASTY) as model,
            pytest.raises(EndpointError, match="cut half-way"),
        ):
            got.extend(model.stream(QUESTION, SamplingParams()))
    assert len(asked) == 1


def test_a_broken_transfer_is_an_error_of_the_endpoint() -> None:
    def answer(request: Request) -> None:
        request.start(200, content_type="text/event-stream", content_length="1000")
        request.write(b"data: " + json.dumps(piece("half")).encode() + b"\n\n")

    with serving(answer) as (url, _), pytest.raises(EndpointError, match="broke off half-way"):
        ask(url)


def test_silence_ends_in_an_error() -> None:
    released = threading.Event()

    def answer(request: Request) -> None:
        request.start(200, content_type="text/event-stream")
        released.wait(10)

    config = EndpointConfig(timeout_s=0.1, retries=0)
    with serving(answer) as (url, _):
        with pytest.raises(EndpointError, match="fell silent"):
            ask(url, config)
        released.set()


def test_keep_alives_do_not_keep_a_reply_alive_for_ever() -> None:
    def answer(request: Request) -> None:
        request.start(200, content_type="text/event-stream")
        for _ in range(100_000):
            request.write(b": still thinking\n\n")

    config = EndpointConfig(timeout_s=5.0, limit_s=1e-6)
    with serving(answer) as (url, _), pytest.raises(EndpointError, match="cut off"):
        ask(url, config)


@pytest.mark.parametrize("event", [b"data: {oops\n\n", b"data: [1, 2]\n\n", b"data: \xff\xfe\n\n"])
def test_a_malformed_stream_is_an_error(event: bytes) -> None:
    def answer(request: Request) -> None:
        request.start(200, content_type="text/event-stream")
        request.write(event)

    with serving(answer) as (url, _), pytest.raises(EndpointError, match=r"JSON|object|UTF-8"):
        ask(url)


def test_an_error_in_the_stream_is_passed_on() -> None:
    with (
        serving(lambda r: r.stream(piece("so"), {"error": {"message": "out of memory"}})) as (
            url,
            _,
        ),
        pytest.raises(EndpointError, match="out of memory"),
    ):
        ask(url)


def test_a_reply_of_another_shape_is_an_error() -> None:
    with (
        serving(lambda r: r.reply_json({"choices": [{"text": "old API"}]})) as (url, _),
        ChatEndpoint(url, config=HASTY) as model,
        pytest.raises(EndpointError, match="choices"),
    ):
        model.complete(QUESTION, SamplingParams())


def test_a_page_that_is_not_json_is_an_error() -> None:
    with (
        serving(lambda r: r.reply(200, b"<html>hello</html>")) as (url, _),
        pytest.raises(EndpointError, match="cut half-way"),
    ):
        ask(url)


def test_endless_replies_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "MAX_RESPONSE_BYTES", 10_000)
    with (
        serving(lambda r: r.stream(*(piece("x" * 100) for _ in range(200)))) as (url, _),
        pytest.raises(EndpointError, match="no answer is that long"),
    ):
        ask(url)


def test_redirects_are_not_followed_and_the_key_stays_where_it_was_sent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PHAROS_API_KEY", "secret")
    with (
        serving(lambda r: r.stream(piece("stolen", "stop"))) as (other, stolen),
        serving(lambda r: r.reply(307, b"", location=other)) as (url, asked),
    ):
        with pytest.raises(EndpointError, match="redirects are not followed") as caught:
            ask(url)
        assert asked[0].headers["authorization"] == "Bearer secret"
    assert stolen == []
    assert "secret" not in str(caught.value)


def key_sent_to(url: str) -> str | None:
    with ChatEndpoint(url) as model:
        key: str | None = model._client.headers.get("authorization")
        return key


def test_our_key_goes_to_the_endpoint_that_was_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PHAROS_API_KEY", raising=False)
    monkeypatch.setenv("OPENAI_API_KEY", "theirs")
    with serving(lambda r: r.stream(piece("x", "stop"))) as (url, asked):
        ask(url)
        monkeypatch.setenv("PHAROS_API_KEY", "ours")
        ask(url)
    assert [r.headers["authorization"] for r in asked] == [None, "Bearer ours"]


def test_openai_s_key_goes_to_openai_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PHAROS_API_KEY", raising=False)
    monkeypatch.setenv("OPENAI_API_KEY", "theirs")
    assert key_sent_to("https://api.openai.com/v1") == "Bearer theirs"
    assert key_sent_to("https://API.OpenAI.com") == "Bearer theirs"
    for other in (
        "http://api.openai.com/v1",
        "https://api.openai.com.example/v1",
        "https://openai.com/v1",
        "https://llm.example/api.openai.com",
        "http://localhost:8000",
    ):
        assert key_sent_to(other) is None
    monkeypatch.setenv("PHAROS_API_KEY", "ours")
    assert key_sent_to("https://api.openai.com/v1") == "Bearer ours"


def test_a_key_is_not_sent_where_it_could_be_read_on_its_way(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PHAROS_API_KEY", "ours")
    for near in ("http://localhost:8000", "http://127.0.0.9:1", "http://[::1]:8000"):
        assert key_sent_to(near) == "Bearer ours"
    assert key_sent_to("https://llm.example/v1") == "Bearer ours"
    for far in ("http://llm.example/v1", "http://192.168.0.7:8000", "http://localhost.example"):
        with pytest.raises(EndpointError, match=r"not sent to .* over plain http.*https") as caught:
            ChatEndpoint(far)
        assert "ours" not in str(caught.value)
    monkeypatch.delenv("PHAROS_API_KEY")
    assert key_sent_to("http://192.168.0.7:8000") is None


def test_proxies_of_the_environment_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")
    with serving(lambda r: r.stream(piece("direct", "stop"))) as (url, _):
        assert ask(url) == ["direct"]


@pytest.mark.parametrize(
    "url",
    [
        "localhost:8000",
        "ftp://x/v1",
        "http://",
        "file:///etc/passwd",
        "http://me:pw@x/v1",
        "http://x:port/v1",
        "http://[::1/v1",
    ],
)
def test_an_address_that_cannot_be_one_is_refused(url: str) -> None:
    with pytest.raises(EndpointError, match="address"):
        ChatEndpoint(url)


def test_a_configuration_that_cannot_work_is_refused() -> None:
    with pytest.raises(ValueError, match="timeout_s"):
        EndpointConfig(timeout_s=0)
    with pytest.raises(ValueError, match="retries"):
        EndpointConfig(retries=-1)
