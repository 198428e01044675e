"""The formats that data for fine-tuning comes in: one table, by the keys of a record.

A file is of one format. Which one follows from the keys of its records, and is told; where two
would do, or none, that is an error, and a recipe's `data.format` names the one that is meant.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

from pharos.core.errors import TrainingError
from pharos.data.conversations import (
    Continuation,
    Conversation,
    Example,
    Judgement,
    Preference,
    Text,
    Turn,
    as_given,
)
from pharos.data.messages import Unfit, flag, message_list, text, texts, tool_list
from pharos.data.records import Record

FormatName = Literal[
    "alpaca",
    "sharegpt",
    "messages",
    "prompt_completion",
    "text",
    "preference",
    "implicit_preference",
    "ranking",
    "alpaca_ranking",
    "unpaired",
    "unpaired_messages",
]
NOT_TEXT = ("images", "image", "videos", "audios")
"""Columns of what is seen or heard: an example that has any is refused, not cut to its words."""


class Format(NamedTuple):
    """A record of this format has the keys `needs`; it may have those in `takes`."""

    needs: frozenset[str]
    takes: frozenset[str]
    makes: type
    convert: Callable[[Record], Example]


@dataclass(frozen=True, kw_only=True, slots=True)
class Examples:
    """What was read, and the format that it was read as."""

    format: FormatName
    examples: Sequence[Example]


def read_examples(
    records: Sequence[Record], *, named: FormatName | None = None, where: str = "the data"
) -> Examples:
    """The records as examples, one each. Raises TrainingError naming the record: for keys that are
    of no format or of two, for a record of another format than the first, and for what is not as
    its format has it. `named` is the format if it is known; `where` is what the message calls the
    records."""
    name = named or detect(records[0], where=f"{where}: record 0")
    examples = []
    for number, record in enumerate(records):
        at = f"{where}: record {number}"
        if named is None and (found := detect(record, where=at)) != name:
            raise TrainingError(
                f"{at} is {found}, and record 0 is {name}; keep one format in a file, or name it "
                "with data.format"
            )
        examples.append(convert(record, name, where=at))
    return Examples(format=name, examples=examples)


def detect(record: Record, *, where: str) -> FormatName:
    """The format whose keys the record has. One that needs more of them goes before one that needs
    a part of these (`prompt, chosen, rejected` before `chosen, rejected`)."""
    keys = _keys(record)
    fits = {name: each.needs for name, each in FORMATS.items() if each.needs <= keys}
    found = [name for name, needs in fits.items() if not any(needs < n for n in fits.values())]
    if len(found) == 1:
        return found[0]
    shown = ", ".join(sorted(keys)) or "none"
    if found:
        raise TrainingError(
            f"{where} has the keys {shown}, which are those of {' and of '.join(found)}; say which "
            f"is meant: data.format: {found[0]}"
        )
    known = "; ".join(f"{', '.join(sorted(f.needs))} ({name})" for name, f in FORMATS.items())
    raise TrainingError(
        f"{where} has the keys {shown}, which are of no known format; rename them to one of: "
        f"{known}"
    )


def convert(record: Record, name: FormatName, *, where: str) -> Example:
    """A record as that format has it."""
    each = FORMATS[name]
    if missing := sorted(each.needs - _keys(record)):
        shown = ", ".join(sorted(_keys(record))) or "none"
        raise TrainingError(
            f"{where} has no {', '.join(missing)}, which {name} needs; it has {shown}"
        )
    if seen := next((key for key in NOT_TEXT if record.get(key)), None):
        raise TrainingError(f"{where} has {seen}, and only text is learned; leave it out")
    if lost := next((key for key in MEANINGFUL - each.takes - each.needs if record.get(key)), None):
        raise TrainingError(
            f"{where} has {lost}, which {name} has no place for; put it into the messages, or "
            "leave it out"
        )
    try:
        return each.convert(record)
    except Unfit as error:
        raise TrainingError(f"{where} ({name}): {error}") from error


def _keys(record: Record) -> set[str]:
    """Those with a value: a table has a column for each key that any record has."""
    return {key for key, value in record.items() if value is not None}


def _alpaca(record: Record) -> Conversation:
    answer = Turn(role="assistant", content=text(record, "output"))
    return Conversation(turns=(*_alpaca_prompt(record), answer))


def _alpaca_prompt(record: Record) -> list[Turn]:
    """The system's words, earlier rounds, and the instruction with its input on a line below."""
    turns = [Turn(role="system", content=text(record, "system"))] if record.get("system") else []
    for question, answer in _rounds(record):
        turns.append(Turn(role="user", content=question))
        turns.append(Turn(role="assistant", content=answer))
    parts = [text(record, "instruction"), text(record, "input") if record.get("input") else ""]
    return [*turns, Turn(role="user", content="\n".join(part for part in parts if part))]


def _rounds(record: Record) -> list[Sequence[str]]:
    rounds = record.get("history") or []
    for each in rounds:
        if not isinstance(each, list | tuple) or len(each) != 2 or not texts(each):
            raise Unfit(f"history has {str(each)[:60]!r}; each entry is [question, answer]")
    return list(rounds)


def _sharegpt(record: Record) -> Conversation:
    turns = message_list(record["conversations"], "conversations")
    if record.get("system"):
        turns = [Turn(role="system", content=text(record, "system")), *turns]
    return Conversation(turns=tuple(turns), tools=tool_list(record))


