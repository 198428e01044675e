"""The bodies of all requests but those of a conversation."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from pharos.serve.http.parameters import (
    GUIDED,
    NOT_HERE,
    Body,
    Items,
    Refused,
    RequestBody,
    ResponseFormat,
    Sampling,
)

TokenIds = Items[int]
MOST_INPUTS = 2048
DEFAULT_MAX_TOKENS = 16
"""OpenAI's, of a completion."""


class CompletionRequest(Sampling):
    REFUSED: ClassVar[Mapping[str, Refused]] = {
        **GUIDED,
        **NOT_HERE,
        "suffix": Refused("text is continued, not filled in"),
        "best_of": Refused("give n, and choose by logprobs", (1,)),
    }

    prompt: str | Items[str] | TokenIds | Items[TokenIds]
    max_tokens: Annotated[int, Field(ge=1)] = DEFAULT_MAX_TOKENS
    logprobs: Annotated[int, Field(ge=0)] | None = None
    echo: bool = False
    add_special_tokens: bool = True
    response_format: ResponseFormat | None = None

    def prompts(self) -> list[str | TokenIds]:
        """Each by itself: a text, or tokens."""
        return listed(self.prompt)


class EmbeddingRequest(RequestBody):
    REFUSED: ClassVar[Mapping[str, Refused]] = {
        "dimensions": Refused("vectors have the width of the model"),
        "service_tier": NOT_HERE["service_tier"],
    }

    model: str
    input: str | Items[str] | TokenIds | Items[TokenIds]
    encoding_format: Literal["float", "base64"] = "float"
    user: str | None = None
    truncate_prompt_tokens: Annotated[int, Field(ge=1)] | None = None
    add_special_tokens: bool = True
    priority: int = 0

    def inputs(self) -> list[str | TokenIds]:
        return listed(self.input)


class RerankRequest(RequestBody):
    """That of Jina and Cohere."""

    REFUSED: ClassVar[Mapping[str, Refused]] = {
        "max_chunks_per_doc": Refused("documents are read whole"),
        "max_tokens_per_doc": Refused("give truncate_prompt_tokens"),
        "rank_fields": Refused("documents are texts"),
    }

    model: str
    query: str
    documents: Annotated[Items[str], Field(min_length=1, max_length=MOST_INPUTS)]
    top_n: Annotated[int, Field(ge=1)] | None = None
    return_documents: bool = True
    user: str | None = None
    truncate_prompt_tokens: Annotated[int, Field(ge=1)] | None = None
    priority: int = 0


class DetokenizeRequest(Body):
    model: str | None = None
    tokens: TokenIds


class LoadAdapterRequest(Body):
    REFUSED: ClassVar[Mapping[str, Refused]] = {
        "load_inplace": Refused("a name that is loaded already is loaded anew", (True,))
    }

    lora_name: Annotated[str, Field(min_length=1)]
    lora_path: Path


class UnloadAdapterRequest(Body):
    REFUSED: ClassVar[Mapping[str, Refused]] = {
        "lora_int_id": Refused("adapters have no numbers; give lora_name")
    }

    lora_name: str


def listed(value: str | list[str] | TokenIds | list[TokenIds]) -> list[str | TokenIds]:
    """Texts, or lists of tokens: one or many."""
    if isinstance(value, str):
        return [value]
    if value and isinstance(value[0], int):
        return [[id_ for id_ in value if isinstance(id_, int)]]
    return [item for item in value if not isinstance(item, int)]
