"""What fine-tuning learns from: conversations, texts that go on from a prompt, and judgements of
these.

Which words are to be learned is told turn by turn: what the assistant says, unless the data says
otherwise. `formats` makes these from records, `rendering` makes tokens of them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from pharos.core.nouns import Role


@dataclass(frozen=True, kw_only=True, slots=True)
class Turn:
    """What one says. Only the assistant's words can be learned; `is_learned: false` leaves them
    out too. `more` is what a template may know beside role and content (`tool_calls`, `name`)."""

    role: Role
    content: str
    is_learned: bool = True
    more: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_target(self) -> bool:
        return self.role == "assistant" and self.is_learned

    @property
    def message(self) -> dict[str, Any]:
        """As templates know it."""
        return {"role": self.role, "content": self.content, **self.more}


@dataclass(frozen=True, kw_only=True, slots=True)
class Conversation:
    """Turns, which a chat template makes one text of. `tools` describe the functions that the
    assistant may call."""

    turns: tuple[Turn, ...]
    tools: tuple[Mapping[str, Any], ...] = ()

    @property
    def messages(self) -> list[dict[str, Any]]:
        return [turn.message for turn in self.turns]


@dataclass(frozen=True, kw_only=True, slots=True)
class Continuation:
    """A text as it stands, without a template: `completion` is learned, `prompt` (maybe nothing)
    stands before it."""

    prompt: str
    completion: str


Text = Conversation | Continuation


@dataclass(frozen=True, kw_only=True, slots=True)
class Preference:
    """Two texts that begin alike, of which one is better. Only the responses are targets."""

    chosen: Text
    rejected: Text


@dataclass(frozen=True, kw_only=True, slots=True)
class Judgement:
    """A text, and whether its response is good."""

    text: Text
    is_good: bool


Example = Conversation | Continuation | Preference | Judgement


def as_given(turns: Sequence[Turn]) -> tuple[Turn, ...]:
    """The turns as what stands before a response: nothing of them is learned."""
    return tuple(replace(turn, is_learned=False) for turn in turns)
