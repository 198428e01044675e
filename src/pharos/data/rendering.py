"""From a conversation to tokens, and which of them are to be learned.

A chat template makes one text of a conversation. What the assistant says in it, to the token that
ends its turn, is learned; the rest is read. Where that stands is told by the template itself, if it
has `{% generation %}` markers; else by rendering the conversation up to each answer, without it and
with it: the answer is what the second text has more than the first.

Training and answering see the same tokens. The text is encoded as a whole, as a prompt is; only
where a token would reach across the beginning of an answer are the two sides encoded apart, since
a prompt ends there. Labels follow from places in the text, never from ids: the token that ends a
turn is learned also where padding has the same id.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pharos.core.errors import ModelError, TrainingError
from pharos.data.chat_template import BUILT_IN, ChatTemplate
from pharos.data.conversations import Continuation, Conversation, Text, Turn
from pharos.data.examples import IGNORED
from pharos.data.tokenizer import Tokenizer

Span = tuple[int, int]
"""Half-open, in characters of the rendered text."""
PROBE = Conversation(
    turns=(Turn(role="user", content="a"), Turn(role="assistant", content="b")),
)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Rendered:
    """`ids`, and `labels` beside them: the id itself where it is learned, else `IGNORED`.
    `num_cut` tokens at the end were more than there is room for."""

    ids: NDArray[np.int32]
    labels: NDArray[np.int32]
    num_cut: int

    @property
    def num_learned(self) -> int:
        return int(np.count_nonzero(self.labels != IGNORED))


class TooLongError(TrainingError):
    """The first answer begins behind `max_tokens`."""


@dataclass(frozen=True, slots=True)
class _Tokens:
    ids: list[int]
    places: list[Span]

    def __add__(self, other: "_Tokens") -> "_Tokens":
        return _Tokens(self.ids + other.ids, self.places + other.places)


class Renderer:
    """Renders with one tokenizer and one template (None: there are texts only, no conversations).

    `end_id` is the token that ends the assistant's turns: whoever generates must stop there. Raises
    TrainingError for a template whose turns end in no token of their own."""

    def __init__(
        self, tokenizer: Tokenizer, template: ChatTemplate | None, *, max_tokens: int
    ) -> None:
        self.tokenizer, self.template, self.max_tokens = tokenizer, template, max_tokens
        self.end_id = tokenizer.eos_id
        if template is not None:
            self.end_id = self._end_of(template)

    def render(self, text: Text, *, where: str = "the example") -> Rendered:
        """Raises TrainingError naming the example: for one of which nothing is learned, and for one
        whose template does not show what the assistant said."""
        try:
            tokens, spans = self._tokens(text)
            learned = self._learned(tokens, spans)
        except (ModelError, TrainingError) as error:
            raise TrainingError(f"{where}: {error}") from error
        ids = np.array(tokens.ids, dtype=np.int32)
        labels = np.full(len(ids), IGNORED, dtype=np.int32)
        labels[learned] = ids[learned]
        self._check(ids, labels, where)
        room = self.max_tokens
        return Rendered(ids=ids[:room], labels=labels[:room], num_cut=max(0, len(ids) - room))

    def _tokens(self, text: Text) -> tuple[_Tokens, list[Span]]:
        if isinstance(text, Continuation):
            return self._continuation(text)
        return self._conversation(text)

    def _continuation(self, text: Continuation) -> tuple[_Tokens, list[Span]]:
        """`bos` if the tokenizer begins with it, the texts, and `eos`."""
        eos = self.tokenizer.eos_id
        if eos is None:
            raise TrainingError(
                "the tokenizer has no eos token, so no end could be learned; name one as eos_token "
                "in tokenizer_config.json"
            )
        whole = text.prompt + text.completion
        span = (len(text.prompt), len(whole))
        tokens = self._encoded(whole, [span[0]])
        bos = self.tokenizer.bos_id
        begins = self.tokenizer.encode("")[:1] == [bos] and tokens.ids[:1] != [bos]
        before = _Tokens([bos], [(-1, -1)]) if begins and bos is not None else _Tokens([], [])
        return before + tokens + _Tokens([eos], [(len(whole), len(whole) + 1)]), [
            (span[0], span[1] + 1)
        ]

    def _conversation(self, conversation: Conversation) -> tuple[_Tokens, list[Span]]:
        template = self.template
        if template is None:
            raise TrainingError(
                "a conversation needs a chat template; take a model that has one, or name one with "
                f"data.template: {', '.join(BUILT_IN)}, or a file"
            )
        _check_is_told(conversation, template)
        text = template.render(
            conversation.messages,
            add_generation_prompt=False,
            tools=list(conversation.tools) or None,
        )
        spans = _marked(template, conversation, text) if template.has_markers else []
        if not template.has_markers:
            spans = _by_prefixes(template, conversation, text)
        return self._encoded(text, [start for start, _ in spans]), spans

    def _encoded(self, text: str, cuts: Sequence[int]) -> _Tokens:
        """The tokens of a text, encoded in parts where one would reach across a cut."""
        encoding = self.tokenizer.backend.encode(text, add_special_tokens=False)
        places: list[Span] = encoding.offsets
        crossed = [cut for cut in cuts if any(start < cut < end for start, end in places)]
        if not crossed:
            return _Tokens(encoding.ids, places)
        tokens = _Tokens([], [])
        for begin, end in pairwise([0, *crossed, len(text)]):
            part = self.tokenizer.backend.encode(text[begin:end], add_special_tokens=False)
            shifted = [(start + begin, stop + begin) for start, stop in part.offsets]
            tokens += _Tokens(part.ids, shifted)
        return tokens

    def _learned(self, tokens: _Tokens, spans: Sequence[Span]) -> list[int]:
        """The places of the tokens that are learned: those within a span, up to the one that ends
        the turn. (Templates go on with a line break, which is not said any more, and may be one
        token with what follows.)"""
        found: list[int] = []
        starts = [start for start, _ in tokens.places]
        for begin, end in spans:
            first, last = (int(np.searchsorted(starts, place)) for place in (begin, end))
            while last > first and tokens.places[last - 1][1] > end:
                last -= 1
            found += range(first, self._end_of_turn(tokens, first, last))
        return found

    def _end_of_turn(self, tokens: _Tokens, first: int, last: int) -> int:
        """Behind the last token of a turn, `first` to `last`. Markers may leave its end out."""
        ends = {self.end_id, *self.tokenizer.eos_ids}
        if (found := self._last_of(ends, tokens, first, last)) is not None:
            return found + 1
        if last < len(tokens.ids) and tokens.ids[last] in ends:
            return last + 1
        if (found := self._last_of(self.tokenizer.special_ids, tokens, first, last)) is not None:
            return found + 1
        name = "the text" if self.template is None else self.template.name
        raise TrainingError(
            f"{name} ends the assistant's turn with {self._shown(tokens.ids[first:last])[-20:]!r}, "
            "in which no special token of the tokenizer is the last, so no end could be learned; "
            "take a template whose tokens the tokenizer has (alpaca and mistral need only eos), or "
            "name them as model.new_tokens, and the model learns them"
        )

    def _last_of(
        self, ids: Collection[int | None], tokens: _Tokens, first: int, last: int
    ) -> int | None:
        """The last token that is one of `ids`, if nothing but blanks follows."""
        found = next((i for i in reversed(range(first, last)) if tokens.ids[i] in ids), None)
        if found is None or self._shown(tokens.ids[found + 1 : last]).strip():
            return None
        return found

    def _end_of(self, template: ChatTemplate) -> int:
        tokens, spans = self._conversation(PROBE)
        learned = self._learned(tokens, spans)
        if not learned:
            raise TrainingError(
                f"{template.name} has {{% generation %}} markers, and none around an answer; mend "
                "it, or take a built-in template"
            )
        return tokens.ids[learned[-1]]

    def _shown(self, ids: Sequence[int]) -> str:
        return self.tokenizer.decode(ids, skip_special=False)

    def _check(self, ids: NDArray[np.int32], labels: NDArray[np.int32], where: str) -> None:
        bos = self.tokenizer.bos_id
        if bos is not None and ids[:2].tolist() == [bos, bos] and bos not in self.tokenizer.eos_ids:
            raise TrainingError(
                f"{where} begins with two {self.tokenizer.token(bos)}: the text has one, and the "
                "template writes another; leave it out of the text"
            )
        learned = np.flatnonzero(labels != IGNORED)
        if not len(learned):
            raise TrainingError(
                f"{where} has nothing to learn: no message of the assistant, or all of them with "
                "train: false; leave the record out, or let it train"
            )
        if learned[0] >= self.max_tokens:
            raise TooLongError(
                f"{where} has nothing to learn within max_tokens {self.max_tokens}: its first "
                f"answer begins at token {learned[0]} of {len(ids)}; make max_tokens larger, "
                "leave the record out, or all such with data.too_long: leave_out"
            )


def _marked(template: ChatTemplate, conversation: Conversation, text: str) -> list[Span]:
    """By the template's own markers, those of the turns that are learned."""
    marked, spans = template.generations(
        conversation.messages, tools=list(conversation.tools) or None
    )
    if marked != text:
        raise TrainingError(
            f"{template.name} writes another text where its {{% generation %}} markers are asked "
            "for; keep them outside of filters such as trim"
        )
    turns = [turn for turn in conversation.turns if turn.role == "assistant"]
    if all(turn.is_learned for turn in turns):
        return spans
    if len(spans) != len(turns):
        raise TrainingError(
            f"{template.name} has {len(spans)} {{% generation %}} parts for {len(turns)} messages "
            "of the assistant, so those with train: false cannot be told; let them all train"
        )
    return [span for span, turn in zip(spans, turns, strict=True) if turn.is_learned]


