"""The shared nouns, the protocols where packages meet, and the errors a user can read."""

from pharos.core.errors import (
    DocumentError,
    EndpointError,
    IntegrityError,
    LibraryError,
    LockedError,
    ModelError,
    PharosError,
    TrainingError,
)
from pharos.core.nouns import (
    Answer,
    Citation,
    Completion,
    Document,
    Hit,
    Message,
    Page,
    Passage,
    Place,
    SamplingParams,
    Section,
    Span,
)
from pharos.core.protocols import Embedder, LanguageModel, Reader, Reranker

__all__ = [
    "Answer",
    "Citation",
    "Completion",
    "Document",
    "DocumentError",
    "Embedder",
    "EndpointError",
    "Hit",
    "IntegrityError",
    "LanguageModel",
    "LibraryError",
    "LockedError",
    "Message",
    "ModelError",
    "Page",
    "Passage",
    "PharosError",
    "Place",
    "Reader",
    "Reranker",
    "SamplingParams",
    "Section",
    "Span",
    "TrainingError",
]
