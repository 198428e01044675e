"""What a client is told when its request cannot be answered: a status and OpenAI's error object."""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

_TYPES: Mapping[int, str] = {
    HTTPStatus.UNAUTHORIZED: "authentication_error",
    HTTPStatus.FORBIDDEN: "permission_error",
    HTTPStatus.NOT_FOUND: "not_found_error",
    HTTPStatus.TOO_MANY_REQUESTS: "rate_limit_error",
    HTTPStatus.GATEWAY_TIMEOUT: "timeout_error",
}


class ApiError(Exception):
    """`param` names the parameter at fault, `code` what is wrong with it, for programs.
    `retry_after_s` says when it is worth another attempt."""

    def __init__(
        self,
        message: str,
        *,
        status: int = HTTPStatus.BAD_REQUEST,
        param: str | None = None,
        code: str | None = None,
        retry_after_s: int | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.status = int(status)
        self.param = param
        self.code = code
        self.retry_after_s = retry_after_s

    @property
    def type(self) -> str:
        """OpenAI's kind of error."""
        otherwise = "server_error" if self.status >= 500 else "invalid_request_error"
        return _TYPES.get(self.status, otherwise)

    @property
    def body(self) -> dict[str, Any]:
        described = {"message": self.message, "type": self.type}
        return {"error": described | {"param": self.param, "code": self.code}}

    @property
    def headers(self) -> dict[str, str]:
        headers = {} if self.retry_after_s is None else {"Retry-After": str(self.retry_after_s)}
        if self.status == HTTPStatus.UNAUTHORIZED:
            headers["WWW-Authenticate"] = "Bearer"
        return headers


def unsupported(param: str, why: str) -> ApiError:
    """A parameter that is known, and not honoured."""
    return ApiError(f"{param} is not supported: {why}", param=param, code="unsupported_parameter")


def too_long(num_prompt: int, max_tokens: int, max_len: int) -> ApiError:
    return ApiError(
        f"the prompt has {num_prompt} tokens and max_tokens is {max_tokens}, but the model's "
        f"context is {max_len} tokens; shorten one of them",
        param="messages" if max_tokens == 0 else "max_tokens",
        code="context_length_exceeded",
    )


def engine_failed(reason: str, *, is_running: bool) -> ApiError:
    """An engine that has ended is started again soon; one that goes on would fail again."""
    status = HTTPStatus.INTERNAL_SERVER_ERROR if is_running else HTTPStatus.SERVICE_UNAVAILABLE
    return ApiError(
        f"the request was not answered: {reason}",
        status=status,
        code="engine_error",
        retry_after_s=None if is_running else 5,
    )
