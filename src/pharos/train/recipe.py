"""A recipe: everything a run is told, as frozen dataclasses whose fields are the keys of the YAML.

What can be found wrong without loading anything is found here: unknown keys, batches that cannot be
dealt, sequences longer than the model, meshes larger than the world.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from pharos.adapt import LoraConfig, PromptTuningConfig
from pharos.core.errors import ModelError, TrainingError
from pharos.data.train_tokenizer import TokenizerConfig
from pharos.models.checkpoint import read_config
from pharos.models.config import ModelConfig
from pharos.models.load import family_of
from pharos.models.resolve import find_model
from pharos.train.adaptation import check_trains_tokens, read_adaptation
from pharos.train.data_folder import expanded
from pharos.train.data_section import RecordData, TextData
from pharos.train.fresh_config import fresh_config
from pharos.train.loop_config import LoopConfig
from pharos.train.model_section import ModelSection
from pharos.train.objectives import OBJECTIVES
from pharos.train.objectives.distillation import DistillationKeys
from pharos.train.optimizers import OptimizerConfig
from pharos.train.parallel import ParallelConfig
from pharos.train.record_data import USED, check_keys
from pharos.train.schedules import ScheduleConfig
from pharos.train.settings import read_settings


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenizerSection:
    """`load` is a folder or a model's name (default: the one beside the model's weights); `train`
    learns one from the texts of all sources, or from every text in the records."""

    load: str | None = None
    train: TokenizerConfig | None = None

    def __post_init__(self) -> None:
        if self.load is not None and self.train is not None:
            raise ValueError("load and train are both given; keep one of them")


@dataclass(frozen=True, kw_only=True, slots=True)
class SampleSection:
    """What is generated at each evaluation, to be read."""

    prompts: tuple[str, ...]
    max_tokens: int = 100
    temperature: float = 0.8
    top_k: int = 0

    def __post_init__(self) -> None:
        if not self.prompts:
            raise ValueError("prompts is empty; name at least one, or leave sample out")
        if self.max_tokens < 1:
            raise ValueError(f"max_tokens is {self.max_tokens}; it must be at least 1")
        if not self.temperature >= 0:
            raise ValueError(
                f"temperature is {self.temperature}; it must be 0 (always the likeliest) or more"
            )
        if self.top_k < 0:
            raise ValueError(f"top_k is {self.top_k}; it must be 0 (all tokens) or more")


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """`output` is the folder that everything of the run is written to; `adapter` trains a few
    weights beside frozen ones (see `adaptation.read_adaptation`); `parallel` is how many
    processes have what (default: each has rows of its own); `about` and `measured` are for readers:
    what the recipe shows, and what it cost and came to. With `merge`, the trained adapter is also
    merged into its model: `merged/` in the output."""

    output: str
    model: ModelSection
    objective: Mapping[str, Any]
    data: TextData | RecordData
    training: LoopConfig
    tokenizer: TokenizerSection = field(default_factory=TokenizerSection)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    adapter: Mapping[str, Any] | None = None
    merge: bool = False
    parallel: ParallelConfig | None = None
    sample: SampleSection | None = None
    device: Literal["auto", "cpu", "cuda"] = "auto"
    seed: int = 0
    about: str = ""
    measured: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"seed is {self.seed}; it must be from 0 to {2**32 - 1}")
        if "name" not in self.objective:
            raise ValueError("objective has no name; causal_lm for example")
        if self.merge and self.adapter is None:
            raise ValueError("merge is for an adapter, and the recipe has none; leave it out")
        if self.adapter is not None and self.model.load is None:
            raise ValueError("an adapter is for a model that has learned already; give model.load")
        if self.adapter is not None and self.model.freeze:
            raise ValueError(
                "model.freeze is for full fine-tuning: of a model with an adapter nothing else is "
                "trained; leave one of them out"
            )


def read_recipe(raw: Mapping[str, Any]) -> Recipe:
    """Raises TrainingError for what breaks a rule, naming key, value and remedy."""
    recipe = read_settings(Recipe, expanded(raw))
    _check_objective(recipe.objective)
    _check_optimizer(recipe)
    _check_data(recipe)
    _check_adapter(recipe)
    _check_new_tokens(recipe)
    _check_lengths(recipe)
    return recipe


def decisive(recipe: Recipe) -> dict[str, str]:
    """The settings that decide which weights are trained, step by step, by their keys."""
    told = {
        key: value
        for key, value in asdict(recipe).items()
        if key not in ("output", "about", "measured", "merge", "sample", "parallel", "device")
    }
    # What is switched off is not told: checkpoints from before there was such a key go on.
    told["model"] = {k: v for k, v in told["model"].items() if v is not False and v != ()}
    harmless = HARMLESS - NEGATIVES if recipe.objective["name"] in CONTRASTIVE else HARMLESS
    if recipe.schedule.name == "constant":
        harmless = harmless | LENGTH
    told["training"] = {k: v for k, v in told["training"].items() if k not in harmless}
    return dict(_flat("", told))


def _flat(where: str, value: Any) -> Iterator[tuple[str, str]]:
    """Each setting that is given, with its key."""
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from _flat(f"{where}.{key}" if where else str(key), inner)
    elif value is not None:
        yield where, str(value)


def data_fingerprint(recipe: Recipe) -> str:
    """Of the settings that prepared data depends on, the model that gives the tokenizer among them;
    not of how rows are cut from the stored texts and mixed."""
    data = asdict(recipe.data)
    if isinstance(recipe.data, TextData):
        data = {key: value for key, value in data.items() if key not in NOT_STORED}
        for source in data["sources"].values():
            del source["weight"]
    begun_with = [recipe.model.load, recipe.model.student_of, *recipe.model.new_tokens]
    told = [data, asdict(recipe.tokenizer), begun_with, recipe.seed]
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:16]


NOT_STORED = {"sequence_length", "packing", "milestones", "change"}
"""Keys of `data` that change nothing in the stored texts and tokens."""
HARMLESS = {
    "workers",
    "log_every",
    "evaluate_every",
    "evaluation_rows",
    "checkpoint_every",
    "keep",
    "watch_for_spikes",
    "check_first_step",
    "micro_batch_size",
    "activation_checkpointing",
    "compile",
}
"""Keys of `training` that change nothing, or nothing but the order of sums, in what is trained."""
LENGTH = {"steps"}
"""A constant learning rate does not depend on how long the run is: it may go on for longer."""
CONTRASTIVE = {"info_nce", "sigmoid_pairs"}
NEGATIVES = {"micro_batch_size"}
"""What the pairs of a micro-batch are compared with depends on its size."""


def _check_objective(objective: Mapping[str, Any], where: str = "objective") -> None:
    """Raises TrainingError for a name or a key that there is none of, here or in the language
    model's own objective of a distillation."""
    name = objective["name"]
    if not isinstance(name, str) or name not in OBJECTIVES:
        raise TrainingError(
            f"unknown objective {name!r}; choose from {', '.join(sorted(OBJECTIVES))}"
        )
    keys = {key: value for key, value in objective.items() if key != "name"}
    config: object = read_settings(OBJECTIVES[name].config, keys, where)
    if isinstance(config, DistillationKeys):
        _check_objective(config.hard, f"{where}.hard")


