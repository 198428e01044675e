"""What the reference says of each pair, computed once and kept on the disk.

    rows = ReferenceRows.computed(rows, model, "reference.npz", pad_id=0, batch_size=8)

After that no reference is needed in memory. The file knows by a fingerprint which weights and which
pairs it is of; with any others it is computed anew.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from pharos.data.rows import Row, Rows
from pharos.models.heads import CausalLM
from pharos.train.completions import log_probs_of
from pharos.train.objectives.preference import KINDS, LogProbs, pair_batch


class ReferenceRows:
    """Pairs with `chosen_reference` and `rejected_reference`, the sums of log-probabilities."""

    def __init__(self, rows: Rows, sums_N2: NDArray[np.float32]) -> None:
        self.rows, self.sums_N2 = rows, sums_N2

    @classmethod
    def computed(
        cls,
        rows: Rows,
        reference: CausalLM,
        path: Path,
        *,
        pad_id: int,
        batch_size: int,
        dtype: torch.dtype = torch.float32,
    ) -> "ReferenceRows":
        """From the file if it is of this model and these rows; else it is written. `dtype` is what
        is computed in, as in the run."""
        pairs = [rows.row(i, 0) for i in range(len(rows))]
        wanted = f"{fingerprint(reference, pairs)} {dtype}"
        found = _read(path, wanted)
        if found is None:
            device = reference.body.embedding.weight.device
            with torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32):
                found = _sums(reference, pairs, pad_id=pad_id, batch_size=batch_size)
            _write(path, wanted, found)
        return cls(rows, found)

    def __len__(self) -> int:
        return len(self.rows)

    def row(self, index: int, epoch: int) -> Row:
        chosen, rejected = self.sums_N2[index]
        return {
            **self.rows.row(index, epoch),
            "chosen_reference": np.asarray(chosen),
            "rejected_reference": np.asarray(rejected),
        }


def fingerprint(model: CausalLM, pairs: Sequence[Row]) -> str:
    """Of all weights and all pairs."""
    digest = hashlib.blake2b(digest_size=16)
    for name, parameter in model.named_parameters():
        digest.update(f"{name} {tuple(parameter.shape)} {parameter.dtype}".encode())
        digest.update(parameter.detach().cpu().contiguous().view(torch.uint8).numpy().data)
    for pair in pairs:
        for name in ("prompt_ids", *(f"{kind}_ids" for kind in KINDS)):
            ids = np.asarray(pair[name], dtype=np.int64)
            digest.update(len(ids).to_bytes(8, "little"))
            digest.update(ids.tobytes())
    return digest.hexdigest()


@torch.no_grad()
def _sums(
    model: CausalLM, pairs: Sequence[Row], *, pad_id: int, batch_size: int
) -> NDArray[np.float32]:
    device = model.body.embedding.weight.device
    was_training = model.training
    model.eval()
    parts = []
    for first in range(0, len(pairs), batch_size):
        batch = pair_batch(pairs[first : first + batch_size], pad_id=pad_id)
        batch = {name: x.to(device) for name, x in batch.items()}
        sums = LogProbs.of(log_probs_of(model, batch).sum(dim=1))
        parts.append(torch.stack(list(sums), dim=1).cpu().numpy())
    model.train(was_training)
    return np.concatenate(parts).astype(np.float32)


def _read(path: Path, wanted: str) -> NDArray[np.float32] | None:
    if not path.is_file():
        return None
    with np.load(path, allow_pickle=False) as file:
        is_same = str(file["fingerprint"]) == wanted
        return np.asarray(file["log_probs"], dtype=np.float32) if is_same else None


def _write(path: Path, wanted: str, sums_N2: NDArray[np.float32]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial.npz")
    np.savez(partial, fingerprint=np.array(wanted), log_probs=sums_N2)
    partial.replace(path)
