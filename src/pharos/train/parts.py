"""What a run needs beside the model: tokenizer, objective and data, as its recipe tells."""

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from pharos.core.errors import TrainingError
from pharos.data.tokenizer import Tokenizer
from pharos.data.train_tokenizer import TokenizerConfig
from pharos.models.family import Task
from pharos.models.resolve import find_model
from pharos.train.conversation_data import CONVERSATIONAL, Chat, conversation_data
from pharos.train.data_folder import check_there
from pharos.train.data_section import RecordData, TextData
from pharos.train.loop_config import DTYPES
from pharos.train.objective import Objective
from pharos.train.objectives import Vocabulary, new_objective
from pharos.train.objectives.preference import DPO
from pharos.train.prompt_data import FOR_PROMPTS, prompt_data
from pharos.train.recipe import Recipe, data_fingerprint
from pharos.train.record_data import record_data, record_texts
from pharos.train.reference_data import with_reference
from pharos.train.text_data import (
    LEARNED_TOKENIZER,
    TOKENIZER_FILE,
    Data,
    Preparation,
    learn_tokenizer,
    text_data,
)

Say = Callable[[str], None]
PAIRS_FILE = "instructions.jsonl"


@dataclass(frozen=True, kw_only=True, slots=True)
class Parts:
    """What a run needs beside the model."""

    tokenizer: Tokenizer
    objective: Objective
    task: Task
    data: Data
    chat: Chat | None = None

    @classmethod
    def of(
        cls, recipe: Recipe, say: Say, first_alone: Callable[[Callable[[], Any]], Any]
    ) -> "Parts":
        """Prepared by the first process; the others find its files."""
        return first_alone(lambda: cls._made(recipe, say))  # type: ignore[no-any-return]

    @classmethod
    def _made(cls, recipe: Recipe, say: Say) -> "Parts":
        _check_tokenizer(recipe)
        data, name = recipe.data, str(recipe.objective["name"])
        folder = Path(recipe.output) / "data"
        if isinstance(data, TextData):
            _check_same_data(recipe, folder)
            preparation = Preparation(
                data, folder, seed=recipe.seed, say=say, workers=recipe.training.workers
            )
            tokenizer = _tokenizer(recipe, preparation.tokenizer)
            objective = _objective(recipe, tokenizer)
            packing = data.packing or _usual_packing(objective)
            found = text_data(
                data,
                tokenizer,
                preparation,
                row_length=objective.row_length(data.sequence_length),
                packing=packing,
                rows_per_step=recipe.training.batch_size,
            )
        else:
            _check_records(data)
            data = _with_pairs(recipe, data, say)
            tokenizer = _tokenizer(recipe, partial(_learned, recipe, data, say))
            objective = _objective(recipe, tokenizer)
            if name in (*CONVERSATIONAL, *FOR_PROMPTS):
                return cls._of_conversations(recipe, data, tokenizer, objective)
            is_number = recipe.objective.get("problem_type") == "regression"
            found = record_data(data, name, tokenizer, is_number=is_number, seed=recipe.seed)
        return cls(tokenizer=tokenizer, objective=objective, task=objective.task, data=found)

    @classmethod
    def _of_conversations(
        cls, recipe: Recipe, data: RecordData, tokenizer: Tokenizer, objective: Any
    ) -> "Parts":
        """The tokenizer stops where the chat template ends a turn."""
        chat = Chat.of(data, _tokenizer_folder(recipe), tokenizer)
        name = str(recipe.objective["name"])
        folder = Path(recipe.output) / "data"
        if name in FOR_PROMPTS:
            found = prompt_data(data, chat, seed=recipe.seed)
        else:
            found = conversation_data(data, name, chat, folder, seed=recipe.seed)
        if isinstance(objective, DPO) and objective.config.precompute:
            found = with_reference(
                found,
                objective,
                folder,
                device=device_of(recipe),
                dtype=DTYPES[recipe.training.precision],
            )
        return cls(
            tokenizer=chat.tokenizer,
            objective=objective,
            task=objective.task,
            data=found,
            chat=chat,
        )


