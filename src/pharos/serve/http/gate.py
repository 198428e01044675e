"""What a request must have to be read at all: a key, if keys are asked for, and a bounded body.

A server for this machine alone, without keys, can be reached by web pages that this machine's
browser shows: a stranger's name may resolve to 127.0.0.1 (DNS rebinding). Its Host header then is
that name, and is refused.
"""

import asyncio
import hashlib
import hmac
import ipaddress
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pharos.serve.http.config import HttpConfig
from pharos.serve.http.errors import ApiError
from pharos.serve.http.replies import error_response

OPEN_PATHS = frozenset({"/health"})
"""For whoever watches over the server."""


class Gate:
    """ASGI middleware. Keys are compared by their hashes, in a time that tells nothing of them."""

    def __init__(self, app: ASGIApp, *, config: HttpConfig) -> None:
        self._app = app
        self._hashes = [_hash(key) for key in config.api_keys]
        self._max_body_bytes = config.max_body_bytes
        self._timeout_s = config.timeout_s
        self._is_local = config.is_local and not config.api_keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        try:
            self._check_host(headers.get("host", ""))
            self._check_key(scope["path"], headers.get("authorization", ""))
            self._check_size(int(headers.get("content-length") or 0))
            body = await self._body(receive)
        except ApiError as error:
            await error_response(error)(scope, receive, send)
            return
        if body is not None:
            await self._app(scope, _replayed(body, receive), send)

    def _check_key(self, path: str, authorization: str) -> None:
        if not self._hashes or path in OPEN_PATHS:
            return
        scheme, _, key = authorization.partition(" ")
        given = _hash(key.strip())
        is_known = [hmac.compare_digest(given, known) for known in self._hashes]
        if scheme.lower() != "bearer" or not any(is_known):
            raise ApiError(
                "this server asks for an API key; send Authorization: Bearer KEY with one of its "
                "keys",
                status=401,
                code="invalid_api_key",
            )

    def _check_host(self, host: str) -> None:
        if self._is_local and not _is_local_name(host):
            raise ApiError(
                f"this server answers to localhost and to addresses, and not to {host[:80]!r}; "
                "start it with --api-key-file to serve it under other names",
                status=403,
                code="wrong_host",
            )

    async def _body(self, receive: Receive) -> bytes | None:
        """All of it, as long as it is not too much and comes in time; None if the client left."""
        body = bytearray()
        try:
            async with asyncio.timeout(self._timeout_s):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return None
                    body += message.get("body", b"")
                    self._check_size(len(body))
                    if not message.get("more_body"):
                        return bytes(body)
        except TimeoutError as error:
            raise ApiError(
                f"the body took longer than {self._timeout_s:g} s, the limit of this server",
                status=408,
                code="timeout",
            ) from error

    def _check_size(self, size: int) -> None:
        if size > self._max_body_bytes:
            raise ApiError(
                f"the body has more than {self._max_body_bytes:,} bytes, the limit of this server",
                status=413,
                code="body_too_large",
            )


def _replayed(body: bytes, receive: Receive) -> Receive:
    """The body once, then what comes: that the client leaves."""
    is_read = False

    async def replay() -> Message:
        nonlocal is_read
        if is_read:
            return await receive()
        is_read = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay


def _hash(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", errors="surrogateescape")).digest()


def _is_local_name(host: str) -> bool:
    """`localhost`, or an address: what no name server has a say in."""
    try:
        name = urlsplit(f"//{host}").hostname or ""
        return name == "localhost" or bool(ipaddress.ip_address(name))
    except ValueError:
        return False
