"""The body of a chat completion: messages, tools, and what the templates see of them."""

import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from pharos.serve.http.errors import ApiError
from pharos.serve.http.parameters import (
    GUIDED,
    NOT_HERE,
    Body,
    Entries,
    Items,
    Nested,
    Refused,
    ResponseFormat,
    Sampling,
)

MOST_TOP_LOGPROBS = 20
Role = Literal["system", "developer", "user", "assistant", "tool"]


class TextPart(Body):
    """Of a message's content. Pictures, sound and files are refused: the models here read text."""

    type: Literal["text"]
    text: str


class CalledFunction(Body):
    name: str
    arguments: str


class CallMessage(Body):
    id: str | None = None
    type: Literal["function"] = "function"
    function: CalledFunction


class ChatMessage(Body):
    REFUSED: ClassVar[Mapping[str, Refused]] = {
        "audio": Refused("a language model reads text"),
        "function_call": Refused("give tool_calls"),
        "refusal": Refused("a model reads what was said"),
    }

    role: Role
    content: str | Items[TextPart] | None = None
    name: str | None = None
    tool_calls: Items[CallMessage] | None = None
    tool_call_id: str | None = None
    reasoning_content: str | None = None

    def for_template(self, at: int) -> dict[str, Any]:
        """As templates know messages: text content, arguments as objects. `at` is its place."""
        role = "system" if self.role == "developer" else self.role
        message: dict[str, Any] = {"role": role, "content": self._text(at)}
        for name in ("name", "tool_call_id", "reasoning_content"):
            if getattr(self, name) is not None:
                message[name] = getattr(self, name)
        if self.tool_calls:
            message["tool_calls"] = [
                {
                    "type": "function",
                    "id": call.id,
                    "function": {
                        "name": call.function.name,
                        "arguments": _arguments(call.function, at),
                    },
                }
                for call in self.tool_calls
            ]
        return message

    def _text(self, at: int) -> str:
        if isinstance(self.content, str):
            return self.content
        if self.content is None and not self.tool_calls:
            raise ApiError(
                f"messages[{at}] has neither content nor tool_calls; give one of them",
                param=f"messages[{at}].content",
            )
        return "".join(part.text for part in self.content or ())


class FunctionDefinition(Body):
    name: Annotated[str, Field(pattern=r"^[a-zA-Z0-9_.:-]{1,256}$")]
    description: str | None = None
    parameters: Nested = Field(default_factory=lambda: {"type": "object", "properties": {}})
    strict: bool | None = None


class Tool(Body):
    type: Literal["function"]
    function: FunctionDefinition


class NamedFunction(Body):
    name: str


class NamedTool(Body):
    type: Literal["function"]
    function: NamedFunction


class ChatRequest(Sampling):
    REFUSED: ClassVar[Mapping[str, Refused]] = {
        **GUIDED,
        **NOT_HERE,
        "audio": Refused("text is written, not spoken"),
        "modalities": Refused("text is written", (["text"],)),
        "functions": Refused("give tools"),
        "function_call": Refused("give tool_choice"),
        "prediction": Refused("drafts are the engine's own"),
        "reasoning_effort": Refused("give chat_template_kwargs, if the template knows a switch"),
        "verbosity": Refused("say it in a message"),
        "web_search_options": Refused("nothing here reaches the web"),
        "metadata": Refused("nothing is stored", ({},)),
        "best_of": Refused("give n, and choose by logprobs", (1,)),
        "echo": Refused("give /v1/completions a prompt", (False,)),
        "chat_template": Refused("the server's own is used; see --template"),
    }

    messages: Annotated[Items[ChatMessage], Field(min_length=1)]
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    logprobs: bool = False
    top_logprobs: Annotated[int, Field(ge=0, le=MOST_TOP_LOGPROBS)] | None = None
    response_format: ResponseFormat | None = None
    tools: Items[Tool] = Field(default_factory=list)
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    parallel_tool_calls: bool = True

    add_generation_prompt: bool = True
    continue_final_message: bool = False
    chat_template_kwargs: Nested = Field(default_factory=dict)
    documents: Items[Entries[str, str]] | None = None

    def asked_tokens(self) -> int | None:
        """How many may be written; None where nothing is said of it."""
        given = self.max_tokens, self.max_completion_tokens
        if None not in given and given[0] != given[1]:
            raise ApiError(
                f"max_tokens is {given[0]} and max_completion_tokens {given[1]}; they are two "
                "names of one thing: give one",
                param="max_completion_tokens",
            )
        return given[0] if given[1] is None else given[1]

    def num_logprobs(self) -> int | None:
        if self.top_logprobs is not None and not self.logprobs:
            raise ApiError("top_logprobs is for logprobs: true", param="top_logprobs")
        return (self.top_logprobs or 0) if self.logprobs else None


class TokenizeRequest(Body):
    """A text, or a conversation as its template writes it."""

    model: str | None = None
    prompt: str | None = None
    messages: Annotated[Items[ChatMessage], Field(min_length=1)] | None = None
    tools: Items[Tool] = Field(default_factory=list)
    add_special_tokens: bool = True
    add_generation_prompt: bool = True
    continue_final_message: bool = False
    chat_template_kwargs: Nested = Field(default_factory=dict)
    return_token_strs: bool = False


def template_messages(messages: Sequence[ChatMessage]) -> list[dict[str, Any]]:
    return [message.for_template(at) for at, message in enumerate(messages)]


def _arguments(called: CalledFunction, at: int) -> Mapping[str, Any]:
    try:
        arguments = json.loads(called.arguments or "{}")
    except (ValueError, RecursionError):
        arguments = None
    if not isinstance(arguments, dict):
        raise ApiError(
            f"messages[{at}].tool_calls: the arguments of {called.name} are not a JSON object",
            param=f"messages[{at}].tool_calls",
        )
    return arguments
