"""The body of `/v1/responses`, and what it is as a chat completion.

Items of the input are messages, calls and their results; consecutive calls are one message of the
assistant. Nothing is stored: a conversation is sent whole, each time.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from pharos.serve.http.chat_schemas import (
    MOST_TOP_LOGPROBS,
    CalledFunction,
    CallMessage,
    ChatMessage,
    ChatRequest,
    FunctionDefinition,
    NamedFunction,
    NamedTool,
    Tool,
)
from pharos.serve.http.errors import ApiError
from pharos.serve.http.parameters import (
    NOT_HERE,
    Body,
    Entries,
    Items,
    JsonSchema,
    Nested,
    Refused,
    ResponseFormat,
)

LOGPROBS = "message.output_text.logprobs"


class InputText(Body):
    REFUSED: ClassVar[Mapping[str, Refused]] = {
        "annotations": Refused("a model reads text", ([],)),
        "logprobs": Refused("a model reads text", ([],)),
    }

    type: Literal["input_text", "output_text", "text"]
    text: str


class InputMessage(Body):
    REFUSED: ClassVar[Mapping[str, Refused]] = {"phase": Refused("templates know none")}

    type: Literal["message"] = "message"
    role: Literal["system", "developer", "user", "assistant"]
    content: str | Items[InputText]
    id: str | None = None
    status: str | None = None

    def text(self) -> str:
        if isinstance(self.content, str):
            return self.content
        return "".join(part.text for part in self.content)


class FunctionCallItem(Body):
    type: Literal["function_call"]
    call_id: str
    name: str
    arguments: str
    id: str | None = None
    status: str | None = None


class FunctionOutputItem(Body):
    type: Literal["function_call_output"]
    call_id: str
    output: str | Items[InputText]
    id: str | None = None
    status: str | None = None


InputItem = InputMessage | FunctionCallItem | FunctionOutputItem


class ResponseTool(FunctionDefinition):
    type: Literal["function"]


class TextFormat(Body):
    type: Literal["text", "json_object", "json_schema"] = "text"
    name: str | None = None
    description: str | None = None
    schema_: Annotated[Nested | None, Field(alias="schema")] = None
    strict: bool | None = None


class TextOptions(Body):
    REFUSED: ClassVar[Mapping[str, Refused]] = {"verbosity": Refused("say it in the instructions")}

    format: TextFormat = Field(default_factory=TextFormat)


class NamedResponseTool(Body):
    type: Literal["function"]
    name: str


class ResponsesRequest(Body):
    REFUSED: ClassVar[Mapping[str, Refused]] = {
        **{name: why for name, why in NOT_HERE.items() if name != "store"},
        "store": Refused("nothing is stored; send the conversation", (False,)),
        "previous_response_id": Refused("nothing is stored; send the conversation"),
        "conversation": Refused("nothing is stored; send the conversation"),
        "background": Refused("nothing is stored; read the stream", (False,)),
        "background_options": Refused("nothing is stored; read the stream"),
        "context_management": Refused("the conversation is read as it is"),
        "prompt": Refused("nothing is stored; send the input"),
        "reasoning": Refused("templates have switches of their own; see /v1/chat/completions"),
        "truncation": Refused("shorten the input", ("disabled",)),
        "max_tool_calls": Refused("no tool is run here"),
        "image": Refused("text is written"),
        "access_programs": Refused("there are none"),
    }

    model: str
    input: str | Items[InputItem]
    instructions: str | None = None
    max_output_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: float | None = None
    top_p: float | None = None
    stream: bool = False
    stream_options: Entries[Literal["include_obfuscation"], Literal[False]] | None = None
    tools: Items[ResponseTool] = Field(default_factory=list)
    tool_choice: Literal["none", "auto", "required"] | NamedResponseTool | None = None
    parallel_tool_calls: bool = True
    text: TextOptions = Field(default_factory=TextOptions)
    include: Items[Literal["message.output_text.logprobs"]] = Field(default_factory=list)
    top_logprobs: Annotated[int, Field(ge=0, le=MOST_TOP_LOGPROBS)] | None = None
    metadata: Entries[str, str] = Field(default_factory=dict)
    user: str | None = None

    def to_chat(self) -> ChatRequest:
        """The same, asked as a chat completion."""
        wants_logprobs = LOGPROBS in self.include
        if self.top_logprobs and not wants_logprobs:
            raise ApiError(f"top_logprobs is for include: [{LOGPROBS!r}]", param="top_logprobs")
        return ChatRequest(
            model=self.model,
            messages=self._messages(),
            max_completion_tokens=self.max_output_tokens,
            temperature=self.temperature,
            top_p=self.top_p,
            stream=self.stream,
            tools=[_tool(tool) for tool in self.tools],
            tool_choice=_choice(self.tool_choice),
            parallel_tool_calls=self.parallel_tool_calls,
            response_format=_format(self.text.format),
            logprobs=wants_logprobs,
            top_logprobs=self.top_logprobs if wants_logprobs else None,
            user=self.user,
        )

    def _messages(self) -> list[ChatMessage]:
        items: Sequence[InputItem]
        if isinstance(self.input, str):
            items = [InputMessage(role="user", content=self.input)]
        else:
            items = self.input
        if not items:
            raise ApiError("input is an empty list; give at least one message", param="input")
        messages = []
        if self.instructions is not None:
            messages.append(ChatMessage(role="system", content=self.instructions))
        for item in items:
            _append(messages, item)
        return messages


def _append(messages: list[ChatMessage], item: InputItem) -> None:
    if isinstance(item, InputMessage):
        messages.append(ChatMessage(role=item.role, content=item.text()))
    elif isinstance(item, FunctionOutputItem):
        output = item.output
        text = output if isinstance(output, str) else "".join(part.text for part in output)
        messages.append(ChatMessage(role="tool", content=text, tool_call_id=item.call_id))
    else:
        function = CalledFunction(name=item.name, arguments=item.arguments)
        call = CallMessage(id=item.call_id, function=function)
        if messages and messages[-1].role == "assistant":
            messages[-1].tool_calls = [*(messages[-1].tool_calls or ()), call]
        else:
            messages.append(ChatMessage(role="assistant", tool_calls=[call]))


def _tool(tool: ResponseTool) -> Tool:
    function = FunctionDefinition(**tool.model_dump(exclude={"type"}, exclude_none=True))
    return Tool(type="function", function=function)


def _choice(
    choice: Literal["none", "auto", "required"] | NamedResponseTool | None,
) -> Literal["none", "auto", "required"] | NamedTool | None:
    if isinstance(choice, NamedResponseTool):
        return NamedTool(type="function", function=NamedFunction(name=choice.name))
    return choice


def _format(format_: TextFormat) -> ResponseFormat | None:
    if format_.type == "text":
        return None
    schema = None
    if format_.type == "json_schema":
        schema = JsonSchema.model_validate({"name": format_.name or "", "schema": format_.schema_})
    return ResponseFormat(type=format_.type, json_schema=schema)
