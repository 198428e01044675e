"""Learn a language model from a larger one (DistilBERT; Sanh et al. 2019, arXiv:1910.01108). Three
terms, with the paper's weights:

    hard     2   the language model's own loss, whichever it is
    soft     5   T² · KL(teacher ‖ student), both at the temperature T = 2; T² keeps the gradients
                 as large as those at T = 1 (Hinton et al. 2015, arXiv:1503.02531)
    cosine   1   1 - cos between the last hidden states

The soft and cosine terms are over every token that is not padding (of a decoder: that has a next
one), not only over those that are masked. `student_of` makes a student that begins as every other
layer of its teacher.

The student's hidden states are overheard while its own loss is computed, and the teacher's in the
same way. So the student runs once, with one draw of dropout for all terms.

Shapes: B rows, T tokens of the longest, N of them compared, D hidden width, V vocabulary.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, kl_div
from torch.utils.checkpoint import checkpoint

from pharos.core.errors import TrainingError
from pharos.data.rows import Row
from pharos.models.encoder_heads import EncoderHead
from pharos.models.family import Model, Task
from pharos.models.seq2seq import Seq2SeqLM
from pharos.ops.cross_entropy import LOGITS_AT_ONCE
from pharos.train.objective import IGNORED, Batch, Objective


@dataclass(frozen=True, kw_only=True, slots=True)
class DistillationConfig:
    """A term of weight 0 is not computed."""

    temperature: float = 2.0
    hard_weight: float = 2.0
    soft_weight: float = 5.0
    cosine_weight: float = 1.0

    def __post_init__(self) -> None:
        if self.temperature <= 0:
            raise ValueError(f"temperature is {self.temperature}; it must be positive, mostly 2")
        for name in ("hard_weight", "soft_weight", "cosine_weight"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be 0 or more")


@dataclass(frozen=True, kw_only=True, slots=True)
class DistillationKeys(DistillationConfig):
    """What a recipe tells besides: the teacher's folder (or name), and its own objective with that
    objective's keys, `{name: masked_lm}` for example."""

    teacher: str
    hard: Mapping[str, Any]

    def __post_init__(self) -> None:
        super(DistillationKeys, self).__post_init__()
        if "name" not in self.hard:
            raise ValueError("hard has no name; masked_lm for example")


@runtime_checkable
class LanguageModelling(Objective, Protocol):
    """An objective that learns from texts."""

    @property
    def task(self) -> Task: ...

    def row_length(self, sequence_length: int) -> int: ...


