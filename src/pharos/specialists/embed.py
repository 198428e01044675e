"""Sentences to vectors with a BERT (Reimers & Gurevych 2019, arXiv:1908.10084).

The mean over a text's last hidden states, scaled to length 1: a lane of the shared encoder
(`shared_encoder`).
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pharos.core.errors import ModelError
from pharos.data.tokenizer import load_tokenizer
from pharos.models.resolve import DEFAULT_ENCODER, find_model
from pharos.specialists.shared_encoder import (
    SENTENCES,
    Precision,
    Row,
    SharedEncoder,
    load_shared_encoder,
)


class SentenceEncoder:
    """A `core.Embedder`. Make one with `load_encoder`."""

    def __init__(self, shared: SharedEncoder, *, max_tokens: int) -> None:
        self.shared = shared
        self.name = f"{shared.folder.name}@{shared.digest[:8]}"
        self.config = shared.config
        self.dim = shared.config.hidden_size
        self.max_tokens = max_tokens
        self.precision = shared.precision
        self.tokenizer_file = shared.folder.path / "tokenizer.json"
        self._tokenizer = load_tokenizer(self.tokenizer_file, max_tokens=max_tokens)

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Unit vectors `[len(texts), dim]`; a text is cut after `max_tokens` tokens."""
        encodings = self._tokenizer.encode_batch_fast(list(texts))
        vectors = self.shared.run([Row(SENTENCES, encoding.ids) for encoding in encodings])
        return np.stack(vectors) if vectors else np.empty((0, self.dim), dtype=np.float32)


def load_encoder(
    model: str = DEFAULT_ENCODER, precision: Precision = "auto", threads: int | None = None
) -> SentenceEncoder:
    """The encoder of that name (see `models.resolve.find_model`), verified, ready to embed.

    `threads` is how many batches are computed side by side; None takes torch's number of threads.
    Raises ModelError if the model is missing, altered, or not a BERT that pools by the mean.
    """
    _refuse_other_pooling(find_model(model).path)
    shared = load_shared_encoder(model, precision, threads)
    most = _max_tokens(shared.folder.path, shared.max_positions)
    return SentenceEncoder(shared, max_tokens=most)


def _max_tokens(folder: Path, max_positions: int) -> int:
    """What the model was trained on, if the folder says so, else as many as it has positions."""
    length = _read_if_there(folder / "sentence_bert_config.json").get("max_seq_length")
    return min(max_positions, length or max_positions)


def _refuse_other_pooling(folder: Path) -> None:
    """Raises ModelError if the folder says that its vectors are made in another way than ours."""
    path = folder / "1_Pooling" / "config.json"
    modes = {
        mode.removeprefix("pooling_mode_")
        for mode, used in _read_if_there(path).items()
        if mode.startswith("pooling_mode_") and used
    }
    if modes - {"mean_tokens"}:
        raise ModelError(f"{path}: the model pools by {', '.join(sorted(modes))}; only mean_tokens")


def _read_if_there(path: Path) -> dict[str, Any]:
    """A JSON object that sentence-transformers adds to a model's folder; other folders lack it."""
    if not path.is_file():
        return {}
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content
