"""What requests have in common: their parameters, each honoured or refused by name.

A body that holds a name nobody knows is refused, and so is a known parameter that is not honoured,
unless its value asks for nothing (`store: false`).
"""

import json
import secrets
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, TypeVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PrivateAttr,
    model_validator,
)
from pydantic_core import PydanticCustomError

from pharos.core import SamplingParams
from pharos.serve.engine.request import Grammar
from pharos.serve.http.errors import ApiError

MAX_SEED = 2**63 - 1
MOST_STOP = 16
MOST_ENTRIES = 1 << 16
MOST_CHOICES = 1 << 12
MOST_NESTED = 100
"""Python and the libraries that read JSON follow it a few levels more: a schema may be put into
another, or into a template's text."""
DEFAULT_TEMPERATURE = 1.0
K = TypeVar("K")
V = TypeVar("V")


def _not_too_many(value: Any) -> Any:
    if isinstance(value, dict) and len(value) > MOST_ENTRIES:
        message = "it has {given} entries; give at most {most}"
        told = {"given": len(value), "most": MOST_ENTRIES}
        raise PydanticCustomError("too_many_entries", message, told)
    return value


def _not_too_deep(value: Any) -> Any:
    if (depth := _depth(value)) > MOST_NESTED:
        message = "it is nested {given} levels deep; give at most {most}"
        raise PydanticCustomError(
            "nested_too_deeply", message, {"given": depth, "most": MOST_NESTED}
        )
    return value


def _depth(value: Any) -> int:
    """How many lists and objects are within each other."""
    depth, level = 0, [value]
    while level := [part for part in level if isinstance(part, list | dict)]:
        level = [inner for part in level for inner in _inside(part)]
        depth += 1
    return depth


def _inside(part: list[Any] | dict[str, Any]) -> Iterable[Any]:
    return part.values() if isinstance(part, dict) else part


Items = Annotated[list[V], Field(fail_fast=True)]
"""Of what is wrong with a list, the first is told: a body may have millions of things that are, and
a kilobyte is kept of each that is told."""
Entries = Annotated[dict[K, V], BeforeValidator(_not_too_many)]
"""No more of them than could all be wrong."""
Nested = Annotated[dict[str, Any], BeforeValidator(_not_too_deep)]
"""Of any form, but not so deep that what reads it gives up."""


class Refused(NamedTuple):
    """A parameter that is not honoured. `harmless` are values that ask for nothing."""

    why: str
    harmless: Sequence[Any] = ()