def _check_optimizer(recipe: Recipe) -> None:
    """Its state must have a place in the checkpoints of a mesh."""
    if recipe.optimizer.name != "adamw8bit" or recipe.parallel is None:
        return
    for axis in ("shard", "tensor", "expert"):
        size = getattr(recipe.parallel, axis)
        if size > 1:
            raise TrainingError(
                f"optimizer.name is adamw8bit and parallel.{axis} is {size}: where weights lie in "
                "pieces, no checkpoint can hold a state that is laid out in blocks; choose adamw "
                f"or muon, or set parallel.{axis} to 1"
            )


def _check_data(recipe: Recipe) -> None:
    """Texts are for some objectives, records for the others."""
    name = str(recipe.objective["name"])
    if isinstance(recipe.data, RecordData):
        check_keys(recipe.data, name)
    elif name in USED:
        raise TrainingError(
            f"objective.name is {name}, which learns from records: give data.train instead of "
            f"data.sources; texts are for {', '.join(sorted(OBJECTIVES.keys() - USED.keys()))}"
        )


def _check_adapter(recipe: Recipe) -> None:
    """A trained prompt stands in front of each text: not everything can be done with it."""
    if recipe.adapter is None:
        return
    adaptation = read_adaptation(recipe.adapter)
    if recipe.merge and not isinstance(adaptation.config, LoraConfig):
        raise TrainingError(
            f"adapter.method {recipe.adapter['method']} trains what no weight of the model can "
            "hold, so it cannot be merged; set merge to false, or choose lora"
        )
    if not isinstance(adaptation.config, PromptTuningConfig):
        return
    if recipe.objective["name"] != "sft":
        raise TrainingError(
            f"adapter.method prompt_tuning is for the objective sft, and this is "
            f"{recipe.objective['name']}; choose lora"
        )
    if isinstance(recipe.data, RecordData) and recipe.data.packing:
        raise TrainingError(
            "adapter.method prompt_tuning needs a row for each conversation; set data.packing to "
            "false"
        )
    if recipe.sample is not None:
        raise TrainingError("sample cannot write behind a trained prompt; leave it out")


