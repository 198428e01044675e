"""The OpenAI chat format: what is sent, what comes back, and the errors found in between.

Nothing here does I/O. Whatever a server says reaches messages only as one printable line.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from pharos.core import Completion, EndpointError, Message, SamplingParams

_HINTS = {
    401: "set PHAROS_API_KEY to a key that it accepts",
    403: "the key may not use this model",
    404: "is '{model}' a model that it serves, and is the address its /v1? "
    "Choose a model by adding #NAME to the address",
    429: "too many requests: wait a little, or ask for a higher limit",
}
_AS_THEY_ARE = (
    "presence_penalty",
    "frequency_penalty",
    "top_k",
    "min_p",
    "repetition_penalty",
    "min_tokens",
    "ignore_eos",
)
"""Sent under their own names, where they are not what they usually are."""


def base_of(url: str) -> tuple[str, str]:
    """The part of `url` before `/chat/completions`, with `/v1`, and the model after its `#`."""
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise EndpointError(f"'{url}' is not the address of an endpoint: {error}") from error
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise EndpointError(
            f"'{url}' is not the address of an endpoint; it looks like http://localhost:8000/v1"
        )
    if parts.username or parts.password or parts.query:
        raise EndpointError(
            "the address of an endpoint must not carry a password or a query; "
            "put the key into PHAROS_API_KEY"
        )
    path = parts.path.rstrip("/").removesuffix("/chat/completions") or "/v1"
    return urlunsplit((parts.scheme, parts.netloc, path, "", "")), parts.fragment


def chat_request(
    model: str, messages: Sequence[Message], params: SamplingParams, *, stream: bool
) -> dict[str, Any]:
    body: dict[str, Any] = {
        "model": model,
        "messages": [{"role": m.role, "content": m.content} for m in messages],
        "max_tokens": params.max_tokens,
        "temperature": params.temperature,
        "top_p": params.top_p,
        "stream": stream,
    }
    if params.seed is not None:
        body["seed"] = params.seed
    if params.stop:
        body["stop"] = list(params.stop)
    usual = SamplingParams()
    for name in _AS_THEY_ARE:
        if getattr(params, name) != getattr(usual, name):
            body[name] = getattr(params, name)
    if params.logit_bias:
        body["logit_bias"] = {str(id_): bias for id_, bias in params.logit_bias.items()}
    if params.stop_token_ids:
        body["stop_token_ids"] = list(params.stop_token_ids)
    if params.include_stop:
        body["include_stop_str_in_output"] = True
    return body


def model_names(reply: Mapping[str, Any]) -> list[str]:
    """What `/v1/models` lists."""
    names = [entry.get("id") for entry in _objects(reply.get("data"))]
    return [name for name in names if isinstance(name, str) and name]


def read_completion(reply: Mapping[str, Any], base_url: str) -> Completion:
    """The reply to a request that was not streamed."""
    if "error" in reply:
        raise EndpointError(f"{base_url} failed: {_reason(reply)}")
    choice = next(iter(_objects(reply.get("choices"))), {})
    text = _object(choice.get("message")).get("content")
    if not isinstance(text, str):
        raise EndpointError(f"{base_url} sent a reply without choices[0].message.content")
    usage = _object(reply.get("usage"))
    return Completion(
        text=text,
        finish_reason=str(choice.get("finish_reason") or "stop"),
        prompt_tokens=_count(usage.get("prompt_tokens")),
        completion_tokens=_count(usage.get("completion_tokens")),
    )


def read_pieces(events: Iterable[str], base_url: str) -> Iterator[str]:
    """The text in the events of a streamed reply, which must say that it has finished."""
    finished = False
    for event in events:
        if event == "[DONE]":
            return
        chunk = read_object(event, base_url)
        if "error" in chunk:
            raise EndpointError(f"{base_url} failed half-way: {_reason(chunk)}")
        for choice in _objects(chunk.get("choices")):
            finished |= choice.get("finish_reason") is not None
            text = _object(choice.get("delta")).get("content")
            if isinstance(text, str) and text:
                yield text
    if not finished:
        raise EndpointError(
            f"the stream from {base_url} was cut half-way, before its reply was finished; ask again"
        )


def read_object(text: str | bytes, base_url: str) -> dict[str, Any]:
    try:
        parsed = json.loads(text)
    except (ValueError, RecursionError) as error:
        seen = text if isinstance(text, str) else text.decode(errors="replace")
        raise EndpointError(
            f"{base_url} sent something that is not JSON: '{printable(seen)}'"
        ) from error
    if not isinstance(parsed, dict):
        raise EndpointError(f"{base_url} sent a {type(parsed).__name__} where an object was due")
    return parsed


def refusal(status: int, body: bytes, *, model: str, base_url: str) -> EndpointError:
    """What a status other than 200 means, and what to do about it."""
    text = body.decode(errors="replace")
    try:
        parsed = json.loads(text)
    except (ValueError, RecursionError):
        parsed = None
    reason = _reason(parsed) if isinstance(parsed, dict) else printable(text) or "no reason given"
    hint = _HINTS.get(status, "").format(model=printable(model))
    return EndpointError(f"{base_url} answered {status}: {reason}" + (f" ({hint})" if hint else ""))


def printable(text: str, limit: int = 300) -> str:
    """One line without control characters: a server's words go to a terminal."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text[: 4 * limit]).split())
    return line if len(line) <= limit else line[:limit] + "…"


def _reason(reply: Mapping[str, Any]) -> str:
    error = reply.get("error", reply.get("detail", reply))
    message = error.get("message", error) if isinstance(error, dict) else error
    return printable(str(message))


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _objects(value: Any) -> list[dict[str, Any]]:
    return [entry for entry in value if isinstance(entry, dict)] if isinstance(value, list) else []


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) else None