class Body(BaseModel):
    """A request's JSON. Null stands for what is not given."""

    model_config = ConfigDict(extra="forbid")
    REFUSED: ClassVar[Mapping[str, Refused]] = {}

    @model_validator(mode="before")
    @classmethod
    def _without_refused(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        given = {name: value for name, value in data.items() if value is not None}
        known = {field.alias or name for name, field in cls.model_fields.items()} | {*cls.REFUSED}
        for name in [name for name in given if name not in known][1:]:
            del given[name]  # one that is unknown is enough to be told
        for name in given.keys() & cls.REFUSED.keys():
            if given[name] not in cls.REFUSED[name].harmless:
                raise refusal(name, cls.REFUSED[name].why)
            del given[name]
        return given


def refusal(param: str, why: str) -> PydanticCustomError:
    message = "{param} is not supported: {why}"
    return PydanticCustomError("unsupported_parameter", message, {"param": param, "why": why})


class RequestBody(Body):
    """One that is a request of its own, and knows when it came, by the monotonic clock."""

    _arrived_s: float = PrivateAttr(default_factory=time.monotonic)

    @property
    def arrived_s(self) -> float:
        return self._arrived_s


class StreamOptions(Body):
    REFUSED: ClassVar[Mapping[str, Refused]] = {
        "include_obfuscation": Refused("nothing is padded", (False,))
    }

    include_usage: bool = False


class StructuredOutputs(Body):
    """vLLM's: one of them says what the text must obey."""

    json_: Annotated[Nested | str | None, Field(alias="json")] = None
    json_object: bool | None = None
    regex: str | None = None
    choice: Items[str] | None = None
    grammar: str | None = None

    def to_grammar(self) -> Grammar:
        if len(self.choice or ()) > MOST_CHOICES:
            raise ApiError(
                f"structured_outputs.choice has {len(self.choice or ())} texts; give at most "
                f"{MOST_CHOICES}, or a regex or grammar that describes them",
                param="structured_outputs.choice",
            )
        asked = [
            _schema_grammar(self.json_) if self.json_ is not None else None,
            Grammar(kind="json_object") if self.json_object else None,
            Grammar(kind="regex", text=self.regex) if self.regex is not None else None,
            Grammar(kind="choice", text=json.dumps(self.choice)) if self.choice else None,
            _written_grammar(self.grammar) if self.grammar is not None else None,
        ]
        given = [grammar for grammar in asked if grammar is not None]
        if len(given) != 1:
            raise ApiError(
                f"structured_outputs has {len(given)} constraints; give one of json, json_object, "
                "regex, choice and grammar",
                param="structured_outputs",
            )
        return given[0]


class JsonSchema(Body):
    """`strict` or not, the text obeys the schema."""

    name: str
    description: str | None = None
    schema_: Annotated[Nested | None, Field(alias="schema")] = None
    strict: bool | None = None


class ResponseFormat(Body):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None

    def to_grammar(self) -> Grammar | None:
        if self.type == "text":
            return None
        if self.type == "json_object":
            return Grammar(kind="json_object")
        if self.json_schema is None or self.json_schema.schema_ is None:
            raise ApiError(
                "response_format has the type json_schema and no json_schema.schema; give one",
                param="response_format",
            )
        return _schema_grammar(self.json_schema.schema_)


class Sampling(RequestBody):
    """How tokens are drawn, and where a text ends: OpenAI's names, then vLLM's."""

    model: str
    temperature: float | None = None
    top_p: float | None = None
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Entries[int, float] = Field(default_factory=dict)
    seed: Annotated[int, Field(ge=-MAX_SEED, le=MAX_SEED)] | None = None
    stop: str | Items[str] | None = None
    n: Annotated[int, Field(ge=1)] = 1
    stream: bool = False
    stream_options: StreamOptions | None = None
    user: str | None = None

    top_k: Annotated[int, Field(ge=-1)] = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    min_tokens: int = 0
    ignore_eos: bool = False
    stop_token_ids: Items[int] = Field(default_factory=list)
    include_stop_str_in_output: bool = False
    skip_special_tokens: bool = True
    truncate_prompt_tokens: Annotated[int, Field(ge=1)] | None = None
    structured_outputs: StructuredOutputs | None = None
    priority: int = 0
    cache_salt: str = ""
    return_token_ids: bool = False

    def first_seed(self) -> int:
        """That of the first choice; the others' follow it."""
        return secrets.randbits(62) if self.seed is None else self.seed

    def sampling_params(self, max_tokens: int, logprobs: int | None) -> SamplingParams:
        """Raises ApiError for a value out of its range."""
        if len(stop := self._stop()) > MOST_STOP:
            raise ApiError(f"stop has {len(stop)} strings; give at most {MOST_STOP}", param="stop")
        try:
            return SamplingParams(
                max_tokens=max_tokens,
                temperature=DEFAULT_TEMPERATURE if self.temperature is None else self.temperature,
                top_p=1.0 if self.top_p is None else self.top_p,
                top_k=max(self.top_k, 0),
                min_p=self.min_p,
                repetition_penalty=self.repetition_penalty,
                presence_penalty=self.presence_penalty,
                frequency_penalty=self.frequency_penalty,
                seed=self.seed,
                stop=stop,
                logprobs=logprobs,
                logit_bias=self.logit_bias,
                min_tokens=self.min_tokens,
                ignore_eos=self.ignore_eos,
                stop_token_ids=tuple(self.stop_token_ids),
                include_stop=self.include_stop_str_in_output,
            )
        except ValueError as error:
            raise ApiError(str(error), param=_named_in(str(error))) from error

    @property
    def includes_usage(self) -> bool:
        """Whether a stream ends with the usage."""
        if self.stream_options is not None and not self.stream:
            raise ApiError("stream_options is for stream: true", param="stream_options")
        return self.stream_options is not None and self.stream_options.include_usage

    def _stop(self) -> tuple[str, ...]:
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())


GUIDED: Mapping[str, Refused] = {
    name: Refused("give structured_outputs, which has json, json_object, regex, choice, grammar")
    for name in ("guided_json", "guided_regex", "guided_choice", "guided_grammar")
}
NOT_HERE: Mapping[str, Refused] = {
    "service_tier": Refused("there is one tier", ("auto", "default")),
    "store": Refused("nothing is stored", (False,)),
    "moderation": Refused("nothing is moderated"),
    "prompt_cache_key": Refused("prefixes are found by themselves; cache_salt keeps them apart"),
    "prompt_cache_options": Refused("prefixes are kept for as long as there is room"),
    "prompt_cache_retention": Refused("prefixes are kept for as long as there is room"),
    "safety_identifier": Refused("give user, which stands in the log"),
    "prompt_logprobs": Refused("log-probabilities are those of what is written"),
    "length_penalty": Refused("there is no beam search"),
    "use_beam_search": Refused("there is no beam search", (False,)),
    "spaces_between_special_tokens": Refused("the tokenizer's own decoder decides", (True,)),
}


def _named_in(message: str) -> str | None:
    """The parameter that a message is about."""
    names = {field.name for field in fields(SamplingParams)}
    return next((word for word in message.split() if word in names), None)


def _schema_grammar(schema: Mapping[str, Any] | str) -> Grammar:
    text = schema if isinstance(schema, str) else json.dumps(schema)
    return Grammar(kind="json_schema", text=text)


def _written_grammar(text: str) -> Grammar:
    """GBNF has rules with `::=`, Lark with `:`."""
    return Grammar(kind="gbnf" if "::=" in text else "lark", text=text)