def _messages(record: Record) -> Conversation:
    turns = message_list(record["messages"], "messages")
    return Conversation(turns=tuple(turns), tools=tool_list(record))


def _prompt_completion(record: Record) -> Text:
    return _response(record, record["prompt"], record["completion"], "completion")


def _text(record: Record) -> Continuation:
    return Continuation(prompt="", completion=text(record, "text"))


def _preference(record: Record) -> Preference:
    return _pair(*(_response(record, record["prompt"], record[key], key) for key in SIDES))


def _implicit_preference(record: Record) -> Preference:
    chosen, rejected = record["chosen"], record["rejected"]
    if isinstance(chosen, str) and isinstance(rejected, str):
        end = _end_of_prompt(chosen, rejected)
        sides = [Continuation(prompt=s[:end], completion=s[end:]) for s in (chosen, rejected)]
        return _pair(*sides)
    turns, others = (message_list(record[key], key) for key in SIDES)
    count = _num_shared(turns, others)
    if not count:
        raise Unfit("chosen and rejected begin with different messages; give the prompt apart")
    return _pair(*(_conversation(record, s[:count], s[count:]) for s in (turns, others)))


def _end_of_prompt(chosen: str, rejected: str) -> int:
    """Where the texts part: up to a blank, so that no word is cut and both have something left."""
    end = _num_shared(chosen, rejected)
    while end and not (end < min(len(chosen), len(rejected)) and chosen[end].isspace()):
        end -= 1
    return end


def _num_shared(one: Sequence[object], other: Sequence[object]) -> int:
    """How many entries both begin with."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(one), len(other)))


def _ranking(record: Record) -> Preference:
    turns = _sharegpt(record).turns
    return _pair(*(_conversation(record, turns, _reply(record[key], key)) for key in SIDES))


def _alpaca_ranking(record: Record) -> Preference:
    turns = _alpaca_prompt(record)
    return _pair(*(_conversation(record, turns, _reply(record[key], key)) for key in SIDES))


def _unpaired(record: Record) -> Judgement:
    return Judgement(text=_prompt_completion(record), is_good=flag(record, "label"))


def _unpaired_messages(record: Record) -> Judgement:
    turns = message_list(record["messages"], "messages")
    if len(turns) < 2 or turns[-1].role != "assistant":
        raise Unfit("messages must end with the assistant's answer, which label is about")
    answered = _conversation(record, turns[:-1], turns[-1:])
    return Judgement(text=answered, is_good=flag(record, "label"))


def _response(record: Record, prompt: Any, response: Any, key: str) -> Text:
    """What is answered to a prompt. Two texts stay texts, without a template; a list of messages
    on either side makes it a conversation."""
    if isinstance(prompt, str) and isinstance(response, str):
        return Continuation(prompt=prompt, completion=response)
    if isinstance(prompt, str):
        before = [Turn(role="user", content=prompt)]
    else:
        before = message_list(prompt, "prompt")
    after = _reply(response, key)
    if after[: len(before)] == before:  # some files repeat the prompt in the response
        after = after[len(before) :]
    return _conversation(record, before, after)


def _reply(value: Any, key: str) -> list[Turn]:
    """A text, one message, or several."""
    if isinstance(value, str):
        return [Turn(role="assistant", content=value)]
    return message_list([value] if isinstance(value, Mapping) else value, key)


def _conversation(record: Record, before: Sequence[Turn], after: Sequence[Turn]) -> Conversation:
    if not any(turn.is_target for turn in after):
        raise Unfit("the response has no message of the assistant")
    return Conversation(turns=(*as_given(before), *after), tools=tool_list(record))


def _pair(chosen: Text, rejected: Text) -> Preference:
    if chosen == rejected:
        raise Unfit("chosen and rejected are the same; leave the record out")
    return Preference(chosen=chosen, rejected=rejected)


def _format(needs: str, takes: str, makes: type, convert: Callable[[Record], Example]) -> Format:
    return Format(frozenset(needs.split()), frozenset(takes.split()), makes, convert)


SIDES = ("chosen", "rejected")
FORMATS: Mapping[FormatName, Format] = {
    "alpaca": _format("instruction output", "input system history", Conversation, _alpaca),
    "sharegpt": _format("conversations", "system tools", Conversation, _sharegpt),
    "messages": _format("messages", "tools", Conversation, _messages),
    "prompt_completion": _format("prompt completion", "tools", Conversation, _prompt_completion),
    "text": _format("text", "", Continuation, _text),
    "preference": _format("prompt chosen rejected", "tools", Preference, _preference),
    "implicit_preference": _format("chosen rejected", "tools", Preference, _implicit_preference),
    "ranking": _format("conversations chosen rejected", "system tools", Preference, _ranking),
    "alpaca_ranking": _format(
        "instruction chosen rejected", "input system history", Preference, _alpaca_ranking
    ),
    "unpaired": _format("prompt completion label", "tools", Judgement, _unpaired),
    "unpaired_messages": _format("messages label", "tools", Judgement, _unpaired_messages),
}
MEANINGFUL = frozenset().union(*(each.takes for each in FORMATS.values()))
"""Columns that change what is learned, wherever they stand."""
assert set(FORMATS) == set(get_args(FormatName))
