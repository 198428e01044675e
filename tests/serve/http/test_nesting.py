"""What is nested more deeply than it can be read is refused by that rule, wherever it stands."""

import json
from typing import Any

import httpx
import pytest

from pharos.serve.http.parameters import MOST_NESTED

HEADERS = {"Content-Type": "application/json"}
CHAT = '"model": "tiny", "max_tokens": 2, "messages": [{"role": "user", "content": "x"}]'
FUNCTION = '{"name": "f", "parameters": %s}'
PLACES = {
    "response_format": (
        "v1/chat/completions",
        f'{{{CHAT}, "response_format": {{"type": "json_schema", "json_schema": '
        '{"name": "f", "schema": %s}}}',
    ),
    "tools": (
        "v1/chat/completions",
        f'{{{CHAT}, "tools": [{{"type": "function", "function": {FUNCTION}}}]}}',
    ),
    "chat_template_kwargs": (
        "v1/chat/completions",
        f'{{{CHAT}, "chat_template_kwargs": {{"a": %s}}}}',
    ),
    "structured_outputs": (
        "v1/completions",
        '{"model": "tiny", "prompt": "x", "structured_outputs": {"json": %s}}',
    ),
    "text": (
        "v1/responses",
        '{"model": "tiny", "input": "x", "text": {"format": {"type": "json_schema", '
        '"name": "f", "schema": %s}}}',
    ),
}


def schema(depth: int) -> str:
    """Written by hand: Python's own writer gives up on some of them."""
    return '{"items":' * (depth - 1) + "{}" + "}" * (depth - 1)


def post(running: Any, path: str, content: str) -> httpx.Response:
    return httpx.post(f"{running.url}/{path}", content=content, headers=HEADERS, timeout=600)


@pytest.mark.parametrize("name", PLACES)
def test_schemas_and_the_like_are_read_to_a_depth(running: Any, name: str) -> None:
    path, body = PLACES[name]
    for depth in (MOST_NESTED + 1, 400, 800):
        reply = post(running, path, body % schema(depth))
        assert reply.status_code == 400
        error = reply.json()["error"]
        assert f"levels deep; give at most {MOST_NESTED}" in error["message"]
        assert error["param"].startswith(name)


def test_a_schema_as_deep_as_may_be_is_obeyed(running: Any) -> None:
    path, body = PLACES["response_format"]
    assert post(running, path, body % schema(MOST_NESTED)).status_code == 200
    path, body = PLACES["tools"]
    required = body.replace('"tools"', '"tool_choice": "required", "tools"')
    assert post(running, path, required % schema(MOST_NESTED)).status_code == 200


@pytest.mark.parametrize(
    "constraint",
    [
        {"grammar": "root ::= " + "(" * 400 + '"a"' + ")" * 400},
        {"grammar": "start: " + "(" * 400 + '"a"' + ")" * 400},
        {"regex": "(" * 400 + "a" + ")" * 400},
        {"json": schema(400)},
    ],
)
def test_grammars_that_are_nested_too_deeply_are_told_so(
    running: Any, constraint: dict[str, str]
) -> None:
    asked = {"model": "tiny", "prompt": "x", "structured_outputs": constraint}
    reply = post(running, "v1/completions", json.dumps(asked))
    assert reply.status_code == 400
    assert "nested" in reply.json()["error"]["message"]
