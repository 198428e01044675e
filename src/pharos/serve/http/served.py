"""The model that is served, as far as text goes: its names, its tokenizer, its template."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pharos.core import ModelError
from pharos.data.chat_template import ChatTemplate, template_sources
from pharos.data.detokenize import token_bytes
from pharos.data.tokenizer import Tokenizer
from pharos.serve.http.errors import ApiError
from pharos.serve.http.tool_formats import FORMATS, ToolFormat, format_of


@dataclass(frozen=True, kw_only=True)
class ServedModel:
    """`adapters` are the folders of the adapters that are loaded, by name: each is a model of its
    own to clients."""

    name: str
    tokenizer: Tokenizer
    template: ChatTemplate | None
    tool_format: ToolFormat
    max_len: int
    adapters: dict[str, Path] = field(default_factory=dict)
    created: int = field(default_factory=lambda: int(time.time()))

    def adapter_of(self, model: str | None) -> str | None:
        """The adapter by that name, or None for the model itself."""
        if model is None or model == self.name:
            return None
        if model in self.adapters:
            return model
        known = ", ".join([self.name, *self.adapters])
        raise ApiError(
            f"the model {model!r} is not served here; choose from {known}",
            status=404,
            param="model",
            code="model_not_found",
        )

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """The tokens of a text. A lone half of a surrogate pair, which JSON may have, becomes a
        question mark, as it does in replies."""
        text = text.encode("utf-8", errors="replace").decode()
        # In a batch, even of one: only then does the library let other threads run meanwhile.
        return self.tokenizer.encode_batch([text], add_special_tokens=add_special_tokens)[0]

    def text_ids(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """The tokens of a text; one that has none begins with the `bos` token."""
        ids = self.encode(text, add_special_tokens=add_special_tokens)
        bos = self.tokenizer.bos_id
        return ids if ids or bos is None else [bos]

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        tools: Sequence[Mapping[str, Any]] | None = None,
        documents: Sequence[Mapping[str, Any]] | None = None,
        variables: Mapping[str, Any] | None = None,
    ) -> str:
        """A conversation's text. Raises ApiError for what the template refuses."""
        if self.template is None:
            raise ApiError(
                f"{self.name} has no chat template: start the server with --template chatml, or "
                "use /v1/completions",
                param="messages",
            )
        try:
            text = self.template.render(
                messages,
                add_generation_prompt=add_generation_prompt and not continue_final_message,
                tools=tools,
                documents=documents,
                variables=variables,
            )
        except (ModelError, ValueError) as error:
            raise ApiError(str(error), param="messages") from error
        return _up_to_last(text, messages) if continue_final_message else text

    @property
    def knows_tools(self) -> bool:
        """Whether the template has a place for functions."""
        return self.template is not None and "tools" in self.template.source

    @property
    def call_opener_id(self) -> int | None:
        """The special token by which the model begins to call, which would be left out of its
        text."""
        ids = map(self.tokenizer.token_id, self.tool_format.openers)
        return next((id_ for id_ in ids if id_ in self.tokenizer.special_ids), None)

    @property
    def knows_documents(self) -> bool:
        return self.template is not None and "documents" in self.template.source

    def token_text(self, id_: int) -> str:
        """The text of a token by itself; of one that is not made of whole characters, its bytes as
        OpenAI writes them: `bytes:\\xe2\\x98`."""
        written = self.bytes_of(id_)
        try:
            return written.decode()
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in written)

    def bytes_of(self, id_: int) -> bytes:
        """What a token adds to a text, which need not be whole characters."""
        token = self.tokenizer.token(id_)
        kinds = [part["type"] for part in self.tokenizer.decoder_parts]
        if token is not None and kinds == ["ByteLevel"]:
            return token_bytes(token)
        if token is not None and "ByteFallback" in kinds and _is_byte(token):
            return bytes([int(token[3:5], 16)])
        return self.tokenizer.text_of(id_).encode()


def load_served(
    folder: Path, *, name: str, max_len: int, template: str | None, tool_format: str | None
) -> ServedModel:
    """The model of a folder. `template` names a built-in one (default: the model's own), and
    `tool_format` one of `tool_formats.FORMATS` (default: the template's)."""
    tokenizer = Tokenizer.load(folder)
    chat = None
    if template is not None:
        chat = ChatTemplate.built_in(template, tokenizer)
    elif template_sources(folder):
        chat = ChatTemplate.load(folder, tokenizer)
    found = format_of("" if chat is None else chat.source)
    return ServedModel(
        name=name,
        tokenizer=tokenizer,
        template=chat,
        tool_format=found if tool_format is None else FORMATS[tool_format],
        max_len=max_len,
    )


def _up_to_last(text: str, messages: Sequence[Mapping[str, Any]]) -> str:
    """What is rendered, without what the template puts behind the last message."""
    last = messages[-1]
    content = str(last["content"]).strip()
    if last["role"] != "assistant" or not content or content not in text:
        raise ApiError(
            "continue_final_message needs a last message of the assistant with some content",
            param="continue_final_message",
        )
    return text[: text.rindex(content) + len(content)]


def _is_byte(token: str) -> bool:
    return len(token) == 6 and token.startswith("<0x") and token.endswith(">")
