"""A language model behind any OpenAI-compatible endpoint.

The endpoint is chosen by the user but not trusted: redirects are not followed, replies are bounded,
and the API key (from the environment only) goes to the given address and nowhere else, nor over
plain http beyond this machine; proxies and `.netrc` are not consulted. PHAROS_API_KEY is for any
endpoint, OPENAI_API_KEY, which is often set for other programs, for OpenAI's own. A request is
repeated only as long as nothing of its reply has been passed on, so that no text is ever doubled.
"""

import ipaddress
import os
import ssl
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import httpx

from pharos.core import Completion, EndpointError, Message, SamplingParams
from pharos.serve.events import read_events
from pharos.serve.wire import (
    base_of,
    chat_request,
    model_names,
    printable,
    read_completion,
    read_object,
    read_pieces,
    refusal,
)

MAX_RESPONSE_BYTES = 8 << 20
_PASSING = frozenset({408, 429, 500, 502, 503, 504})
_LONGEST_WAIT_S = 20.0
_OPENAI_HOST = "api.openai.com"


@dataclass(frozen=True, kw_only=True)
class EndpointConfig:
    """`timeout_s` is the longest silence, `limit_s` the longest reply. A request refused for a
    passing reason is repeated `retries` times: after `wait_s` seconds, then twice that, and so on.
    """

    timeout_s: float = 120.0
    limit_s: float = 900.0
    retries: int = 2
    wait_s: float = 0.5

    def __post_init__(self) -> None:
        if self.timeout_s <= 0 or self.limit_s <= 0:
            raise ValueError(
                f"timeout_s is {self.timeout_s} and limit_s {self.limit_s}; both must be above 0"
            )
        if self.retries < 0 or self.wait_s < 0:
            raise ValueError(
                f"retries is {self.retries} and wait_s {self.wait_s}; neither may be negative"
            )


