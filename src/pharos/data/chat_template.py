"""A conversation as the one text that a model was trained to continue.

Each model's is different, so it comes with the model: a Jinja template in `chat_template.jinja`, or
in `tokenizer_config.json`. Templates are programs of strangers: they run in a sandbox that bounds
what they reach and how long they take (`template_sandbox`).

The text holds its special tokens, `<s>` at the beginning too if the model wants one. So encode it
with `tokenizer.encode(text, add_special_tokens=False)`; else it begins with two.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn, Self

from jinja2 import Template, TemplateError, TemplateSyntaxError

from pharos.core import Message, ModelError
from pharos.core.json_files import read_object, read_text
from pharos.data.template_costs import TooMuchWorkError
from pharos.data.template_sandbox import (
    BEGIN,
    END,
    MAX_SOURCE,
    MeteredContext,
    MeteredEnvironment,
)
from pharos.data.tokenizer import Tokenizer

MAX_CHARACTERS = 16_000_000
"""Of a rendered conversation: about four million tokens."""
MAX_DATE_FORMAT = 200
MAX_MESSAGE = 1000
_FOLDER = Path(__file__).parent / "chat_templates"
BUILT_IN = tuple(sorted(path.stem for path in _FOLDER.glob("*.jinja")))
_WAY_OUT = "use a built-in template, or mend this one"


class ChatTemplate:
    """`source` is the template, `special_tokens` the names it may use for the model's tokens
    (`{"bos_token": "<s>"}`), `name` what errors call it."""

    def __init__(
        self, source: str, special_tokens: Mapping[str, str], *, name: str = "the chat template"
    ) -> None:
        if len(source) > MAX_SOURCE:
            raise ModelError(
                f"{name} has {len(source):,} characters; one of up to {MAX_SOURCE:,} is accepted"
            )
        self.name = name
        self.source = source
        self.special_tokens = dict(special_tokens)
        self._template = _compile(source, name)

    @classmethod
    def load(cls, folder: Path, tokenizer: Tokenizer, *, variant: str = "default") -> Self:
        """The template of a model's folder. Some models have several: `tool_use`, `rag`."""
        sources = template_sources(folder)
        if variant not in sources:
            found = f"only {', '.join(sources)}" if sources else "none"
            raise ModelError(
                f"{folder} has no chat template {variant!r}, {found}; use a model made for chat, "
                f"or a built-in template: {', '.join(BUILT_IN)}"
            )
        name = f"the chat template of {folder.name}"
        return cls(sources[variant], token_names(tokenizer), name=name)

    @classmethod
    def built_in(cls, name: str, tokenizer: Tokenizer) -> Self:
        """One of `BUILT_IN`; `bos` and `eos` are empty where the tokenizer has none."""
        if name not in BUILT_IN:
            raise ValueError(f"unknown chat template {name!r}; choose from {', '.join(BUILT_IN)}")
        source = (_FOLDER / f"{name}.jinja").read_text(encoding="utf-8")
        names = {"bos_token": "", "eos_token": ""} | token_names(tokenizer)
        return cls(source, names, name=f"the chat template {name}")

    def render(
        self,
        messages: Sequence[Message | Mapping[str, Any]],
        *,
        add_generation_prompt: bool = True,
        tools: Sequence[Mapping[str, Any]] | None = None,
        documents: Sequence[Mapping[str, Any]] | None = None,
        variables: Mapping[str, Any] | None = None,
    ) -> str:
        """The conversation's text, with the beginning of the assistant's next message unless told
        otherwise. `variables` are others that the template knows (`enable_thinking`).

        Raises ModelError where the template refuses the messages (two of the user in a row, for
        some), has a mistake, or takes too long.
        """
        context = self._context(messages, add_generation_prompt, tools, documents, variables)
        return self._written(context)

    @property
    def has_markers(self) -> bool:
        """Whether it tells what the assistant says, by `{% generation %}`."""
        return re.search(r"\{%-?\s*generation\s*[-+]?%\}", self.source) is not None

    def generations(
        self,
        messages: Sequence[Message | Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
    ) -> tuple[str, list[tuple[int, int]]]:
        """The text, without the beginning of a next message, and where in it the assistant speaks:
        what the template has between `{% generation %}` and `{% endgeneration %}`. Raises
        ModelError as `render` does."""
        context = self._context(messages, False, tools, None, None)
        context.has_marks = True
        marked = self._written(context)
        text, spans = "", []
        for number, part in enumerate(re.split(f"[{BEGIN}{END}]", marked)):
            spans += [(len(text), len(text) + len(part))] if number % 2 else []
            text += part
        if re.sub(f"[^{BEGIN}{END}]", "", marked) != (BEGIN + END) * len(spans):
            raise ModelError(
                f"{self.name} has {{% generation %}} within itself, or a message holds its marks "
                "(U+FDD0, U+FDD1); mend the one or the other"
            )
        return text, spans

    def _context(
        self,
        messages: Sequence[Message | Mapping[str, Any]],
        add_generation_prompt: bool,
        tools: Sequence[Mapping[str, Any]] | None,
        documents: Sequence[Mapping[str, Any]] | None,
        variables: Mapping[str, Any] | None,
    ) -> MeteredContext:
        if not messages:
            raise ValueError("there are no messages to render; give at least one")
        values = {
            **self.special_tokens,
            **(variables or {}),
            "messages": [_plain_message(message) for message in messages],
            "tools": tools,
            "documents": documents,
            "add_generation_prompt": add_generation_prompt,
        }
        context = self._template.new_context({key: _plain(v) for key, v in values.items()})
        assert isinstance(context, MeteredContext)
        return context

    def _written(self, context: MeteredContext) -> str:
        try:
            return _bounded(self._template.root_render_func(context))
        except _RefusalError as error:
            raise ModelError(f"{self.name} refuses these messages: {error}") from error
        except TooMuchWorkError as error:
            raise ModelError(f"{self.name} was stopped: {error}; {_WAY_OUT}") from error
        except Exception as error:  # a template can raise anything
            raise ModelError(
                f"{self.name} failed on these messages ({_brief(error)}); {_WAY_OUT}"
            ) from error


def template_sources(folder: Path) -> dict[str, str]:
    """The templates of a model's folder by name, wherever its files keep them."""
    sources: dict[str, str] = {}
    config = folder / "tokenizer_config.json"
    if config.is_file():
        sources |= _configured(read_object(config).get("chat_template"), config)
    if (folder / "chat_template.jinja").is_file():
        sources["default"] = read_text(folder / "chat_template.jinja")
    for path in sorted((folder / "additional_chat_templates").glob("*.jinja")):
        sources[path.stem] = read_text(path)
    return sources


def token_names(tokenizer: Tokenizer) -> dict[str, str]:
    """What templates call the special tokens: `{"bos_token": "<s>", …}`."""
    return {f"{role}_token": token for role, token in tokenizer.special_tokens.items()}


def _configured(value: object, path: Path) -> dict[str, str]:
    """One template, or a list of `{"name": …, "template": …}`."""
    entries = [{"name": "default", "template": value}] if isinstance(value, str) else value or []
    try:
        sources = {entry["name"]: entry["template"] for entry in entries}  # type: ignore[attr-defined]
    except (TypeError, KeyError) as error:
        sources = {"": error}
    if not all(isinstance(text, str) for pair in sources.items() for text in pair):
        raise ModelError(
            f'{path}: chat_template must be a string, or a list of {{"name": ..., "template": ...}}'
        )
    return sources


def _compile(source: str, name: str) -> Template:
    try:
        return _ENVIRONMENT.from_string(source)
    except TemplateSyntaxError as error:
        raise ModelError(f"{name} is not valid: line {error.lineno}: {error.message}") from error
    except Exception as error:  # nested too deeply for Jinja, or for Python
        raise ModelError(f"{name} cannot be compiled ({_brief(error)}); {_WAY_OUT}") from error


def _brief(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error)[:MAX_MESSAGE]}"


