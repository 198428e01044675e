"""Every format becomes what it says; whatever is not clear is an error with the record's number."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from pharos.core import TrainingError
from pharos.data.conversations import (
    Continuation,
    Conversation,
    Example,
    Judgement,
    Preference,
    Text,
    Turn,
)
from pharos.data.formats import FORMATS, detect, read_examples
from pharos.data.records import read_records

ASKED, ANSWERED = {"role": "user", "content": "Who?"}, {"role": "assistant", "content": "Ann."}
OTHER = {"role": "assistant", "content": "Bob."}
RECORDS: dict[str, dict[str, Any]] = {
    "alpaca": {"instruction": "Who?", "input": "", "output": "Ann."},
    "sharegpt": {
        "conversations": [{"from": "human", "value": "Who?"}, {"from": "gpt", "value": "Ann."}]
    },
    "messages": {"messages": [ASKED, ANSWERED]},
    "prompt_completion": {"prompt": [ASKED], "completion": [ANSWERED]},
    "text": {"text": "Ann lights it."},
    "preference": {"prompt": [ASKED], "chosen": [ANSWERED], "rejected": [OTHER]},
    "implicit_preference": {"chosen": [ASKED, ANSWERED], "rejected": [ASKED, OTHER]},
    "ranking": {
        "conversations": [{"from": "human", "value": "Who?"}],
        "chosen": {"from": "gpt", "value": "Ann."},
        "rejected": {"from": "gpt", "value": "Bob."},
    },
    "alpaca_ranking": {"instruction": "Who?", "chosen": "Ann.", "rejected": "Bob."},
    "unpaired": {"prompt": "Who?", "completion": " Ann.", "label": True},
    "unpaired_messages": {"messages": [ASKED, ANSWERED], "label": False},
}


def user(content: str, *, is_learned: bool = True) -> Turn:
    return Turn(role="user", content=content, is_learned=is_learned)


def assistant(content: str, *, is_learned: bool = True) -> Turn:
    return Turn(role="assistant", content=content, is_learned=is_learned)


PLAIN = Conversation(turns=(user("Who?"), assistant("Ann.")))
GIVEN = user("Who?", is_learned=False)
ANSWER = Conversation(turns=(GIVEN, assistant("Ann.")))
PAIR = Preference(chosen=ANSWER, rejected=Conversation(turns=(GIVEN, assistant("Bob."))))
EXPECTED: dict[str, Example] = {
    "alpaca": PLAIN,
    "sharegpt": PLAIN,
    "messages": PLAIN,
    "prompt_completion": ANSWER,
    "text": Continuation(prompt="", completion="Ann lights it."),
    "preference": PAIR,
    "implicit_preference": PAIR,
    "ranking": PAIR,
    "alpaca_ranking": PAIR,
    "unpaired": Judgement(text=Continuation(prompt="Who?", completion=" Ann."), is_good=True),
    "unpaired_messages": Judgement(text=ANSWER, is_good=False),
}


def read(*records: dict[str, Any], **options: Any) -> Sequence[Example]:
    return read_examples(records, **options).examples


def only(record: dict[str, Any], **options: Any) -> Any:
    (example,) = read(record, **options)
    return example


@pytest.mark.parametrize("name", FORMATS)
def test_each_format_is_known_by_its_keys_and_converted(name: str) -> None:
    found = read_examples([RECORDS[name]])
    assert found.format == name
    assert list(found.examples) == [EXPECTED[name]]


@pytest.mark.parametrize("name", FORMATS)
def test_a_column_that_other_records_have_makes_no_difference(name: str) -> None:
    record = {**dict.fromkeys(key for each in RECORDS.values() for key in each), **RECORDS[name]}
    assert detect(record, where="it") == name


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".parquet"])
def test_examples_come_from_files_of_any_kind(suffix: str, tmp_path: Path) -> None:
    path, records = tmp_path / f"chat{suffix}", [RECORDS["messages"]] * 3
    if suffix == ".parquet":
        parquet = pytest.importorskip("pyarrow.parquet")
        table = pytest.importorskip("pyarrow").Table.from_pylist(records)
        parquet.write_table(table, path)
    else:
        lines = "\n".join(map(json.dumps, records))
        path.write_text(lines if suffix == ".jsonl" else json.dumps(records))
    assert read(*read_records(path)) == [PLAIN] * 3


def test_alpaca_has_input_history_and_a_system() -> None:
    record = {
        "instruction": "Add.",
        "input": "1 and 2",
        "output": "3",
        "system": "Be brief.",
        "history": [["Hello", "Good day"]],
    }
    assert only(record).turns == (
        Turn(role="system", content="Be brief."),
        user("Hello"),
        assistant("Good day"),
        user("Add.\n1 and 2"),
        assistant("3"),
    )


def test_sharegpt_calls_tools() -> None:
    record = {
        "conversations": [
            {"from": "human", "value": "Light it."},
            {"from": "function_call", "value": '{"name": "light", "arguments": {"on": true}}'},
            {"from": "observation", "value": "done"},
            {"from": "gpt", "value": "It burns."},
        ],
        "tools": '[{"name": "light"}]',
    }
    conversation = only(record)
    assert [turn.role for turn in conversation.turns] == ["user", "assistant", "tool", "assistant"]
    assert conversation.turns[1].more["tool_calls"] == [
        {"type": "function", "function": {"name": "light", "arguments": {"on": True}}}
    ]
    assert conversation.tools == ({"name": "light"},)


@pytest.mark.parametrize("mark", [{"train": False}, {"weight": 0}, {"loss_weight": 0.0}])
def test_a_turn_can_be_left_out_of_what_is_learned(mark: dict[str, Any]) -> None:
    turns = only({"messages": [ASKED, {**ANSWERED, **mark}, ASKED, OTHER]}).turns
    assert [turn.is_target for turn in turns] == [False, False, False, True]


def test_the_content_of_a_message_may_be_in_parts() -> None:
    parts = [{"type": "text", "text": "An"}, {"type": "text", "value": "n."}]
    assert only({"messages": [ASKED, {"role": "assistant", "content": parts}]}) == PLAIN


def text_of(side: Text) -> tuple[str, str]:
    assert isinstance(side, Continuation)
    return side.prompt, side.completion


@pytest.mark.parametrize(
    ("chosen", "rejected", "prompt"),
    [
        ("Q: who? A: I like it", "Q: who? A: I hate it", "Q: who? A: I"),
        ("A: it lives", "A: it likes", "A: it"),
        ("A: yes", "A: yes, but", "A:"),
        ("yes", "no", ""),
    ],
)
def test_an_implicit_prompt_ends_before_a_word(chosen: str, rejected: str, prompt: str) -> None:
    pair = only({"chosen": chosen, "rejected": rejected})
    assert text_of(pair.chosen) == (prompt, chosen.removeprefix(prompt))
    assert text_of(pair.rejected) == (prompt, rejected.removeprefix(prompt))


def test_a_prompt_that_is_repeated_in_the_answers_stands_once() -> None:
    record = {"prompt": "Who?", "chosen": [ASKED, ANSWERED], "rejected": [ASKED, OTHER]}
    assert only(record) == PAIR
    assert only({"prompt": "Who?", "chosen": [ANSWERED], "rejected": [OTHER]}) == PAIR


def test_what_stands_before_a_response_is_not_learned() -> None:
    record = {"prompt": [ASKED, ANSWERED, ASKED], "completion": "Ann again."}
    assert [turn.is_target for turn in only(record).turns] == [False, False, False, True]


@pytest.mark.parametrize(
    ("record", "says"),
    [
        ({"question": "x"}, "record 0 has the keys question, which are of no known format"),
        ({}, "record 0 has the keys none"),
        (
            {"text": "x", **RECORDS["messages"]},
            "those of messages and of text; say which is meant: data.format: messages",
        ),
        ({"messages": []}, r"messages is \[\]; it must be a list of messages"),
        ({"messages": ["hi"]}, r"messages\[0\] is 'hi'; a message has role and content"),
        ({"messages": [{"role": "king", "content": ""}]}, r"the role 'king'; known are system"),
        ({"messages": [{"role": "user", "content": 3}]}, "the content 3; it must be a text"),
        ({"messages": [{**ANSWERED, "weight": 0.5}]}, "the weight 0.5; it must be 0 or 1"),
        ({"messages": [{**ANSWERED, "train": "no"}]}, "train 'no'; it must be true or false"),
        ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, "only {"),
        ({**RECORDS["messages"], "label": "good"}, "label is 'good'; it must be true or false"),
        ({**RECORDS["messages"], "images": ["a.png"]}, "has images, and only text is learned"),
        ({**RECORDS["messages"], "system": "x"}, "has system, which messages has no place for"),
        ({**RECORDS["sharegpt"], "tools": "{"}, "tools is '{', which is not JSON"),
        ({**RECORDS["sharegpt"], "tools": "1"}, "tools is 1; it must be a list of objects"),
        ({"conversations": [{"from": "function_call", "value": "[1]"}]}, "a call is"),
        ({"instruction": 1, "output": ""}, "instruction is 1; it must be a text"),
        ({**RECORDS["alpaca"], "history": [["a"]]}, r"each entry is \[question, answer\]"),
        ({"prompt": "x", "chosen": "y", "rejected": "y"}, "are the same; leave the record out"),
        ({"chosen": [ANSWERED], "rejected": [OTHER]}, "begin with different messages"),
        ({"prompt": [ASKED], "completion": [ASKED]}, "the response has no message of the assist"),
        ({"messages": [ASKED], "label": True}, "must end with the assistant's answer"),
    ],
)
def test_what_is_unclear_is_said_with_the_record(record: dict[str, Any], says: str) -> None:
    with pytest.raises(TrainingError, match=r"^chat\.jsonl: record 0") as caught:
        read(record, where="chat.jsonl")
    caught.match(says)


def test_a_file_is_of_one_format() -> None:
    with pytest.raises(TrainingError, match="record 1 is alpaca, and record 0 is messages"):
        read(RECORDS["messages"], RECORDS["alpaca"])


def test_a_format_that_is_named_is_the_one() -> None:
    record = {"text": "x", **RECORDS["alpaca"]}
    assert only(record, named="alpaca") == PLAIN
    assert only(record, named="text") == Continuation(prompt="", completion="x")
    with pytest.raises(TrainingError, match="has no messages, which messages needs; it has input"):
        only(record, named="messages")
