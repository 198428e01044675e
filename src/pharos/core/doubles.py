"""Scripted stand-ins that answer at once and always alike, to test what is built on top."""

import hashlib
import re
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from pharos.core.nouns import Completion, Message, SamplingParams


class HashEmbedder:
    """A bag of words hashed into `dim` signed buckets: texts that share words are similar."""

    def __init__(self, dim: int = 64, max_tokens: int = 256) -> None:
        self.name = f"hash-{dim}"
        self.dim = dim
        self.max_tokens = max_tokens

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        vectors = np.zeros((len(texts), self.dim), dtype=np.float32)
        for row, text in zip(vectors, texts, strict=True):
            for word in re.findall(r"\w+", text.lower()):
                digest = hashlib.blake2b(word.encode(), digest_size=8).digest()
                bucket = int.from_bytes(digest, "little")
                row[bucket % self.dim] += 1.0 if bucket >> 63 else -1.0
            if not row.any():
                row[0] = 1.0
        unit: NDArray[np.float32] = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        return unit


class ScriptedModel:
    """A language model that replies from a list, in order, and keeps what it was asked."""

    def __init__(self, replies: Sequence[str]) -> None:
        self.name = "scripted"
        self.asked: list[list[Message]] = []
        self._replies = iter(replies)

    def stream(self, messages: Sequence[Message], params: SamplingParams) -> Iterator[str]:
        self.asked.append(list(messages))
        yield from re.findall(r"\S+\s*|\s+", next(self._replies))

    def complete(self, messages: Sequence[Message], params: SamplingParams) -> Completion:
        return Completion(text="".join(self.stream(messages, params)), finish_reason="stop")
