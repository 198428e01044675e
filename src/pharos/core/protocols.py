"""Where packages meet: what the answer pipeline asks of a model, whichever model it is."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from pharos.core.nouns import Completion, Hit, Message, SamplingParams, Span

if TYPE_CHECKING:  # `pharos --help` does without numpy
    import numpy as np
    from numpy.typing import NDArray


@runtime_checkable
class Embedder(Protocol):
    """Texts to unit vectors whose dot product is their similarity.

    `name` identifies the weights: vectors of two embedders of one name may be compared.
    `max_tokens` is the longest text, special tokens included, that the model was made for;
    longer texts are cut there.
    `embed` returns float32 `[len(texts), dim]`, rows of length 1, in the order given; a text's
    vector does not depend on the texts beside it (beyond rounding).
    """

    name: str
    dim: int
    max_tokens: int

    def embed(self, texts: Sequence[str]) -> "NDArray[np.float32]": ...


@runtime_checkable
class Reranker(Protocol):
    """One relevance in 0..1 per hit, in the order given; the caller sorts."""

    name: str

    def rerank(self, question: str, hits: Sequence[Hit]) -> list[float]: ...


@runtime_checkable
class Reader(Protocol):
    """The spans of the hits that answer the question, best first; an empty list if none does."""

    name: str

    def read(self, question: str, hits: Sequence[Hit]) -> list[Span]: ...


@runtime_checkable
class LanguageModel(Protocol):
    """Text from messages. `stream` yields pieces of text as they come; `complete` is their sum."""

    name: str

    def stream(self, messages: Sequence[Message], params: SamplingParams) -> Iterator[str]: ...

    def complete(self, messages: Sequence[Message], params: SamplingParams) -> Completion: ...
