import json
from typing import Any

import pytest

from pharos.data.tokenizer import Tokenizer
from pharos.data.train_tokenizer import TokenizerConfig, train_tokenizer
from pharos.serve.engine.grammar import GrammarCompiler, GrammarError
from pharos.serve.engine.request import Grammar
from pharos.serve.http.call_grammars import calls_schema, free_calls
from pharos.serve.http.chat_schemas import FunctionDefinition
from pharos.serve.http.errors import ApiError
from pharos.serve.http.tool_formats import FORMATS

WEATHER = FunctionDefinition(
    name="get-weather.now",
    strict=True,
    parameters={
        "type": "object",
        "properties": {"city": {"$ref": "#/$defs/city"}},
        "required": ["city"],
        "additionalProperties": False,
        "$defs": {"city": {"enum": ["Rhodes", "Pharos"]}},
    },
)
TREE = FunctionDefinition(
    name="grow",
    parameters={
        "type": "object",
        "properties": {"child": {"$ref": "#"}},
        "additionalProperties": False,
    },
)
RHODES = {"city": "Rhodes"}


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    special = ("[TOOL_CALLS]",)
    config = TokenizerConfig(vocab_size=300, special_tokens=special)
    return train_tokenizer(["the keeper of the light"] * 3, config)


@pytest.fixture(scope="module")
def compiler(tokenizer: Tokenizer) -> GrammarCompiler:
    return GrammarCompiler(tokenizer)


def allows(compiler: GrammarCompiler, tokenizer: Tokenizer, grammar: Grammar, text: str) -> bool:
    """Whether the whole text obeys the grammar."""
    state = compiler.compile(grammar).result().begin()
    ids = tokenizer.encode(text, add_special_tokens=False)
    if state.count_legal(ids) < len(ids):
        return False
    state.accept(ids)
    return state.is_accepting


def hermes(arguments: Any, name: str = WEATHER.name) -> str:
    return f"<tool_call>\n{json.dumps({'name': name, 'arguments': arguments})}\n</tool_call>"


def test_a_list_of_calls_keeps_the_references_of_each_schema(
    compiler: GrammarCompiler, tokenizer: Tokenizer
) -> None:
    schema = json.dumps(calls_schema([WEATHER, TREE], parallel=True))
    grammar = Grammar(kind="json_schema", text=schema)
    weather = '{"name":"get-weather.now","arguments":{"city":"Rhodes"}}'
    tree = '{"name":"grow","arguments":{"child":{"child":{}}}}'
    for text, is_allowed in (
        (f"[{weather}]", True),
        (f"[{weather},{tree}]", True),
        (f"[{weather.replace('Rhodes', 'Athens')}]", False),
        (f"[{tree.replace('{}', '3')}]", False),
        ("[]", False),
        ("hello", False),
    ):
        assert allows(compiler, tokenizer, grammar, text) is is_allowed, text
    one = Grammar(
        kind="json_schema", text=json.dumps(calls_schema([WEATHER, TREE], parallel=False))
    )
    assert allows(compiler, tokenizer, one, f"[{tree}]")
    assert not allows(compiler, tokenizer, one, f"[{tree},{tree}]")


@pytest.mark.parametrize("parallel", [True, False])
def test_a_hermes_text_is_free_until_it_calls(
    compiler: GrammarCompiler, tokenizer: Tokenizer, parallel: bool
) -> None:
    grammar = free_calls([WEATHER, TREE], FORMATS["hermes"], parallel=parallel, opener_id=None)
    for text, is_allowed in (
        ("", True),
        ("1 < 2, and <tool is a text", True),
        (f"I look.\n{hermes(RHODES)}", True),
        (f"{hermes(RHODES)}\n{hermes({'child': 1}, 'grow')} Done.", parallel),
        (hermes({"city": "Athens"}), False),
        (hermes({}, "explode"), False),
        ("<tool_call>\nnothing", False),
    ):
        assert allows(compiler, tokenizer, grammar, text) is is_allowed, text


@pytest.mark.parametrize("parallel", [True, False])
def test_a_llama_text_calls_from_its_beginning_or_not_at_all(
    compiler: GrammarCompiler, tokenizer: Tokenizer, parallel: bool
) -> None:
    grammar = free_calls([WEATHER], FORMATS["llama"], parallel=parallel, opener_id=None)
    call = json.dumps({"name": WEATHER.name, "parameters": RHODES})
    for text, is_allowed in (
        ("", True),
        ("Say {", True),
        (call, True),
        (f"{call}; {call}", parallel),
        (call.replace("Rhodes", "Athens"), False),
        ("{}", False),
    ):
        assert allows(compiler, tokenizer, grammar, text) is is_allowed, text


@pytest.mark.parametrize("parallel", [True, False])
def test_a_mistral_text_calls_behind_its_special_token(
    compiler: GrammarCompiler, tokenizer: Tokenizer, parallel: bool
) -> None:
    opener = tokenizer.token_id("[TOOL_CALLS]")
    grammar = free_calls([WEATHER], FORMATS["mistral"], parallel=parallel, opener_id=opener)
    call = json.dumps({"name": WEATHER.name, "arguments": RHODES})
    for text, is_allowed in (
        ("just text", True),
        (f"[TOOL_CALLS] [{call}]", True),
        (f"Well.[TOOL_CALLS][{call}, {call}]", parallel),
        (f"[TOOL_CALLS][{call.replace('Rhodes', 'Athens')}]", False),
        ("[TOOL_CALLS]", False),
    ):
        assert allows(compiler, tokenizer, grammar, text) is is_allowed, text


def test_what_a_schema_asks_and_nothing_enforces_is_refused(compiler: GrammarCompiler) -> None:
    old = WEATHER.model_copy(update={"parameters": {"properties": {"a": {"divisibleBy": 2}}}})
    with pytest.raises(ApiError, match=r"get-weather\.now: 'divisibleBy'"):
        free_calls([old], FORMATS["hermes"], parallel=True, opener_id=None)
    never = WEATHER.model_copy(update={"parameters": {"not": {"required": ["a"]}}})
    grammar = free_calls([never], FORMATS["hermes"], parallel=True, opener_id=None)
    with pytest.raises(GrammarError, match="not"):
        compiler.compile(grammar).result()
