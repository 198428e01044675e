"""Sentences to vectors with a BERT (Reimers & Gurevych 2019, arXiv:1908.10084).

The mean over a text's last hidden states, scaled to length 1. Texts are sorted by length and
packed into batches small enough for the processor's cache. Each batch is computed by one thread,
several side by side: threads that share an operator wait for each other hundreds of times a batch,
and where another process holds a core, each wait is a time slice of the scheduler (on a busy
machine a question took 600 ms so, 10 ms on one thread).

What is fastest depends on the processor (docs/benchmarks.md): bf16 where it multiplies bf16 in
hardware, else int8 where it has VNNI, else fp32.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Thread
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from pharos.core.errors import ModelError
from pharos.data.tokenizer import load_tokenizer
from pharos.models.checkpoint import WEIGHTS_FILE, sha256_of, verify_sha256
from pharos.models.encoder import PackedEncoder
from pharos.models.load import load_model
from pharos.models.resolve import DEFAULT_ENCODER, ModelFolder, find_model
from pharos.ops import mean_pool, pack
from pharos.ops.int8 import has_vnni
from pharos.quant import convert_bf16, convert_int8

Precision = Literal["auto", "fp32", "bf16", "int8"]
CONVERT: dict[str, Callable[[PackedEncoder], PackedEncoder]] = {
    "fp32": PackedEncoder.float,
    "bf16": convert_bf16,
    "int8": convert_int8,
}
BATCH_TOKENS = 2048
LEAST_BATCH_TOKENS = 256
"""Below this, a batch is not worth splitting between threads."""


class SentenceEncoder:
    """A `core.Embedder`. Make one with `load_encoder`."""

    def __init__(
        self,
        model: PackedEncoder,
        tokenizer_file: Path,
        *,
        name: str,
        max_tokens: int,
        precision: str,
        threads: int,
    ) -> None:
        self.name = name
        self.config = model.config
        self.dim = model.config.hidden_size
        self.max_tokens = max_tokens
        self.precision = precision
        self.tokenizer_file = tokenizer_file
        self._model = model.eval()
        self._device = model.embedding.weight.device
        self._tokenizer = load_tokenizer(tokenizer_file, max_tokens=max_tokens)
        self._threads = threads
        self._pool = ThreadPoolExecutor(threads, "embed", _use_one_core)

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Unit vectors `[len(texts), dim]`; a text is cut after `max_tokens` tokens."""
        ids = [encoding.ids for encoding in self._tokenizer.encode_batch_fast(list(texts))]
        lengths = [len(text) for text in ids]
        share = max(sum(lengths) // self._threads, LEAST_BATCH_TOKENS)
        batches = list(plan_batches(lengths, min(share, BATCH_TOKENS)))
        vectors = np.empty((len(ids), self.dim), dtype=np.float32)
        results = self._pool.map(self._embed_batch, ([ids[i] for i in batch] for batch in batches))
        for batch, rows in zip(batches, results, strict=True):
            vectors[batch] = rows
        return vectors

    @torch.inference_mode()
    def _embed_batch(self, ids: Sequence[Sequence[int]]) -> NDArray[np.float32]:
        batch = pack(ids, device=self._device)
        means_BD = mean_pool(self._model.encode(batch), batch.runs)
        vectors: NDArray[np.float32] = nn.functional.normalize(means_BD, dim=-1).cpu().numpy()
        return vectors


def load_encoder(
    model: str = DEFAULT_ENCODER, precision: Precision = "auto", threads: int | None = None
) -> SentenceEncoder:
    """The encoder of that name (see `models.resolve.find_model`), verified, ready to embed.

    `threads` is how many batches are computed side by side; None takes torch's number of threads.
    Raises ModelError if the model is missing, altered, or not a BERT that pools by the mean.
    """
    folder = find_model(model)
    digest = _verified_digest(folder)
    _refuse_other_pooling(folder.path)
    chosen = best_precision() if precision == "auto" else precision
    bert = _load_bert(folder.path).to("cuda" if torch.cuda.is_available() else "cpu")
    return SentenceEncoder(
        CONVERT[chosen](bert),
        folder.path / "tokenizer.json",
        name=f"{folder.name}@{digest[:8]}",
        max_tokens=_max_tokens(folder.path, bert.max_positions),
        precision=chosen,
        threads=threads or torch.get_num_threads(),
    )


def best_precision() -> Precision:
    """The fastest precision on this machine that keeps the cosine to fp32 above 0.995."""
    if torch.cuda.is_available():
        return "bf16" if torch.cuda.is_bf16_supported() else "fp32"
    if torch.cpu.get_capabilities().get("avx512_bf16"):
        return "bf16"
    return "int8" if has_vnni() else "fp32"


def plan_batches(lengths: Sequence[int], max_tokens: int) -> Iterator[list[int]]:
    """Indices of texts, longest first, in batches whose lengths add up to at most `max_tokens`
    (a single longer text is a batch of its own)."""
    batch: list[int] = []
    room = max_tokens
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if batch and lengths[i] > room:
            yield batch
            batch, room = [], max_tokens
        batch.append(i)
        room -= lengths[i]
    if batch:
        yield batch


def _use_one_core() -> None:
    """Let torch's operators run in the calling thread alone.

    `set_num_threads` also sets what threads to come start with; a passing thread puts that back.
    """
    default = torch.get_num_threads()
    torch.set_num_threads(1)
    restore = Thread(target=torch.set_num_threads, args=(default,))
    restore.start()
    restore.join()


def _verified_digest(folder: ModelFolder) -> str:
    if folder.sha256 is None:
        return sha256_of(folder.path / WEIGHTS_FILE)
    verify_sha256(folder.path / WEIGHTS_FILE, folder.sha256)
    return folder.sha256


def _load_bert(folder: Path) -> PackedEncoder:
    model = load_model(folder, task="body")
    if not isinstance(model, PackedEncoder):
        kind = model.config.model_type
        raise ModelError(f"{folder} is a {kind}; sentences are embedded by a BERT or a relative")
    return model


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
