"""The vectors that a classifier's adapter makes of texts, before it classifies them.

`pharos train` (sequence classification) has moved texts of one class together and those of others
apart: a router that is trained on these vectors needs little to be right, and to tell what is none
of its routes.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open

from pharos.core.errors import ModelError
from pharos.data.tokenizer import load_tokenizer
from pharos.models.encoder_heads import FirstTokenClassifier
from pharos.specialists.cards import WEIGHTS_FILE, weights_digest
from pharos.specialists.readouts import pooled_vectors
from pharos.specialists.shared_encoder import Row, SharedEncoder, merged_head


class AdapterFeatures:
    """A `core.Embedder`, from the folder of a sequence classification's adapter. Raises ModelError
    for one that is no such thing."""

    def __init__(self, shared: SharedEncoder, folder: Path, *, max_tokens: int = 128) -> None:
        self._shared = shared
        self.dim, self.max_tokens = shared.config.hidden_size, max_tokens
        self.name = f"{shared.folder.name}@{shared.digest[:8]}+{weights_digest(folder)[:8]}"
        labels = [str(number) for number in range(num_classes(folder))]
        head = merged_head(shared.folder.path, folder, "sequence_classification", labels)
        shared.put(self.name, head, pooled_vectors(cast(FirstTokenClassifier, head)))
        file = shared.folder.path / "tokenizer.json"
        self._tokenizer = load_tokenizer(file, max_tokens=max_tokens)

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Unit vectors `[len(texts), dim]`; a text is cut after `max_tokens` tokens."""
        encodings = self._tokenizer.encode_batch_fast(list(texts))
        vectors = self._shared.run([Row(self.name, encoding.ids) for encoding in encodings])
        return np.stack(vectors) if vectors else np.empty((0, self.dim), dtype=np.float32)


def num_classes(folder: Path) -> int:
    """How many outputs the classifier in an adapter's folder has."""
    with safe_open(folder / WEIGHTS_FILE, framework="np") as file:
        for key in file.keys():  # noqa: SIM118 - the file is no mapping
            if key.endswith("classifier.weight"):
                return int(file.get_slice(key).get_shape()[0])
    raise ModelError(
        f"{folder} holds no classifier; train it with objective sequence_classification"
    )