class Distillation:
    """`hard` is the language model's objective, which the rows are for. The teacher is frozen and
    its dropout off; it is no part of the student, so no optimizer or checkpoint ever sees it."""

    def __init__(self, config: DistillationConfig, hard: LanguageModelling, teacher: Model) -> None:
        self.config, self.hard = config, hard
        self.teacher = teacher.eval().requires_grad_(False)

    @property
    def task(self) -> Task:
        """What the model is made for."""
        return self.hard.task

    @property
    def weights(self) -> Mapping[str, float]:
        config = self.config
        weights = {name: config.hard_weight * w for name, w in self.hard.weights.items()}
        soft = {"soft": config.soft_weight, "cosine": config.cosine_weight}
        return weights | {name: weight for name, weight in soft.items() if weight > 0}

    def row_length(self, sequence_length: int) -> int:
        return self.hard.row_length(sequence_length)

    def example(self, row: Row, generator: np.random.Generator) -> Row:
        return self.hard.example(row, generator)

    def collate(self, examples: Sequence[Row]) -> Batch:
        return self.hard.collate(examples)

    def count(self, batch: Batch) -> Mapping[str, int]:
        num_tokens = int(compared(self.teacher, batch).sum())
        return {**self.hard.count(batch), "soft": num_tokens, "cosine": num_tokens}

    def losses(self, model: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
        """The terms, and what else the hard objective tells."""
        student = self._check(model)
        with overheard(student) as of_student:
            losses = dict(self.hard.losses(student, batch))
        teacher = self.teacher.to(batch["ids"].device)
        with torch.no_grad(), overheard(teacher) as of_teacher:
            self.hard.losses(teacher, batch)
        compared_BT = compared(student, batch)
        x_ND, y_ND = of_student[-1][compared_BT], of_teacher[-1][compared_BT]
        if self.config.soft_weight > 0:
            losses["soft"] = self._soft(student, x_ND, y_ND)
        if self.config.cosine_weight > 0:
            losses["cosine"] = (1 - cosine_similarity(x_ND.float(), y_ND.float(), dim=-1)).sum()
        return losses

    def _soft(self, student: Model, x_ND: Tensor, y_ND: Tensor) -> Tensor:
        """In chunks, if there are many scores; backward then computes a chunk's anew."""
        temperature = self.config.temperature

        def divergence(x_CD: Tensor, y_CD: Tensor) -> Tensor:
            with torch.no_grad():
                wanted_CV = scores(self.teacher, y_CD)
            return soft_loss(scores(student, x_CD), wanted_CV, temperature=temperature)

        chunk = max(1, LOGITS_AT_ONCE // student.config.vocab_size)
        if len(x_ND) <= chunk:
            return divergence(x_ND, y_ND)
        parts = [
            checkpoint(divergence, x_CD, y_CD, use_reentrant=False, preserve_rng_state=False)
            for x_CD, y_CD in zip(torch.split(x_ND, chunk), torch.split(y_ND, chunk), strict=True)
        ]
        return torch.stack(parts).sum()

    def _check(self, model: nn.Module) -> Model:
        assert isinstance(model, Model)
        ours, theirs = model.config, self.teacher.config
        if ours.vocab_size != theirs.vocab_size:
            raise TrainingError(
                f"the student's vocabulary has {ours.vocab_size} tokens and the teacher's "
                f"{theirs.vocab_size}: their scores cannot be compared; both need one tokenizer"
            )
        if self.config.cosine_weight > 0 and ours.hidden_size != theirs.hidden_size:
            raise TrainingError(
                f"the student's hidden states are {ours.hidden_size} wide and the teacher's "
                f"{theirs.hidden_size}: they have no cosine; set cosine_weight to 0"
            )
        return model


def scores(model: Model, x_ND: Tensor) -> Tensor:
    """`[N, V]`, of a language model's hidden states."""
    logits_NV: Tensor = model.logits(x_ND)  # type: ignore[operator]
    return logits_NV


def soft_loss(logits_NV: Tensor, teacher_logits_NV: Tensor, *, temperature: float) -> Tensor:
    """`T² · KL(teacher ‖ student)`, summed over the tokens, in float32."""
    log_probs_NV = (logits_NV.float() / temperature).log_softmax(dim=-1)
    wanted_NV = (teacher_logits_NV.float() / temperature).log_softmax(dim=-1)
    divergence = kl_div(log_probs_NV, wanted_NV, log_target=True, reduction="sum")
    return divergence * temperature**2


def compared(model: nn.Module, batch: Batch) -> Tensor:
    """The tokens whose hidden states and scores are compared, `[B, T]`."""
    if isinstance(model, EncoderHead):
        return batch.get("valid", torch.ones_like(batch["ids"], dtype=torch.bool))
    return batch["labels"] != IGNORED


@contextmanager
def overheard(model: Model) -> Iterator[list[Tensor]]:
    """The last hidden states of each pass that the model makes within."""
    heard: list[Tensor] = []

    def listen(_: nn.Module, __: object, x_BTD: Tensor) -> None:
        heard.append(x_BTD)

    handle = _last_part(model).register_forward_hook(listen)
    try:
        yield heard
    finally:
        handle.remove()


def _last_part(model: Model) -> nn.Module:
    """The module whose output are the states that the head reads."""
    body: nn.Module = model.body  # type: ignore[assignment]
    if not isinstance(model, Seq2SeqLM):
        return body
    decoder = body.get_submodule("decoder")
    return decoder[-1] if isinstance(decoder, nn.ModuleList) else decoder
