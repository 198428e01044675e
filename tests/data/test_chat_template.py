"""What a template renders is what transformers renders from it; the built-in ones write the formats
as published."""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pharos.core import Message, ModelError
from pharos.data.chat_template import BUILT_IN, ChatTemplate, template_sources
from pharos.data.tokenizer import Tokenizer
from pharos.data.train_tokenizer import TokenizerConfig, train_tokenizer

transformers = pytest.importorskip("transformers")

SPECIAL = ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|im_start|>", "<|im_end|>")
CHAT = (
    Message(role="system", content="Be brief."),
    Message(role="user", content=" Where is the lamp? "),
    Message(role="assistant", content="In the tower. "),
    Message(role="user", content="Who lights it?"),
)
TOOLS = [{"type": "function", "function": {"name": "light", "parameters": {"é": ["<a>", 1.5]}}}]


@cache
def tokenizer() -> Tokenizer:
    texts = ["the keeper lights the lamp in the tower"] * 9
    config = TokenizerConfig(kind="unigram", vocab_size=310, special_tokens=SPECIAL)
    return train_tokenizer(texts, config)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    tokenizer().save(folder)
    return folder


@pytest.fixture(scope="module")
def reference(folder: Path) -> Any:
    return transformers.AutoTokenizer.from_pretrained(folder)


def as_dicts(messages: Sequence[Message]) -> list[dict[str, str]]:
    return [{"role": message.role, "content": message.content} for message in messages]


def rendered(source: str, messages: Sequence[Message] = CHAT, **values: Any) -> str:
    template = ChatTemplate(source, {"bos_token": "<s>", "eos_token": "</s>"}, name="T")
    return template.render(messages, **values)


LLAMA_3 = (
    "<s><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\nWhere is the lamp?<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\nIn the tower.<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\nWho lights it?<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\n"
)
CHATML = (
    "<|im_start|>system\nBe brief.<|im_end|>\n"
    "<|im_start|>user\n Where is the lamp? <|im_end|>\n"
    "<|im_start|>assistant\nIn the tower. <|im_end|>\n"
    "<|im_start|>user\nWho lights it?<|im_end|>\n"
    "<|im_start|>assistant\n"
)
MISTRAL = (
    "<s>[INST] Be brief.\n\n Where is the lamp?  [/INST] In the tower.</s>"
    "[INST] Who lights it? [/INST]"
)
ALPACA = (
    "<s>Be brief.\n\n"
    "### Instruction:\n Where is the lamp? \n\n### Response:\nIn the tower. </s>\n\n"
    "### Instruction:\nWho lights it?\n\n### Response:\n"
)


@pytest.mark.parametrize(
    ("name", "expected"),
    [("llama-3", LLAMA_3), ("chatml", CHATML), ("mistral", MISTRAL), ("alpaca", ALPACA)],
)
def test_a_built_in_template_writes_the_published_format(name: str, expected: str) -> None:
    assert ChatTemplate.built_in(name, tokenizer()).render(CHAT) == expected


def test_alpaca_introduces_an_instruction_as_in_its_training() -> None:
    text = ChatTemplate.built_in("alpaca", tokenizer()).render(CHAT[3:])
    assert text == (
        "<s>Below is an instruction that describes a task. Write a response that appropriately "
        "completes the request.\n\n### Instruction:\nWho lights it?\n\n### Response:\n"
    )


@pytest.mark.parametrize("name", BUILT_IN)
@settings(max_examples=30)
@given(contents=st.lists(st.text(max_size=20), min_size=1, max_size=5), prompt=st.booleans())
def test_a_built_in_template_renders_as_in_transformers(
    name: str, contents: list[str], prompt: bool, reference: Any
) -> None:
    turns = [
        Message(role="user" if i % 2 == 0 else "assistant", content=text)
        for i, text in enumerate(contents)
    ]
    template = ChatTemplate.built_in(name, tokenizer())
    for messages in (turns, [CHAT[0], *turns]):
        assert template.render(messages, add_generation_prompt=prompt) == (
            reference.apply_chat_template(
                as_dicts(messages),
                chat_template=template.source,
                add_generation_prompt=prompt,
                tokenize=False,
            )
        )


@pytest.mark.parametrize("name", BUILT_IN)
def test_the_text_begins_with_one_bos_when_encoded_without_special_tokens(
    name: str, reference: Any
) -> None:
    template = ChatTemplate.built_in(name, tokenizer())
    ids = tokenizer().encode(template.render(CHAT), add_special_tokens=False)
    assert ids.count(tokenizer().bos_id or -1) == (0 if name == "chatml" else 1)
    expected = reference.apply_chat_template(
        as_dicts(CHAT),
        chat_template=template.source,
        add_generation_prompt=True,
        return_dict=False,
    )
    assert ids == expected