def _check_records(data: RecordData) -> None:
    """Raises TrainingError for a file of records that is not there."""
    for key in ("train", "validation"):
        path = getattr(data, key)
        if isinstance(path, str):
            check_there(path, f"data.{key}")


def _with_pairs(recipe: Recipe, data: RecordData, say: Say) -> RecordData:
    """With instruction pairs where there were documents. They stay in the run's folder, to be read
    by people and by a run that resumes."""
    if data.documents is None:
        return data
    from pharos.data.instruction_pairs import PairConfig, write_instruction_pairs  # parsers

    folder = Path(recipe.output) / "data"
    _check_same_data(recipe, folder)
    path = folder / PAIRS_FILE
    if not path.is_file():
        check_there(data.documents, "data.documents")
        say(f"Making instruction pairs from {data.documents}")
        workers = max(1, recipe.training.workers)
        report = write_instruction_pairs([data.documents], path, PairConfig(), workers=workers)
        for source, reason in report.failures:
            say(f"{source} is left out: {reason}")
        say(str(report))
    return replace(data, train=str(path), documents=None)


def _check_tokenizer(recipe: Recipe) -> None:
    """There must be one, before anything is written."""
    if recipe.tokenizer.train is None and _tokenizer_name(recipe) is None:
        raise TrainingError(
            "the recipe names no tokenizer; give tokenizer.load a folder, or tokenizer.train a kind"
        )


def _tokenizer_name(recipe: Recipe) -> str | None:
    return recipe.tokenizer.load or recipe.model.load or recipe.model.student_of


def _tokenizer(recipe: Recipe, learn: Callable[[TokenizerConfig], Tokenizer]) -> Tokenizer:
    """As the recipe tells, else the one beside the weights that the run begins with; with the new
    tokens. `learn` makes one from the run's texts."""
    config = recipe.tokenizer.train
    found = Tokenizer.load(_tokenizer_folder(recipe)) if config is None else learn(config)
    return found.with_special_tokens(recipe.model.new_tokens)


def _learned(recipe: Recipe, data: RecordData, say: Say, config: TokenizerConfig) -> Tokenizer:
    """One from the texts of the records, kept in the run's folder."""
    folder = _tokenizer_folder(recipe)
    _check_same_data(recipe, folder.parent)
    if not (folder / TOKENIZER_FILE).is_file():
        say(f"Learning a tokenizer ({config.kind}) from {data.records}")
        texts = list(record_texts(data, str(recipe.objective["name"])))
        learn_tokenizer(texts, config, folder)
    return Tokenizer.load(folder)


def _tokenizer_folder(recipe: Recipe) -> Path:
    if recipe.tokenizer.train is not None:
        return Path(recipe.output) / "data" / LEARNED_TOKENIZER
    name = _tokenizer_name(recipe)
    assert name is not None, "checked before"
    is_folder = (Path(name) / TOKENIZER_FILE).is_file()
    return Path(name) if is_folder else find_model(name).path


def _objective(recipe: Recipe, tokenizer: Tokenizer) -> Any:
    keys = {key: value for key, value in recipe.objective.items() if key != "name"}
    return new_objective(recipe.objective["name"], keys, Vocabulary.of(tokenizer))


def _usual_packing(objective: Any) -> str:
    """Documents kept apart where the objective can; else one after the other."""
    if objective.task == "causal_lm":
        return "best_fit"
    return "sentence_pairs" if objective.task == "pretraining" else "concat"


def _check_same_data(recipe: Recipe, folder: Path) -> None:
    """What lies in the folder must have been made by this recipe."""
    path = folder / "settings"
    found = data_fingerprint(recipe)
    if path.is_file() and path.read_text() != found:
        raise TrainingError(
            f"{folder} holds data that was made by other settings (data or tokenizer); name "
            "another output, or remove the folder"
        )
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(found)


def device_of(recipe: Recipe) -> torch.device:
    kind = recipe.device
    if kind == "auto":
        kind = "cuda" if torch.cuda.is_available() else "cpu"
    if kind == "cuda" and not torch.cuda.is_available():
        raise TrainingError("device is cuda, and there is none; choose cpu, or auto")
    if kind == "cpu":
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
