import json
from typing import Any

import openai
import pytest
from pydantic import BaseModel

QUESTION = [{"role": "user", "content": "Who feeds the gulls?"}]
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather in a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"enum": ["Rhodes", "Pharos"]}, "place": {"$ref": "#/$defs/p"}},
            "required": ["city", "place"],
            "additionalProperties": False,
            "$defs": {"p": {"enum": ["harbour", "tower"]}},
        },
    },
}
CLOCK = {"type": "function", "function": {"name": "clock"}}
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Rhodes"}}\n</tool_call>'


def asked(**more: Any) -> dict[str, Any]:
    return {"model": "tiny", "messages": QUESTION, "max_tokens": 30, "seed": 1} | more


def said(chunks: Any) -> tuple[str, list[dict[str, Any]], str | None]:
    """The text, the calls and the finish reason of a stream with one choice."""
    text, calls, reason = "", [], None
    for chunk in chunks:
        for choice in chunk.choices:
            text += choice.delta.content or ""
            reason = choice.finish_reason or reason
            for call in choice.delta.tool_calls or ():
                if call.id is not None:
                    calls.append({"id": call.id, "name": call.function.name, "arguments": ""})
                calls[call.index]["arguments"] += call.function.arguments
    return text, calls, reason


# Conversations


def test_a_reply_has_a_message_and_what_it_took(client: openai.OpenAI) -> None:
    reply = client.chat.completions.create(**asked())
    message = reply.choices[0].message
    assert message.role == "assistant"
    assert message.content
    assert reply.usage is not None
    assert reply.usage.completion_tokens == 30
    again = client.chat.completions.create(**asked())
    assert again.choices[0].message.content == message.content
    assert again.usage is not None and again.usage.prompt_tokens_details is not None
    assert (again.usage.prompt_tokens_details.cached_tokens or 0) > 0


def test_a_stream_adds_up_to_the_reply(client: openai.OpenAI) -> None:
    reply = client.chat.completions.create(**asked())
    options = {"include_usage": True}
    chunks = list(client.chat.completions.create(**asked(), stream=True, stream_options=options))
    assert said(chunks)[0] == reply.choices[0].message.content
    assert said(chunks)[2] == reply.choices[0].finish_reason
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [chunk.usage for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
    assert chunks[-1].usage is not None and reply.usage is not None
    assert chunks[-1].usage.total_tokens == reply.usage.total_tokens
    assert {chunk.id for chunk in chunks} == {chunks[0].id}


def test_the_roles_reach_the_template(client: openai.OpenAI) -> None:
    messages = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "Who?"}]},
    ]
    body = {"messages": messages}
    told = client.post("/../tokenize", body=body, cast_to=dict[str, Any])
    text = client.post("/../detokenize", body={"tokens": told["tokens"]}, cast_to=dict[str, Any])
    assert text["prompt"] == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nWho?<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def test_the_last_message_can_be_gone_on_with(client: openai.OpenAI) -> None:
    messages = [*QUESTION, {"role": "assistant", "content": "The keep"}]
    body = {"messages": messages, "continue_final_message": True, "add_generation_prompt": False}
    told = client.post("/../tokenize", body=body, cast_to=dict[str, Any])
    text = client.post("/../detokenize", body={"tokens": told["tokens"]}, cast_to=dict[str, Any])
    assert text["prompt"].endswith("<|im_start|>assistant\nThe keep")


def test_log_probabilities_have_the_bytes_of_their_tokens(client: openai.OpenAI) -> None:
    reply = client.chat.completions.create(**asked(temperature=0), logprobs=True, top_logprobs=2)
    choice = reply.choices[0]
    assert choice.logprobs is not None and choice.logprobs.content is not None
    written = b"".join(bytes(token.bytes or ()) for token in choice.logprobs.content)
    assert written.decode(errors="replace") == choice.message.content
    for token in choice.logprobs.content:
        assert [top.logprob for top in token.top_logprobs] == sorted(
            (top.logprob for top in token.top_logprobs), reverse=True
        )
        assert token.logprob == token.top_logprobs[0].logprob
    chunks = client.chat.completions.create(**asked(temperature=0), logprobs=True, stream=True)
    streamed = [
        token.token
        for chunk in chunks
        for choice_ in chunk.choices
        if choice_.logprobs is not None
        for token in choice_.logprobs.content or ()
    ]
    assert streamed == [token.token for token in choice.logprobs.content]


# Formats


