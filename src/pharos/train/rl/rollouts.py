"""Batches that the model makes itself: whenever a rollout is used up, the next one is sampled.

    rollouts = Rollouts(model, objective, prompts, scorer, batch_size=64, micro_batch_size=16, ...)
    trainer = Trainer(model=model, objective=objective, batches=rollouts.loader, carried=rollouts)

Rollout n is over the prompts of the rows n·P, …, (n + 1)·P - 1, and completion i of it is sampled
with a seed of (seed, n, i): what is said depends on the weights and on these numbers alone. Its
lines are gone through `epochs` times, in an order of (seed, n, epoch). So a run that is resumed in
the middle of a rollout goes on exactly, with the lines that its checkpoint has.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from pharos.core.errors import TrainingError
from pharos.data.rows import Row, Rows, Stream, row_generator
from pharos.train.objective import Batch
from pharos.train.rl.actor_critic import ActorCritic
from pharos.train.rl.on_policy import OnPolicy
from pharos.train.rl.rewards import Scorer
from pharos.train.rl.rollout import Rollout, roll_out


class Rollouts:
    """`model` is the module that is trained. Prompts are rows `{"prompt_ids"}`, and `"answer"` for
    verifiers. `dtype` is that of the loop's autocast. Raises TrainingError for sizes that do not
    fit."""

    def __init__(
        self,
        model: nn.Module,
        objective: OnPolicy,
        prompts: Stream,
        scorer: Scorer,
        *,
        batch_size: int,
        micro_batch_size: int,
        eos_ids: Sequence[int],
        pad_id: int = 0,
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.model, self.objective = model, objective
        self.prompts, self.scorer = prompts, scorer
        self.batch_size, self.micro_batch_size = batch_size, micro_batch_size
        self.eos_ids, self.pad_id, self.seed, self.dtype = eos_ids, pad_id, seed, dtype
        self.size = objective.settings.rollout_size or batch_size
        self._check()
        self.made = 0
        self.steps_left = 0
        self._columns: dict[str, Tensor] = {}

    @property
    def steps_per_rollout(self) -> int:
        return self.objective.settings.epochs * (self.size // self.batch_size)

    def loader(self, first_step: int) -> "RolloutLoader":
        """The batches from that step on, which must be where this stands."""
        assert first_step == self.made * self.steps_per_rollout - self.steps_left
        return RolloutLoader(self)

    def next_step(self) -> list[Batch]:
        """The micro-batches of the next optimizer step."""
        if not self.steps_left:
            self._columns = self._rollout(self._prompts(self.made), "rollout", self.made)
            self.made += 1
            self.steps_left = self.steps_per_rollout
        lines = self._lines_of_step(self.steps_per_rollout - self.steps_left)
        self.steps_left -= 1
        return [
            self.objective.collate([_line(self._columns, i) for i in part])
            for part in _parts(lines, self.micro_batch_size)
        ]

    def evaluation(self, prompts: Rows, num_completions: int) -> Iterator[Sequence[Batch]]:
        """Completions of prompts that are spread evenly over a set, the same prompts and the same
        seeds each time; nothing that is carried is changed."""
        count = min(max(1, num_completions // self.objective.settings.group_size), len(prompts))
        rows = [prompts.row(i * len(prompts) // count, 0) for i in range(count)]
        carried = self.objective.state_dict()
        columns = self._rollout(rows, "evaluation", 0)
        self.objective.load_state_dict(carried)
        for lines in _parts(range(len(columns["ids"])), self.micro_batch_size):
            yield [self.objective.collate([_line(columns, i) for i in lines])]

    @torch.no_grad()
    def _rollout(self, prompts: Sequence[Row], purpose: str, number: int) -> dict[str, Tensor]:
        """The columns of a rollout, with the weights as they are."""
        was_training = self.model.training
        self.model.eval()
        try:
            with self._autocast():
                said = self._say(prompts, row_generator(purpose, self.seed, number))
                measured = self._measured(said)
        finally:
            self.model.train(was_training)
        scores = torch.tensor(list(self.scorer(said.completions)), dtype=torch.float32)
        if len(scores) != len(said) or not scores.isfinite().all():
            raise TrainingError(
                f"the reward gave {len(scores)} scores for {len(said)} completions, "
                f"{int((~scores.isfinite()).sum())} of them not finite; it must give a finite "
                "number for each"
            )
        columns = {**said.batch, **measured, "score": scores, "truncated": said.is_truncated}
        return self.objective.finish(columns)

    # -- what a checkpoint keeps

    def state_dict(self) -> dict[str, Any]:
        """With the lines of a rollout that is not used up, and the value head: an adapter's files
        have no place for it."""
        return {
            "made": self.made,
            "steps_left": self.steps_left,
            "columns": self._columns if self.steps_left else {},
            "objective": self.objective.state_dict(),
            "critic": self._critic.state_dict() if self._critic else {},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.made, self.steps_left = state["made"], state["steps_left"]
        self._columns = dict(state["columns"])
        self.objective.load_state_dict(state["objective"])
        if self._critic is not None:
            self._critic.load_state_dict(state["critic"])

    # -- parts

    @property
    def _critic(self) -> nn.Module | None:
        return self.model.value if isinstance(self.model, ActorCritic) else None

    def _prompts(self, number: int) -> list[Row]:
        count = self.size // self.objective.settings.group_size
        return [self.prompts[number * count + i] for i in range(count)]

    def _say(self, prompts: Sequence[Row], draw: np.random.Generator) -> Rollout:
        group = self.objective.settings.group_size
        rows = [row for row in prompts for _ in range(group)]
        return roll_out(
            self.objective.policy_of(self.model),
            rows,
            max_tokens=self.objective.settings.max_new_tokens,
            seeds=draw.integers(2**63, size=len(rows)).tolist(),
            eos_ids=self.eos_ids,
            pad_id=self.pad_id,
        )

    def _measured(self, said: Rollout) -> dict[str, Tensor]:
        device = next(self.model.parameters()).device
        parts = []
        for first in range(0, len(said), self.micro_batch_size):
            lines = slice(first, first + self.micro_batch_size)
            batch = {name: x[lines].to(device) for name, x in said.batch.items()}
            parts.append(self.objective.measure(self.model, batch))
        return {name: torch.cat([part[name] for part in parts]).cpu() for name in parts[0]}

    def _lines_of_step(self, step: int) -> list[int]:
        per_epoch = self.size // self.batch_size
        epoch, place = divmod(step, per_epoch)
        order = row_generator("lines", self.seed, self.made - 1, epoch).permutation(self.size)
        lines: list[int] = order[place * self.batch_size : (place + 1) * self.batch_size].tolist()
        return lines

    def _autocast(self) -> AbstractContextManager[object]:
        if self.dtype == torch.float32:
            return nullcontext()
        device = next(self.model.parameters()).device
        return torch.autocast(device.type, dtype=self.dtype)

    def _check(self) -> None:
        group = self.objective.settings.group_size
        if self.size % self.batch_size or self.size % group:
            raise TrainingError(
                f"objective.rollout_size is {self.size}; it must be a multiple of batch_size "
                f"({self.batch_size}) and of group_size ({group})"
            )


def _line(columns: Mapping[str, Tensor], i: int) -> Row:
    return {name: column[i].numpy() for name, column in columns.items()}


def _parts(lines: Sequence[int], size: int) -> list[Sequence[int]]:
    return [lines[first : first + size] for first in range(0, len(lines), size)]


class RolloutLoader:
    """As `Loader` is for rows: for each optimizer step its micro-batches, without end. `waited_s`
    is the time that went into rollouts."""

    def __init__(self, rollouts: Rollouts) -> None:
        self.rollouts = rollouts
        self.waited_s = 0.0
        self._is_open = True

    def __iter__(self) -> Iterator[Sequence[Batch]]:
        while self._is_open:
            begin = time.perf_counter()
            batches = self.rollouts.next_step()
            self.waited_s += time.perf_counter() - begin
            yield batches

    def close(self) -> None:
        self._is_open = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
