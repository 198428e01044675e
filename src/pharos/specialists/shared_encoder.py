"""One encoder that does several things: sentences to vectors, and what its adapters have learned.

The base is a BERT, verified and read once. Each adapter is a *lane*: the base's body with the
adapter's low-rank updates added to its weights, and a head. All lanes share the tables of
embeddings, which are half of the parameters.

A call takes rows of several lanes. They are packed by lane and length, with hardly any padding,
and the batches of all lanes are computed side by side (`side_by_side`), so one call is one pass
over everything that a step of the pipeline wants to know.

Why updates are added to the weights, and not computed beside them for each row: with matrices of
rank 16 beside each linear, a batch of 15 pairs of 128 tokens took 10 to 35% longer and a single
question twice as long (bf16, one core of a busy machine), and higher ranks take more. In memory a
lane takes what its linears take, 21 MB in bf16. (`Adapters.route` computes adapters beside one
base, for models where a copy of the weights is too much.)

What is fastest depends on the processor (docs/benchmarks.md): bf16 where it multiplies bf16 in
hardware, else int8 where it has VNNI, else fp32.

Shapes: N rows of a packed batch, B texts, T tokens of a run, D width, C classes.
"""

from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Literal, NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray

from pharos.adapt import Adapters, load_adapter
from pharos.adapt.base_model import check_head, saved_names
from pharos.core.errors import ModelError
from pharos.models.checkpoint import WEIGHTS_FILE, sha256_of, verify_sha256
from pharos.models.encoder import PackedEncoder
from pharos.models.encoder_heads import EncoderHead
from pharos.models.load import load_model, load_under_new_head
from pharos.models.resolve import DEFAULT_ENCODER, ModelFolder, find_model
from pharos.ops import multiplies_bf16, pack
from pharos.ops.int8 import has_vnni
from pharos.ops.packing import Packed
from pharos.quant import convert_bf16, convert_int8
from pharos.specialists.cards import Card, HeadTask
from pharos.specialists.readouts import Readout, mean_vectors, readout_of
from pharos.specialists.side_by_side import SideBySide, plan_batches

Precision = Literal["auto", "fp32", "bf16", "int8"]
CONVERT: dict[str, Callable[[PackedEncoder], PackedEncoder]] = {
    "fp32": PackedEncoder.float,
    "bf16": convert_bf16,
    "int8": convert_int8,
}
SENTENCES = "sentences"
"""The lane of the base, which turns texts into vectors."""


class Row(NamedTuple):
    """A text, or a pair of texts, of which `first_len` tokens are the first (special tokens
    included), on its way through a lane. None: there is no second."""

    lane: str
    ids: Sequence[int]
    first_len: int | None = None

    @property
    def token_types(self) -> list[int]:
        first_len = len(self.ids) if self.first_len is None else self.first_len
        return [0] * first_len + [1] * (len(self.ids) - first_len)


class Lane(NamedTuple):
    body: PackedEncoder
    readout: Readout


