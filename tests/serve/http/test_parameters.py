"""What is wrong with a body is told once, however often it is wrong."""

from typing import Any

import pytest
from pydantic import ValidationError

from pharos.serve.http.chat_schemas import ChatRequest, TokenizeRequest
from pharos.serve.http.errors import ApiError
from pharos.serve.http.parameters import (
    MOST_CHOICES,
    MOST_ENTRIES,
    MOST_NESTED,
    Body,
    StructuredOutputs,
)
from pharos.serve.http.responses_schemas import ResponsesRequest
from pharos.serve.http.schemas import (
    CompletionRequest,
    DetokenizeRequest,
    EmbeddingRequest,
    RerankRequest,
    UnloadAdapterRequest,
)

MANY = 10_000
ASKED: dict[str, Any] = {"model": "m", "prompt": "x"}
CHAT: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "x"}]}


def nested(depth: int) -> dict[str, Any]:
    """A schema of so many levels."""
    schema: dict[str, Any] = {}
    for _ in range(depth - 1):
        schema = {"items": schema}
    return schema


@pytest.mark.parametrize(
    ("body", "given"),
    [
        (CompletionRequest, {"model": "m", "prompt": [None] * MANY}),
        (CompletionRequest, ASKED | {"stop": [1] * MANY}),
        (CompletionRequest, ASKED | {"stop_token_ids": ["a"] * MANY}),
        (CompletionRequest, ASKED | {"logit_bias": dict.fromkeys(range(MOST_ENTRIES + 1), "a")}),
        (CompletionRequest, ASKED | {"structured_outputs": {"json": nested(MOST_NESTED + 1)}}),
        (CompletionRequest, ASKED | {str(number): 0 for number in range(MANY)}),
        (CompletionRequest, ASKED | {"structured_outputs": {"choice": [1] * MANY}}),
        (EmbeddingRequest, {"model": "m", "input": [[None] * MANY] * 2}),
        (RerankRequest, {"model": "m", "query": "x", "documents": [1] * MANY}),
        (DetokenizeRequest, {"tokens": [None] * MANY}),
        (ChatRequest, {"model": "m", "messages": [{}] * MANY}),
        (ChatRequest, {"model": "m", "messages": [{"role": "user", "content": [0] * MANY}]}),
        (ChatRequest, CHAT | {"tools": [{}] * MANY}),
        (ChatRequest, CHAT | {"documents": [{"a": 0}] * MANY}),
        (ResponsesRequest, {"model": "m", "input": [{}] * MANY}),
        (ResponsesRequest, {"model": "m", "input": "x", "include": ["a"] * MANY}),
        (TokenizeRequest, {"messages": []}),
        (UnloadAdapterRequest, {"lora_name": "a", "lora_int_id": 1}),
    ],
)
def test_few_errors_are_kept_of_many(body: type[Body], given: dict[str, Any]) -> None:
    with pytest.raises(ValidationError) as refused:
        body.model_validate(given)
    assert refused.value.error_count() < 20


def test_one_unknown_name_is_told_of_many() -> None:
    with pytest.raises(ValidationError) as refused:
        CompletionRequest.model_validate(ASKED | {"first": 0, "second": 0})
    assert [error["loc"] for error in refused.value.errors()] == [("first",)]


def test_choices_have_a_limit() -> None:
    choices = [str(number) for number in range(MOST_CHOICES + 1)]
    assert StructuredOutputs(choice=choices[1:]).to_grammar().kind == "choice"
    with pytest.raises(ApiError, match=f"has {len(choices)} texts; give at most {MOST_CHOICES}"):
        StructuredOutputs(choice=choices).to_grammar()