class Sighting(BaseModel):
    where: str
    gulls: int


def test_a_reply_can_be_any_object(client: openai.OpenAI) -> None:
    reply = client.chat.completions.create(
        **asked(max_tokens=400), response_format={"type": "json_object"}
    )
    if reply.choices[0].finish_reason == "stop":
        assert isinstance(json.loads(reply.choices[0].message.content or ""), dict)


def test_a_reply_obeys_its_schema(client: openai.OpenAI) -> None:
    schema = {
        "type": "object",
        "properties": {"where": {"enum": ["here", "there"]}, "ok": {"type": "boolean"}},
        "required": ["where", "ok"],
        "additionalProperties": False,
    }
    format_ = {"type": "json_schema", "json_schema": {"name": "s", "schema": schema}}
    reply = client.chat.completions.create(**asked(), response_format=format_)
    assert reply.choices[0].finish_reason == "stop"
    found = json.loads(reply.choices[0].message.content or "")
    assert found["where"] in ("here", "there") and found["ok"] in (True, False)


def test_the_clients_own_parser_reads_a_model_of_pydantic(client: openai.OpenAI) -> None:
    try:
        reply = client.chat.completions.parse(**asked(max_tokens=400), response_format=Sighting)
    except openai.LengthFinishReasonError:
        return  # random weights may write a long string
    assert isinstance(reply.choices[0].message.parsed, Sighting)


# Functions


def test_a_function_that_is_named_is_called(client: openai.OpenAI) -> None:
    choice = {"type": "function", "function": {"name": "weather"}}
    reply = client.chat.completions.create(**asked(tools=[WEATHER, CLOCK], tool_choice=choice))
    (call,) = reply.choices[0].message.tool_calls or ()
    assert call.type == "function" and call.function.name == "weather"
    arguments = json.loads(call.function.arguments)
    assert arguments["city"] in ("Rhodes", "Pharos") and arguments["place"] in ("harbour", "tower")
    assert reply.choices[0].finish_reason == "stop"
    streamed = client.chat.completions.create(
        **asked(tools=[WEATHER, CLOCK], tool_choice=choice), stream=True
    )
    text, calls, reason = said(streamed)
    assert (text, reason) == ("", "stop")
    assert [(c["name"], c["arguments"]) for c in calls] == [("weather", call.function.arguments)]


@pytest.mark.parametrize("parallel", [True, False])
def test_some_function_is_called_where_one_is_required(
    client: openai.OpenAI, parallel: bool
) -> None:
    with_tools = asked(
        tools=[WEATHER],
        tool_choice="required",
        parallel_tool_calls=parallel,
        max_tokens=300,
        temperature=0,
    )
    reply = client.chat.completions.create(**with_tools)
    if reply.choices[0].finish_reason == "length":  # random weights may call without end
        assert parallel
        return
    calls = reply.choices[0].message.tool_calls or []
    assert reply.choices[0].finish_reason == "tool_calls"
    assert len(calls) == 1 or parallel
    for call in calls:
        assert call.type == "function" and call.function.name == "weather"
        assert json.loads(call.function.arguments)["place"] in ("harbour", "tower")
    text, streamed, reason = said(client.chat.completions.create(**with_tools, stream=True))
    assert (text, reason) == ("", "tool_calls")
    assert [c["arguments"] for c in streamed] == [
        call.function.arguments for call in calls if call.type == "function"
    ]
    assert len({c["id"] for c in streamed}) == len(streamed)


def test_the_models_own_calls_are_read(client: openai.OpenAI) -> None:
    """The grammar stands for a model that was trained to write calls."""
    written = f"I look.\n{CALL}"
    extra = {"structured_outputs": {"choice": [written]}}
    with_tools = asked(tools=[WEATHER], max_tokens=200)
    reply = client.chat.completions.create(**with_tools, extra_body=extra)
    message = reply.choices[0].message
    assert message.content == "I look.\n"
    assert reply.choices[0].finish_reason == "tool_calls"
    (call,) = message.tool_calls or ()
    assert call.type == "function"
    assert json.loads(call.function.arguments) == {"city": "Rhodes"}
    streamed = client.chat.completions.create(**with_tools, extra_body=extra, stream=True)
    text, calls, reason = said(streamed)
    assert (text, reason) == ("I look.\n", "tool_calls")
    assert [(c["name"], json.loads(c["arguments"])) for c in calls] == [
        ("weather", {"city": "Rhodes"})
    ]


