"""Two towers that share one encoder, as a folder: the encoder is a model as every other, and beside
it `towers.safetensors` has what a contrastive objective learned besides:

    log_scale            [1]
    bias                 [1]       only of SigLIP's
    projection.weight    [E, D]    only where the shared space has a width of its own

and in its metadata, under `pooling`, what a text's vector is pooled from.
"""

from pathlib import Path
from typing import cast, get_args

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from pharos.core.errors import ModelError
from pharos.models.family import Body
from pharos.models.load import load_model, save_model
from pharos.models.two_towers import Pooling, TextTower, TwoTowers

TOWERS_FILE = "towers.safetensors"
SCALE, BIAS, PROJECTION = "log_scale", "bias", "projection.weight"


def save_towers(towers: TwoTowers, folder: Path) -> None:
    """Of two texts that share a tower: a model folder, and `towers.safetensors` in it."""
    tower = towers.first
    assert isinstance(tower, TextTower), "other towers have files of their own"
    assert towers.second is None, "both sides share it"
    save_model(tower.body, folder)
    learned: dict[str, Tensor] = {SCALE: towers.log_scale.detach().cpu()}
    if towers.bias is not None:
        learned[BIAS] = towers.bias.detach().cpu()
    if tower.projection is not None:
        learned[PROJECTION] = tower.projection.weight.detach().cpu().contiguous()
    part = folder / f"{TOWERS_FILE}.part"
    save_file(learned, part, metadata={"format": "pt", "pooling": tower.pooling})
    part.chmod((folder.stat().st_mode & 0o666) | 0o600)  # safetensors writes for the owner only
    part.replace(folder / TOWERS_FILE)


def load_towers(folder: str | Path) -> TwoTowers:
    """What `save_towers` wrote, ready to run: `towers.first` makes vectors of texts. Raises
    ModelError for a folder that holds no towers, and for a file that does not fit its model."""
    path = Path(folder) / TOWERS_FILE
    learned, pooling = _read(path)
    body = cast(Body, load_model(folder, task="body"))
    width = len(learned[PROJECTION]) if PROJECTION in learned else None
    tower = TextTower(body, width=width, pooling=pooling)
    towers = TwoTowers(tower, bias=0.0 if BIAS in learned else None)
    ours = {PROJECTION: f"first.{PROJECTION}"}
    try:
        named = {ours.get(name, name): tensor for name, tensor in learned.items()}
        towers.load_state_dict(named, strict=False)
    except RuntimeError as error:
        raise ModelError(f"{path} does not fit the model beside it: {error}") from error
    return towers.eval()


def _read(path: Path) -> tuple[dict[str, Tensor], Pooling]:
    if not path.is_file():
        raise ModelError(
            f"{path.parent} has no {TOWERS_FILE}: it is a model, but no towers; train them with "
            "objective info_nce or sigmoid_pairs"
        )
    try:
        with safe_open(path, "pt") as file:
            pooling = (file.metadata() or {}).get("pooling")
            learned = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{path} cannot be read as safetensors: {error}") from error
    if pooling not in get_args(Pooling):
        raise ModelError(
            f"{path}: its metadata has pooling {pooling!r}; it must be one of "
            f"{', '.join(get_args(Pooling))}"
        )
    if SCALE not in learned or learned.keys() - {SCALE, BIAS, PROJECTION}:
        raise ModelError(
            f"{path} holds {', '.join(sorted(learned)) or 'nothing'}; it must have {SCALE}, and "
            f"may have {BIAS} and {PROJECTION}"
        )
    return learned, cast(Pooling, pooling)
