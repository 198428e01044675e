"""What a request must have to be read at all: a key, if keys are asked for, and a bounded body."""

import hashlib
import hmac
from collections.abc import Iterable

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pharos.serve.http.errors import ApiError
from pharos.serve.http.replies import error_response

OPEN_PATHS = frozenset({"/health"})
"""For whoever watches over the server."""


class Gate:
    """ASGI middleware. Keys are compared by their hashes, in a time that tells nothing of them."""

    def __init__(self, app: ASGIApp, *, api_keys: Iterable[str], max_body_bytes: int) -> None:
        self._app = app
        self._hashes = [_hash(key) for key in api_keys]
        self._max_body_bytes = max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        try:
            self._check_key(scope["path"], headers.get("authorization", ""))
            self._check_size(int(headers.get("content-length") or 0))
            body = await self._body(receive)
        except ApiError as error:
            await error_response(error)(scope, receive, send)
            return
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

    async def _body(self, receive: Receive) -> bytes:
        """All of it, as long as it is not too much."""
        body = bytearray()
        while True:
            message = await receive()
            body += message.get("body", b"")
            self._check_size(len(body))
            if not message.get("more_body"):
                return bytes(body)

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