class ChatEndpoint:
    """`LanguageModel` over `/v1/chat/completions`; close it, or use it in a `with` statement.

    The model is `model`, else what follows `#` in the URL, else "default"; `connect` asks the
    server instead.
    """

    def __init__(
        self, url: str, *, model: str | None = None, config: EndpointConfig | None = None
    ) -> None:
        self.base_url, fragment = base_of(url)
        self.name = model or fragment or "default"
        self._config = config or EndpointConfig()
        timeout_s = self._config.timeout_s
        self._client = httpx.Client(
            timeout=httpx.Timeout(timeout_s, connect=min(10.0, timeout_s)),
            headers=request_headers(self.base_url),
            verify=certificates(),
            follow_redirects=False,
            trust_env=False,
        )

    @classmethod
    def connect(cls, url: str, *, config: EndpointConfig | None = None) -> "ChatEndpoint":
        """The endpoint at `url`, asked for the first model that it lists unless `#NAME` says which.

        A server that has no list keeps "default": those that serve one model ignore the name.
        Raises EndpointError if nothing answers there.
        """
        endpoint = cls(url, config=config)
        try:
            if not base_of(url)[1]:
                endpoint.name = next(iter(endpoint.models()), endpoint.name)
        except EndpointError:
            endpoint.close()
            raise
        return endpoint

    def models(self) -> list[str]:
        """The names that `/v1/models` lists; none if the server has no such page."""
        with self._request("GET", "/models", None) as response:
            if response.status_code in (404, 405, 501):
                return []
            return model_names(self._reply(response))

    def stream(self, messages: Sequence[Message], params: SamplingParams) -> Iterator[str]:
        """The reply, piece by piece. Raises EndpointError, also half-way if the stream breaks."""
        body = chat_request(self.name, messages, params, stream=True)
        with self._request("POST", "/chat/completions", body) as response:
            if "json" in response.headers.get("content-type", "") or response.status_code != 200:
                yield read_completion(self._reply(response), self.base_url).text
            else:
                yield from read_pieces(read_events(self._bounded(response)), self.base_url)

    def complete(self, messages: Sequence[Message], params: SamplingParams) -> Completion:
        body = chat_request(self.name, messages, params, stream=False)
        with self._request("POST", "/chat/completions", body) as response:
            return read_completion(self._reply(response), self.base_url)

    def close(self) -> None:
        self._client.close()

    def __enter__(self) -> "ChatEndpoint":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @contextmanager
    def _request(
        self, method: str, path: str, body: Mapping[str, Any] | None
    ) -> Iterator[httpx.Response]:
        """An open response; what goes wrong with it while it is read becomes an EndpointError."""
        response = self._opened(self._client.build_request(method, self.base_url + path, json=body))
        try:
            yield response
        except httpx.TimeoutException as error:
            raise EndpointError(
                f"{self.base_url} fell silent half-way through its reply; ask again"
            ) from error
        except (httpx.TransportError, httpx.DecodingError) as error:
            raise EndpointError(
                f"{self.base_url} broke off half-way through its reply ({error}); ask again"
            ) from error
        finally:
            response.close()

    def _opened(self, request: httpx.Request) -> httpx.Response:
        """Send, and send again while the refusal is a passing one. No body has been read yet."""
        for attempt in range(self._config.retries):
            wait_s = self._config.wait_s * 2**attempt
            try:
                response = self._sent(request)
            except _NoReplyError:
                time.sleep(wait_s)
                continue
            if response.status_code not in _PASSING:
                return response
            response.close()
            time.sleep(_asked_wait(response, wait_s))
        return self._sent(request)

    def _sent(self, request: httpx.Request) -> httpx.Response:
        try:
            return self._client.send(request, stream=True)
        except httpx.ConnectTimeout as error:
            raise EndpointError(
                f"{self.base_url} did not accept a connection in time; is the address right?"
            ) from error
        except httpx.ConnectError as error:
            raise EndpointError(
                f"nothing answers at {self.base_url} ({error}); is the server running, "
                "and is the address right?"
            ) from error
        except httpx.TimeoutException as error:
            raise EndpointError(
                f"{self.base_url} accepted the question but did not reply in time"
            ) from error
        except httpx.TransportError as error:
            raise _NoReplyError(
                f"{self.base_url} closed the connection without a reply ({error})"
            ) from error

    def _reply(self, response: httpx.Response) -> dict[str, Any]:
        """The whole body as an object; raises what any status but 200 means."""
        if 300 <= response.status_code < 400:
            where = printable(response.headers.get("location", "elsewhere"))
            raise EndpointError(
                f"{self.base_url} redirects to {where}; redirects are not followed: "
                "give that address itself if you trust it"
            )
        body = b"".join(self._bounded(response))
        if response.status_code != 200:
            raise refusal(response.status_code, body, model=self.name, base_url=self.base_url)
        return read_object(body, self.base_url)

    def _bounded(self, response: httpx.Response) -> Iterator[bytes]:
        """The body as it comes, up to MAX_RESPONSE_BYTES and for at most `limit_s` seconds."""
        size, deadline = 0, time.monotonic() + self._config.limit_s
        for chunk in response.iter_bytes():
            size += len(chunk)
            if size > MAX_RESPONSE_BYTES:
                raise EndpointError(
                    f"{self.base_url} sent more than {MAX_RESPONSE_BYTES:,} bytes; "
                    "no answer is that long, so it was refused"
                )
            if time.monotonic() > deadline:
                raise EndpointError(
                    f"{self.base_url} still replied after {self._config.limit_s:g} s; cut off"
                )
            yield chunk


class _NoReplyError(EndpointError):
    """The connection closed before a reply began: worth another attempt."""


def request_headers(base_url: str) -> dict[str, str]:
    headers = {"Accept-Encoding": "identity", "User-Agent": "pharos"}
    try:
        key = _key_for(httpx.URL(base_url))  # read as the request will be
    except httpx.InvalidURL as error:
        raise EndpointError(f"'{base_url}' is not the address of an endpoint: {error}") from error
    return headers | {"Authorization": f"Bearer {key}"} if key else headers


def _key_for(url: httpx.URL) -> str | None:
    """The key that may go to this endpoint; an error if it could be read on its way there."""
    name = "PHAROS_API_KEY"
    if not os.environ.get(name) and (url.scheme, url.host) == ("https", _OPENAI_HOST):
        name = "OPENAI_API_KEY"
    key = os.environ.get(name)
    if not key:
        return None
    if not (key.isascii() and key.isprintable()):
        raise EndpointError(f"{name} holds characters that no key has")
    if url.scheme != "https" and not _is_loopback(url.host):
        raise EndpointError(
            f"{name} is not sent to {url.host} over plain http, where it could be read on its way: "
            f"use an https address or a tunnel to localhost, or unset {name}"
        )
    return key


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def certificates() -> ssl.SSLContext | bool:
    """The usual authorities, or those of SSL_CERT_FILE, which a company with its own sets."""
    own = os.environ.get("SSL_CERT_FILE")
    return ssl.create_default_context(cafile=own) if own else True


def _asked_wait(response: httpx.Response, otherwise: float) -> float:
    """Seconds until the next attempt: what the server asks for, within reason."""
    asked = response.headers.get("retry-after", "")
    return min(float(asked), _LONGEST_WAIT_S) if asked.isdecimal() else otherwise