def test_a_strict_function_leaves_the_model_its_text(client: openai.OpenAI) -> None:
    strict = {"type": "function", "function": WEATHER["function"] | {"strict": True}}
    free = asked(temperature=0)
    held = asked(temperature=0, tools=[strict], parallel_tool_calls=False)
    reply = client.chat.completions.create(**held).choices[0]
    assert reply.message.tool_calls is None  # nothing trained these weights to call
    assert len(reply.message.content or "") > 10
    assert client.chat.completions.create(**free).choices[0].message.content


def test_without_a_choice_of_tools_what_looks_like_a_call_is_text(client: openai.OpenAI) -> None:
    extra = {"structured_outputs": {"choice": [CALL]}}
    reply = client.chat.completions.create(
        **asked(tools=[WEATHER], tool_choice="none", max_tokens=200), extra_body=extra
    )
    assert reply.choices[0].message.content == CALL
    assert reply.choices[0].message.tool_calls is None


def test_calls_and_their_results_are_part_of_the_conversation(client: openai.OpenAI) -> None:
    called = {"name": "weather", "arguments": '{"city": "Rhodes"}'}
    messages = [
        *QUESTION,
        {"role": "assistant", "tool_calls": [{"id": "1", "type": "function", "function": called}]},
        {"role": "tool", "tool_call_id": "1", "content": "sunny"},
    ]
    body = {"messages": messages, "tools": [WEATHER]}
    told = client.post("/../tokenize", body=body, cast_to=dict[str, Any])
    text = client.post("/../detokenize", body={"tokens": told["tokens"]}, cast_to=dict[str, Any])
    assert CALL in text["prompt"]
    assert "<tool_response>\nsunny\n</tool_response>" in text["prompt"]
    assert '"description": "The weather in a city."' in text["prompt"]
    client.chat.completions.create(**asked() | {"messages": messages})


# Refusals


@pytest.mark.parametrize(
    ("given", "param"),
    [
        ({"audio": {"voice": "x", "format": "mp3"}}, "audio"),
        ({"modalities": ["text", "audio"]}, "modalities"),
        ({"functions": [{"name": "f"}]}, "functions"),
        ({"reasoning_effort": "low"}, "reasoning_effort"),
        ({"store": True}, "store"),
        ({"metadata": {"a": "b"}}, "metadata"),
        ({"service_tier": "flex"}, "service_tier"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"max_tokens": 4, "max_completion_tokens": 5}, "max_completion_tokens"),
        ({"tool_choice": "auto"}, "tool_choice"),
        ({"tools": [WEATHER, WEATHER]}, "tools"),
        ({"tools": [CLOCK], "response_format": {"type": "json_object"}}, "response_format"),
        (
            {"tools": [CLOCK],
             "tool_choice": {"type": "function", "function": {"name": "weather"}}},
            "tool_choice",
        ),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"role": "king", "content": "x"}]}, "messages[0].role"),
        (
            {"messages": [{"role": "assistant", "tool_calls": [
                {"function": {"name": "f", "arguments": '{"a":' * 100_000}}]}]},
            "messages[0].tool_calls",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
            "messages[0].content",
        ),
        ({"response_format": {"type": "json_schema"}}, "response_format"),
        ({"response_format": {"type": "yaml"}}, "response_format.type"),
        ({"frequency_penalty": 3}, "frequency_penalty"),
        ({"temperature": "hot"}, "temperature"),
    ],
)  # fmt: skip
def test_what_cannot_be_honoured_is_refused_by_name(
    client: openai.OpenAI, given: dict[str, Any], param: str
) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(**asked(**given))
    assert refused.value.param is not None
    assert refused.value.param.startswith(param)
    assert refused.value.param.rpartition(".")[2] in refused.value.message


def test_a_schema_that_cannot_be_enforced_is_refused_by_its_feature(client: openai.OpenAI) -> None:
    schema = {"type": "object", "dependentSchemas": {"a": {"minProperties": 2}}}
    format_ = {"type": "json_schema", "json_schema": {"name": "s", "schema": schema}}
    with pytest.raises(openai.BadRequestError, match="dependentSchemas"):
        client.chat.completions.create(**asked(), response_format=format_)


def test_a_conversation_longer_than_the_context_is_refused(client: openai.OpenAI) -> None:
    long = [{"role": "user", "content": "gulls " * 4000}]
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(**asked(messages=long))
    assert refused.value.code == "context_length_exceeded"
