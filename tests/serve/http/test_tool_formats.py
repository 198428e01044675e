import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pharos.serve.http.tool_formats import FORMATS, FunctionCall, ToolCallReader, format_of

FUNCTIONS = {"weather", "add"}
ARGUMENTS = {"city": "Alexandria — ☀", "days": 3}


def read(format_name: str, text: str, cuts: list[int] = []) -> tuple[str, list[FunctionCall]]:  # noqa: B006
    """The text and the calls in `text`, which comes in pieces."""
    reader = ToolCallReader(FORMATS[format_name], FUNCTIONS)
    edges = sorted({0, len(text), *(min(cut, len(text)) for cut in cuts)})
    pieces = [text[a:b] for a, b in pairwise(edges)]
    found = [item for piece in pieces for item in reader.push(piece)] + list(reader.flush())
    texts = [item for item in found if isinstance(item, str)]
    return "".join(texts), [item for item in found if isinstance(item, FunctionCall)]


def call(name: str = "weather", **arguments: object) -> FunctionCall:
    return FunctionCall(name=name, arguments=json.dumps(arguments, ensure_ascii=False))


def written(format_name: str, name: str, arguments: object) -> str:
    hermes = json.dumps({"name": name, "arguments": arguments})
    return {
        "hermes": f"<tool_call>\n{hermes}\n</tool_call>",
        "mistral": f"[TOOL_CALLS] [{hermes}]",
        "llama": f"<|python_tag|>{json.dumps({'name': name, 'parameters': arguments})}",
    }[format_name]


@pytest.mark.parametrize("format_name", FORMATS)
@given(cuts=st.lists(st.integers(0, 100)))
def test_a_call_is_read_wherever_its_text_is_cut(format_name: str, cuts: list[int]) -> None:
    text = written(format_name, "weather", ARGUMENTS)
    assert read(format_name, text, cuts) == ("", [call(**ARGUMENTS)])


@pytest.mark.parametrize("format_name", ["hermes", "mistral"])
@given(cuts=st.lists(st.integers(0, 100)))
def test_text_before_a_call_is_passed_on(format_name: str, cuts: list[int]) -> None:
    text = "1 < 2, [see] " + written(format_name, "weather", {})
    assert read(format_name, text, cuts) == ("1 < 2, [see] ", [call()])


def test_several_calls_stand_one_after_the_other() -> None:
    calls = [call(city="A"), call("add", a=1)]
    one, two = (json.dumps({"name": c.name, "arguments": json.loads(c.arguments)}) for c in calls)
    named = 'weather[ARGS]{"city": "A"}[TOOL_CALLS]add[CALL_ID]x1[ARGS]{"a": 1}'
    for format_name, text in (
        ("hermes", f"<tool_call>{one}</tool_call>\n<tool_call>{two}</tool_call>\n"),
        ("mistral", f"[TOOL_CALLS][{one}, {two}]"),
        ("mistral", f"[TOOL_CALLS]{named}"),
        ("llama", f"{one}; {two}"),
    ):
        assert read(format_name, text) == ("", calls), text


@pytest.mark.parametrize("format_name", FORMATS)
@given(data=st.data(), cuts=st.lists(st.integers(0, 60)))
def test_no_text_that_is_not_a_call_is_lost(
    format_name: str, data: st.DataObject, cuts: list[int]
) -> None:
    parts = [
        "<tool_call>",
        "</tool_call>",
        "[TOOL_CALLS]",
        "<|python_tag|>",
        "{",
        "}",
        '"',
        "a",
        " ",
    ]
    text = "".join(data.draw(st.lists(st.sampled_from(parts), max_size=8)))
    assert read(format_name, text, cuts) == (text, [])


@pytest.mark.parametrize("format_name", FORMATS)
@pytest.mark.parametrize("arguments", [3, "not JSON", "[1]", None])
def test_what_has_no_arguments_is_text(format_name: str, arguments: object) -> None:
    text = written(format_name, "weather", arguments)
    assert read(format_name, text) == (text, [])


def test_a_function_that_was_not_offered_is_not_called() -> None:
    text = written("hermes", "delete_everything", {})
    assert read("hermes", text) == (text, [])


def test_a_text_in_the_middle_of_which_a_brace_stands_is_none_of_llamas_calls() -> None:
    text = 'Use {"name": "weather", "parameters": {}}'
    assert read("llama", text) == (text, [])


def test_nesting_without_end_is_text() -> None:
    text = "<tool_call>" + "[" * 100_000 + "</tool_call>"
    assert read("hermes", text) == (text, [])


def test_the_format_is_told_by_the_template() -> None:
    assert format_of("… [TOOL_CALLS] …").name == "mistral"
    assert format_of('… <tool_call> … "parameters" …').name == "hermes"
    assert format_of('{"name": …, "parameters": …}').name == "llama"
    assert format_of("{{ messages }}").name == "hermes"
