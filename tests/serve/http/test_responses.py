import json
from typing import Any

import openai
import pytest

TOOL = {
    "type": "function",
    "name": "weather",
    "parameters": {
        "type": "object",
        "properties": {"city": {"enum": ["Rhodes"]}},
        "required": ["city"],
        "additionalProperties": False,
    },
}

FORMAT = {
    "type": "json_schema",
    "name": "s",
    "schema": {
        "type": "object",
        "properties": {"a": {"const": 1}},
        "required": ["a"],
        "additionalProperties": False,
    },
}


def asked(**more: Any) -> dict[str, Any]:
    return {"model": "tiny", "input": "Who feeds the gulls?", "max_output_tokens": 20} | more


def test_a_response_is_a_message(client: openai.OpenAI) -> None:
    response = client.responses.create(**asked(temperature=0, metadata={"a": "b"}))
    (message,) = response.output
    assert message.type == "message"
    assert response.output_text
    assert response.status == "incomplete"
    assert response.incomplete_details is not None
    assert response.incomplete_details.reason == "max_output_tokens"
    assert response.usage is not None
    assert response.usage.output_tokens == 20
    assert response.metadata == {"a": "b"}
    chat = client.chat.completions.create(
        model="tiny",
        messages=[{"role": "user", "content": "Who feeds the gulls?"}],
        max_tokens=20,
        temperature=0,
    )
    assert response.output_text == chat.choices[0].message.content


def test_a_stream_tells_the_response_from_its_beginning_to_its_end(client: openai.OpenAI) -> None:
    whole = client.responses.create(**asked(temperature=0))
    events = list(client.responses.create(**asked(temperature=0), stream=True))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    kinds = [event.type for event in events if event.type != "response.output_text.delta"]
    assert kinds == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.incomplete",
    ]
    deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert "".join(deltas) == whole.output_text
    last = events[-1]
    assert last.type == "response.incomplete"
    assert last.response.output_text == whole.output_text


def test_the_clients_own_stream_collects_it(client: openai.OpenAI) -> None:
    with client.responses.stream(**asked(), text={"format": FORMAT}) as stream:
        for _ in stream:
            pass
        final = stream.get_final_response()
    assert json.loads(final.output_text) == {"a": 1}


def test_a_function_is_called_and_its_result_read(client: openai.OpenAI) -> None:
    choice = {"type": "function", "name": "weather"}
    with_tools = asked(tools=[TOOL], tool_choice=choice, max_output_tokens=60)
    response = client.responses.create(**with_tools)
    (call,) = response.output
    assert call.type == "function_call"
    assert json.loads(call.arguments) == {"city": "Rhodes"}
    assert response.status == "completed"
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "sunny"}
    question = {"role": "user", "content": [{"type": "input_text", "text": "Well?"}]}
    history = [question, call.model_dump(exclude_none=True), result]
    assert client.responses.create(**asked(input=history, instructions="Be brief.")).output_text


def test_a_streamed_call_adds_up(client: openai.OpenAI) -> None:
    with_tools = asked(tools=[TOOL], tool_choice="required", max_output_tokens=200)
    events = list(client.responses.create(**with_tools, parallel_tool_calls=False, stream=True))
    done = [e for e in events if e.type == "response.function_call_arguments.done"]
    deltas = [e.delta for e in events if e.type == "response.function_call_arguments.delta"]
    assert "".join(deltas) == done[0].arguments
    assert json.loads(done[0].arguments) == {"city": "Rhodes"}
    assert events[-1].type == "response.completed"


def test_a_text_obeys_its_schema(client: openai.OpenAI) -> None:
    response = client.responses.create(**asked(text={"format": FORMAT}))
    assert json.loads(response.output_text) == {"a": 1}
    assert response.status == "completed"


def test_log_probabilities_are_included_where_they_are_asked_for(client: openai.OpenAI) -> None:
    included = asked(include=["message.output_text.logprobs"], top_logprobs=2)
    (message,) = client.responses.create(**included).output
    assert message.type == "message" and message.content[0].type == "output_text"
    logprobs = message.content[0].logprobs
    assert logprobs is not None
    assert {len(token.top_logprobs) for token in logprobs} == {2}


@pytest.mark.parametrize(
    ("given", "param"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"store": True}, "store"),
        ({"background": True}, "background"),
        ({"truncation": "auto"}, "truncation"),
        ({"reasoning": {"effort": "low"}}, "reasoning"),
        ({"tools": [{"type": "web_search"}]}, "tools[0]"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"input": []}, "input"),
        ({"include": ["file_search_call.results"]}, "include"),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(
    client: openai.OpenAI, given: dict[str, Any], param: str
) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.responses.create(**asked(**given))
    assert refused.value.param is not None and refused.value.param.startswith(param)