CONSTRUCTS = Path(__file__).parent / "chat_templates"
"""What the templates of models in use are made of, a kind of thing in each file."""


@pytest.mark.parametrize("path", sorted(CONSTRUCTS.glob("*.jinja")), ids=lambda path: path.stem)
def test_what_templates_are_made_of_renders_as_in_transformers(path: Path, reference: Any) -> None:
    source = path.read_text(encoding="utf-8")
    documents = [{"title": "t", "text": "x"}]
    names = {f"{role}_token": token for role, token in tokenizer().special_tokens.items()}
    template = ChatTemplate(source, names)
    text = template.render(
        CHAT, tools=TOOLS, documents=documents, variables={"enable_thinking": False}
    )
    assert text == reference.apply_chat_template(
        as_dicts(CHAT),
        chat_template=source,
        tools=TOOLS,
        documents=documents,
        enable_thinking=False,
        add_generation_prompt=True,
        tokenize=False,
    )


def test_the_date_is_today_s() -> None:
    assert rendered("{{ strftime_now('%Y') }}") in (
        str(datetime.now().year),
        str(datetime.now().year - 1),
    )


def test_messages_may_carry_more_than_role_and_content() -> None:
    call: Mapping[str, Any] = {"role": "assistant", "content": None, "tool_calls": [{"name": "f"}]}
    source = "{{ messages[1].tool_calls[0].name }}{{ messages[1].content is none }}"
    template = ChatTemplate(source, {})
    assert template.render([CHAT[1], call]) == "fTrue"


def test_a_template_never_meets_an_object_with_methods_of_its_own() -> None:
    with pytest.raises(ValueError, match="was given a PosixPath"):
        rendered("{{ x }}", variables={"x": Path("/")})


def test_no_messages_are_refused() -> None:
    with pytest.raises(ValueError, match="no messages"):
        rendered("x", [])


def test_what_a_template_says_of_the_messages_is_passed_on() -> None:
    with pytest.raises(ModelError, match=r"T refuses these messages: only user, please"):
        rendered("{{ raise_exception('only user, please') }}")
    with pytest.raises(ModelError, match="message 2 is of the role user"):
        ChatTemplate.built_in("mistral", tokenizer()).render([CHAT[1], CHAT[3]])
    with pytest.raises(ModelError, match="no place for a message of the role tool"):
        tool = Message(role="tool", content="x")
        ChatTemplate.built_in("alpaca", tokenizer()).render([CHAT[1], tool])


def test_a_mistake_in_a_template_is_told_with_its_line() -> None:
    with pytest.raises(ModelError, match=r"T is not valid: line 2: "):
        rendered("a\n{% if %}")
    with pytest.raises(ModelError, match=r"T failed on these messages \(UndefinedError: "):
        rendered("{{ messages[7].content.x }}")


def test_an_unknown_built_in_template_names_the_known() -> None:
    with pytest.raises(ValueError, match="choose from alpaca, chatml, llama-3, mistral"):
        ChatTemplate.built_in("llama", tokenizer())


def test_a_tokenizer_without_bos_has_none_in_its_text() -> None:
    bare = Tokenizer(tokenizer().backend)
    assert ChatTemplate.built_in("llama-3", bare).render(CHAT[3:]).startswith("<|start_header_id|>")


def test_templates_are_found_in_every_file_that_may_hold_them(tmp_path: Path) -> None:
    assert template_sources(tmp_path) == {}
    config = tmp_path / "tokenizer_config.json"
    config.write_text(json.dumps({"chat_template": "one"}))
    assert template_sources(tmp_path) == {"default": "one"}
    several = [{"name": "default", "template": "one"}, {"name": "tool_use", "template": "two"}]
    config.write_text(json.dumps({"chat_template": several}))
    assert template_sources(tmp_path) == {"default": "one", "tool_use": "two"}
    (tmp_path / "chat_template.jinja").write_text("newer")
    (tmp_path / "additional_chat_templates").mkdir()
    (tmp_path / "additional_chat_templates" / "rag.jinja").write_text("three")
    assert template_sources(tmp_path) == {"default": "newer", "tool_use": "two", "rag": "three"}
    loaded = ChatTemplate.load(tmp_path, tokenizer(), variant="rag")
    assert loaded.render(CHAT) == "three"


@pytest.mark.parametrize("value", [5, ["x"], [{"name": "default"}], {"default": "x"}, [[]]])
def test_a_template_of_the_wrong_type_is_an_error_of_its_file(tmp_path: Path, value: Any) -> None:
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": value}))
    with pytest.raises(ModelError, match=r"tokenizer_config\.json: chat_template must be"):
        template_sources(tmp_path)


def test_a_model_without_a_template_says_what_there_is(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no chat template 'default', none; .*chatml"):
        ChatTemplate.load(tmp_path, tokenizer())
