"""Adapters for a tiny BERT, trained on the spot with the objectives that the recipes use."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pharos.adapt import Adapters, LoraConfig, save_adapter
from pharos.data.examples import TextRows
from pharos.data.question_answering import Question, QuestionRows
from pharos.data.tokenizer import Tokenizer
from pharos.models.checkpoint import WEIGHTS_FILE, sha256_of
from pharos.models.load import load_under_new_head
from pharos.specialists.cards import Card, weights_digest, write_card
from pharos.train.objectives.classification import (
    SequenceClassification,
    SequenceClassificationConfig,
)
from pharos.train.objectives.question_answering import QuestionAnswering
from pharos.train.objectives.vocabulary import Vocabulary

Records = Sequence[Mapping[str, Any]]


class AdapterMaker:
    """Makes adapters for the tiny BERT, each in a folder with a card."""

    def __init__(self, base: Path, folder: Path) -> None:
        self.base, self.folder = base, folder
        self.tokenizer = Tokenizer.load(base)
        self.vocabulary = Vocabulary.of(self.tokenizer)
        self.modules_to_save: tuple[str, ...] | None = None

    def classifier(
        self, name: str, records: Records, labels: tuple[str, ...], *, steps: int = 60, **card: Any
    ) -> Path:
        """Of `text`, or `text` and `text_b`, to `label`."""
        text_b = "text_b" if "text_b" in records[0] else None
        rows = TextRows(list(records), self.tokenizer, max_tokens=32, labels=labels, text_b=text_b)
        objective = SequenceClassification(SequenceClassificationConfig(), self.vocabulary)
        return self._trained(name, rows, objective, labels, steps, card)

    def reader(self, questions: Sequence[Question], *, steps: int = 80, **card: Any) -> Path:
        rows = QuestionRows(
            questions, self.tokenizer, max_tokens=32, stride=8, max_question_tokens=12
        )
        return self._trained("reader", rows, QuestionAnswering(self.vocabulary), (), steps, card)

    def _trained(
        self, name: str, rows: Any, objective: Any, labels: tuple[str, ...], steps: int, card: Any
    ) -> Path:
        torch.manual_seed(0)
        model, _ = load_under_new_head(self.base, objective.task, labels=labels or None)
        adapters = Adapters(model)
        adapters.add(LoraConfig(r=4, lora_alpha=8, modules_to_save=self.modules_to_save))
        trained = [p for part in adapters.parts() for p in part.parameters()]
        optimizer = torch.optim.Adam(trained, lr=1e-2)
        draw = np.random.default_rng(0)
        for _ in range(steps):
            numbers = draw.integers(len(rows), size=16)
            batch = objective.collate([rows.row(int(i), 0) for i in numbers])
            losses = objective.losses(model, batch)
            optimizer.zero_grad()
            losses[next(iter(objective.weights))].backward()
            optimizer.step()
        folder = self.folder / name
        save_adapter(adapters, folder, base_model=str(self.base))
        write_card(folder, self.card(name, folder, objective.task, labels, **card))
        return folder

    def card(
        self, name: str, folder: Path, task: Any, labels: tuple[str, ...], **more: Any
    ) -> Card:
        lengths = {"max_tokens": 32, "stride": 8} | more
        return Card(
            name=name,
            task=task,
            base="tiny-bert",
            base_sha256=sha256_of(self.base / WEIGHTS_FILE),
            sha256=weights_digest(folder),
            labels=labels,
            **lengths,
        )