def _check_new_tokens(recipe: Recipe) -> None:
    """Who trains their embeddings, and who else would have to know them."""
    if not recipe.model.new_tokens:
        return
    if recipe.adapter is not None:
        check_trains_tokens(read_adaptation(recipe.adapter))
    for key in ("reference", "teacher"):
        if recipe.objective.get(key) is not None:
            raise TrainingError(
                f"objective.{key} is a model without model.new_tokens; learn them with sft first, "
                "and go on from what came of it"
            )


def _check_lengths(recipe: Recipe) -> None:
    """A sequence must fit the model, where it is known by now how long those may be."""
    data, config = recipe.data, _known_config(recipe.model)
    if config is None:
        return
    key = "sequence_length" if isinstance(data, TextData) else "max_tokens"
    length = data.sequence_length if isinstance(data, TextData) else data.max_tokens
    most = getattr(config, "max_position_embeddings", None)
    if most is not None and length > most:
        name = config.RENAMED.get("max_position_embeddings", "max_position_embeddings")
        longer = (
            f"model.config.{name} at least {length}"
            if recipe.model.config is not None
            else "begin with a model that has more"
        )
        raise TrainingError(
            f"data.{key} is {length}, and the model has {most} positions; make it at most {most}, "
            f"or {longer}"
        )


def _known_config(section: ModelSection) -> ModelConfig | None:
    """None for a model that is not on this machine: who loads it tells how it comes here."""
    if section.config is not None:
        return fresh_config(section.config)
    name = section.load or section.student_of
    assert name is not None
    try:
        folder = find_model(name).path
    except ModelError:
        return None
    raw = read_config(folder)
    return family_of(raw.get("model_type")).config.from_hugging_face(raw)


def model_config(raw: Mapping[str, Any]) -> ModelConfig:
    """The sizes that a recipe or a folder tells; `vocab_size` may be left out."""
    return family_of(raw.get("model_type")).config.from_hugging_face({"vocab_size": 1, **raw})


def plain(recipe: Recipe) -> dict[str, Any]:
    """As it may stand in a file: every key, also those that were left out."""
    return _plain(recipe)  # type: ignore[no-any-return]


def _plain(value: Any) -> Any:
    if hasattr(value, "__dataclass_fields__"):
        return {each.name: _plain(getattr(value, each.name)) for each in fields(value)}
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(inner) for inner in value]
    return str(value) if isinstance(value, Path) else value