def _by_prefixes(template: ChatTemplate, conversation: Conversation, text: str) -> list[Span]:
    """By what each answer adds to the text before it."""
    tools: Any = list(conversation.tools) or None
    messages, spans = conversation.messages, []
    for number, turn in enumerate(conversation.turns):
        if not turn.is_target:
            continue
        if number == 0:
            raise TrainingError("the assistant speaks first; let the user, or the system, begin")
        before = template.render(messages[:number], tools=tools)
        after = text
        if number + 1 < len(messages):
            after = template.render(
                messages[: number + 1], add_generation_prompt=False, tools=tools
            )
        if not after.startswith(before) or not text.startswith(after):
            raise TrainingError(_mismatch(template, number, before, after, text))
        spans.append((len(before), len(after)))
    return spans


def _mismatch(template: ChatTemplate, number: int, before: str, after: str, text: str) -> str:
    """Where what the model would be asked differs from what it is shown here."""
    one, other = (before, after) if not after.startswith(before) else (after, text)
    at = next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), len(other))
    return (
        f"{template.name} writes message {number} otherwise when it is answered "
        f"({one[at : at + 30]!r}) than when more follows ({other[at : at + 30]!r}); take a "
        "template with {% generation %} markers, or give the earlier answers train: false"
    )


def _check_is_told(conversation: Conversation, template: ChatTemplate) -> None:
    """What a template has no word for would be left out without notice."""
    for key, is_there in {
        "tools": bool(conversation.tools),
        "tool_calls": any("tool_calls" in turn.more for turn in conversation.turns),
    }.items():
        if is_there and key not in template.source:
            raise TrainingError(
                f"the conversation has {key}, which {template.name} does not write; take a "
                "template that does, or leave them out"
            )
