"""The specialists that ship: an adapter in PEFT's files, and a card that says what it is.

    adapters/NAME/adapter_config.json, adapter_model.safetensors, card.json

The card holds what a user may want to know (data, licence, figures, limits, the command that makes
it again) and what the program has to (the base and its checksum, classes, lengths, calibration).
A specialist that is not there is no error: what it would have said is not said.
"""

import difflib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

from pharos.core.errors import ModelError
from pharos.core.json_files import read_object, write_object
from pharos.core.logistic import Logistic
from pharos.models.checkpoint import sha256_of, verify_sha256

SPECIALISTS = ("reranker", "reader", "injection", "grounding")
"""In the order in which a question meets them. (A router's routes are the user's own.)"""

ADAPTERS = Path(__file__).with_name("adapters")
CARD_FILE = "card.json"
WEIGHTS_FILE = "adapter_model.safetensors"

HeadTask = Literal["sequence_classification", "question_answering"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Card:
    """`base` is the model that the adapter is for and `base_sha256` the checksum of its weights,
    `sha256` that of the adapter's. `labels` are a classifier's, in the order of its outputs.

    `max_tokens` is the length, special tokens included, of the pairs (or texts) it was trained on;
    longer ones are read in windows that share `stride` tokens. `calibration` turns what it says
    into probabilities: by name, a logistic model over signs (see the specialist's own file).
    `threshold` is the probability from which on to act. The other fields are for people.
    """

    name: str
    task: HeadTask
    base: str
    base_sha256: str
    sha256: str
    labels: tuple[str, ...] = ()
    max_tokens: int = 128
    stride: int = 32
    calibration: Mapping[str, Logistic] = field(default_factory=dict)
    threshold: float = 0.5
    about: str = ""
    data: str = ""
    licence: str = ""
    command: str = ""
    figures: Mapping[str, Any] = field(default_factory=dict)
    limits: str = ""

    def __post_init__(self) -> None:
        if self.task not in get_args(HeadTask):
            known = ", ".join(get_args(HeadTask))
            raise ModelError(f"card of {self.name}: task is {self.task!r}; choose from {known}")
        if self.max_tokens < 16 or not 0 <= self.stride < self.max_tokens // 2:
            raise ModelError(
                f"card of {self.name}: max_tokens is {self.max_tokens} and stride {self.stride}; "
                "a window has at least 16 tokens and shares less than half with the next"
            )
        if not 0.0 <= self.threshold <= 1.0:
            raise ModelError(
                f"card of {self.name}: threshold is {self.threshold}; it is a probability"
            )

    def class_of(self, label: str) -> int:
        """Which output a label is."""
        if label not in self.labels:
            raise ModelError(
                f"card of {self.name}: there is no label {label!r} among {', '.join(self.labels)}; "
                "train it with labels of these names"
            )
        return self.labels.index(label)

    def calibrated(self, name: str, usual: Logistic) -> Logistic:
        """The calibration of that name, or the usual one. Raises ModelError for a sign that is not
        among the usual ones."""
        found = self.calibration.get(name, usual)
        for sign in found.weights:
            if sign not in usual.weights:
                known = ", ".join(usual.weights)
                raise ModelError(
                    f"card of {self.name}: {name} weighs {sign!r}; its signs are {known}"
                )
        return found


def read_card(folder: Path) -> Card:
    """The card of an adapter's folder. Raises ModelError for a key that is unknown or missing."""
    path = folder / CARD_FILE
    raw = read_object(path)
    known = [each.name for each in fields(Card)]
    for key in raw:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else f"; known are {', '.join(known)}"
            raise ModelError(f"{path}: unknown key {key!r}{hint}")
    try:
        calibration = {
            name: Logistic(**model) for name, model in raw.pop("calibration", {}).items()
        }
        return Card(**raw | {"labels": tuple(raw.get("labels", ())), "calibration": calibration})
    except (TypeError, AttributeError) as error:
        raise ModelError(f"{path} is no card of a specialist: {error}") from error


def write_card(folder: Path, card: Card) -> None:
    """Beside the adapter that is in the folder already."""
    write_object(folder / CARD_FILE, asdict(card))


def specialist_folder(name: str, adapters: Path = ADAPTERS) -> Path | None:
    """Where a specialist's files are, or None if it is not there."""
    folder = adapters / name
    return folder if (folder / CARD_FILE).is_file() else None


def verified_card(folder: Path) -> Card:
    """The card of an adapter whose weights are, byte for byte, the ones that it describes."""
    card = read_card(folder)
    verify_sha256(folder / WEIGHTS_FILE, card.sha256)
    return card


class Survey(NamedTuple):
    """Names of the specialists that are whole and that are missing, and for each of the others what
    is wrong with it."""

    present: list[str]
    missing: list[str]
    damaged: list[str]


def survey(adapters: Path = ADAPTERS) -> Survey:
    """Which specialists are there."""
    found = Survey([], [], [])
    for name in SPECIALISTS:
        folder = specialist_folder(name, adapters)
        try:
            if folder is None:
                found.missing.append(name)
            else:
                found.present.append(verified_card(folder).name)
        except ModelError as error:
            found.damaged.append(str(error))
    return found


def weights_digest(folder: Path) -> str:
    """What `Card.sha256` must be for the adapter in this folder."""
    return sha256_of(folder / WEIGHTS_FILE)