class SharedEncoder:
    """Make one with `load_shared_encoder`."""

    def __init__(
        self, folder: ModelFolder, digest: str, *, precision: str, side_by_side: SideBySide
    ) -> None:
        self.folder, self.digest, self.precision = folder, digest, precision
        self._side_by_side = side_by_side
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        body = self._converted(_load_body(folder.path))
        self.config = body.config
        self.max_positions = body.max_positions
        self.lanes = {SENTENCES: Lane(body, mean_vectors)}

    def add(self, name: str, folder: Path, card: Card) -> None:
        """The adapter in a folder as a lane of its own. Raises ModelError if it is for another
        base, or does not fit."""
        if card.base_sha256 != self.digest:
            raise ModelError(
                f"{folder} is for {card.base} ({card.base_sha256[:8]}…), and this encoder is "
                f"{self.folder.name} ({self.digest[:8]}…); train it again on this one"
            )
        head = merged_head(self.folder.path, folder, card.task, card.labels)
        self.put(name, head, readout_of(head))

    def put(self, name: str, head: EncoderHead, readout: Readout) -> None:
        """A lane of the body under a head, whose tables must be the base's."""
        body = cast(PackedEncoder, head.body)
        self._share_tables(body)
        head.to(self._device)
        self.lanes[name] = Lane(self._converted(body), readout)

    @property
    def threads(self) -> int:
        return self._side_by_side.threads

    def run(self, rows: Sequence[Row]) -> list[NDArray[np.float32]]:
        """What each row's lane says of it: a vector `[D]` of sentences, logits `[C]` of a
        classifier, `[2, T]` (starts and ends) of a reader."""
        by_lane: dict[str, list[int]] = defaultdict(list)
        for i, row in enumerate(rows):
            by_lane[row.lane].append(i)
        batches = [
            [numbers[i] for i in batch]
            for numbers in by_lane.values()
            for batch in self._planned([len(rows[i].ids) for i in numbers])
        ]
        results = self._side_by_side.map(
            lambda batch: self._run_batch([rows[i] for i in batch]), batches
        )
        found: dict[int, NDArray[np.float32]] = {}
        for batch, outputs in zip(batches, results, strict=True):
            found |= zip(batch, outputs, strict=True)
        return [found[i] for i in range(len(rows))]

    def _planned(self, lengths: Sequence[int]) -> list[list[int]]:
        return plan_batches(lengths, self._side_by_side.num_batches(sum(lengths)))

    @torch.inference_mode()
    def _run_batch(self, rows: Sequence[Row]) -> Sequence[NDArray[np.float32]]:
        """Rows of one lane."""
        lane = self.lanes[rows[0].lane]
        batch = pack_rows(rows, self._device)
        return lane.readout(lane.body.encode(batch), batch.runs, [len(row.ids) for row in rows])

    def _converted(self, body: PackedEncoder) -> PackedEncoder:
        return CONVERT[self.precision](body.to(self._device)).eval()

    def _share_tables(self, body: PackedEncoder) -> None:
        """An adapter leaves the tables alone, so those of the base do."""
        base = self.lanes[SENTENCES].body
        body.embedding, body.position = base.embedding, base.position
        body.token_type, body.embedding_norm = base.token_type, base.embedding_norm


def load_shared_encoder(
    model: str = DEFAULT_ENCODER, precision: Precision = "auto", threads: int | None = None
) -> SharedEncoder:
    """The encoder of that name (see `models.resolve.find_model`), verified, with one lane.

    `threads` is how many batches are computed side by side; None takes torch's number of threads.
    Raises ModelError if the model is missing, altered, or not a BERT or a relative.
    """
    folder = find_model(model)
    digest = _verified_digest(folder)
    return SharedEncoder(
        folder,
        digest,
        precision=best_precision() if precision == "auto" else precision,
        side_by_side=SideBySide(threads or torch.get_num_threads()),
    )


def best_precision() -> Precision:
    """The fastest precision on this machine that keeps the cosine to fp32 above 0.995."""
    if torch.cuda.is_available():
        return "bf16" if torch.cuda.is_bf16_supported() else "fp32"
    if multiplies_bf16():
        return "bf16"
    return "int8" if has_vnni() else "fp32"


def merged_head(base: Path, folder: Path, task: HeadTask, labels: Sequence[str]) -> EncoderHead:
    """The base with an adapter in its weights, under the adapter's head, in float32. Raises
    ModelError for an adapter that does not hold its head whole: what is missing would be random."""
    head, fresh = load_under_new_head(base, task, labels=labels or None)
    adapters = Adapters(head)
    load_adapter(adapters, folder)
    _check_saved(adapters, fresh, folder)
    return cast(EncoderHead, adapters.merge_and_unload())


def _check_saved(adapters: Adapters, fresh: Collection[str], folder: Path) -> None:
    """Of what is saved whole: all that the base does not have, and nothing of its body."""
    check_head(adapters, fresh, folder)
    saved = saved_names(adapters)
    for ours, source in adapters.weight_map.items():
        for name in source.names:
            if ours.startswith("body.") and name in saved:
                raise ModelError(f"{folder} replaces {name}, which all specialists share")


def pack_rows(rows: Sequence[Row], device: torch.device) -> Packed:
    """Rows as one packed batch, with their segments if any has a second."""
    batch = pack([row.ids for row in rows], device=device)
    if all(row.first_len is None for row in rows):
        return batch
    types = pack([row.token_types for row in rows], device=device).ids
    return batch._replace(token_types=types)


def _verified_digest(folder: ModelFolder) -> str:
    if folder.sha256 is None:
        return sha256_of(folder.path / WEIGHTS_FILE)
    verify_sha256(folder.path / WEIGHTS_FILE, folder.sha256)
    return folder.sha256


def _load_body(folder: Path) -> PackedEncoder:
    model = load_model(folder, task="body")
    if not isinstance(model, PackedEncoder):
        kind = model.config.model_type
        raise ModelError(f"{folder} is a {kind}; sentences are embedded by a BERT or a relative")
    return model