def _bounded(pieces: Iterable[str]) -> str:
    """The pieces joined. Their number is bounded, since whatever makes them is metered."""
    text, length = [], 0
    for piece in pieces:
        text.append(piece)
        length += len(piece)
        if length > MAX_CHARACTERS:
            raise TooMuchWorkError(f"it writes more than {MAX_CHARACTERS:,} characters")
    return "".join(text)


def _plain(value: Any) -> Any:
    """A copy made of JSON's types, so that a template meets no object with methods of its own."""
    if value is None or type(value) in (str, int, float, bool):
        return value
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    raise ValueError(
        f"a chat template was given a {type(value).__name__}; give it what JSON has: texts, "
        "numbers, lists, mappings with texts for keys"
    )


def _plain_message(message: Message | Mapping[str, Any]) -> Mapping[str, Any]:
    if isinstance(message, Message):
        return {"role": message.role, "content": message.content}
    return message


class _RefusalError(TemplateError):
    """What `raise_exception` raises: the template's own message."""


def _raise_exception(message: object) -> NoReturn:
    raise _RefusalError(str(message)[:MAX_MESSAGE])


def _strftime_now(format_: str) -> str:
    if len(format_) > MAX_DATE_FORMAT:
        raise ValueError(f"a date's format has at most {MAX_DATE_FORMAT} characters")
    return datetime.now().strftime(format_)


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """As transformers has it: Jinja's own escapes what HTML does not like."""
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


_ENVIRONMENT = MeteredEnvironment(
    {"raise_exception": _raise_exception, "strftime_now": _strftime_now}, {"tojson": _tojson}
)
