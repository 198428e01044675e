"""The loop: rows in, optimizer steps out, the same ones however the rows are dealt.

An optimizer step is over `batch_size` rows, which are dealt to the data ranks and there to
micro-batches. Each term of the loss is summed over its targets, and the sums of all micro-batches
and ranks are divided by the one global count:

    loss = Σ_terms weight · (Σ sums) / (Σ counts)

Since the counts are known before the first backward pass, every micro-batch's share goes into the
gradient as it is, and nothing is averaged twice.

A run is exact: what is random in step s (dropout) draws from a generator seeded with (seed, s,
micro-batch, rank), and rows draw from their own number. So a run that is killed and resumed goes on
as if nothing had happened, and evaluating or sampling in between disturbs nothing.
"""

import hashlib
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from pharos.core.errors import TrainingError
from pharos.train.checkpoint import Checkpoints, load_state, save_state
from pharos.train.ema import EMA
from pharos.train.events import Evaluation, Observer, RunFacts, StepRecord
from pharos.train.gradients import GradientScaler
from pharos.train.interruption import Interruption
from pharos.train.loader import Batches
from pharos.train.loop_config import DTYPES, LoopConfig
from pharos.train.meter import Meter, num_tokens, total_loss
from pharos.train.objective import Batch, Objective, total_counts
from pharos.train.ranks import Ranks
from pharos.train.rl.on_policy import OnPolicy
from pharos.train.runner import Runner, Shares, StepRunner, is_sharded_checkpoint
from pharos.train.schedules import Schedule
from pharos.train.step import Step
from pharos.train.step_zero import check_first_step
from pharos.train.watchdog import Watchdog

MOST_TOLD = 3
"""Changed settings that an error names."""


class Carried(Protocol):
    """What goes from one step to the next and is neither a weight nor the optimizer's: rollouts
    that are not used up."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...


class Trainer:
    """One run. `batches(first_step)` loads the micro-batches from a step on; `validation()` those
    that are evaluated on, some at a time, the same each time. `sample` writes something with the
    model, to be read. `carried` is what else goes from step to step, and into checkpoints
    (rollouts). `flops_per_token` is of a forward and a backward pass, for the share of the devices'
    peak that is reached (MFU). `save_beside` puts into a checkpoint what belongs to the model
    besides (its tokenizer). Checkpoints are resumed only with the same `settings`."""

    def __init__(
        self,
        *,
        model: nn.Module,
        objective: Objective,
        optimizer: torch.optim.Optimizer,
        schedule: Schedule,
        config: LoopConfig,
        output: Path,
        batches: Callable[[int], Batches],
        validation: Callable[[], Iterable[Sequence[Batch]]] | None = None,
        sample: Callable[[nn.Module], tuple[str, ...]] | None = None,
        observers: Sequence[Observer] = (),
        ranks: Ranks | None = None,
        runner: Runner | None = None,
        flops_per_token: float = 0.0,
        seed: int = 0,
        save_beside: Callable[[Path], None] = lambda folder: None,
        settings: Mapping[str, str] | None = None,
        is_fresh: bool = True,
        carried: Carried | None = None,
    ) -> None:
        self.model, self.objective, self.optimizer = model, objective, optimizer
        self.schedule, self.config, self.seed = schedule, config, seed
        self.batches, self.validation, self.sample = batches, validation, sample
        self.ranks = ranks or Ranks.of_world()
        self.observers = list(observers) if self.ranks.is_first else []
        self.output, self.settings = output, dict(settings or {})
        self.save_beside, self.is_fresh = save_beside, is_fresh
        self.carried = carried
        self.device = next(model.parameters()).device
        self.checkpoints = Checkpoints(output / "checkpoints", config.keep)
        self.runner = runner or StepRunner(
            Step(model, objective),
            model,
            dtype=DTYPES[config.precision],
            is_compiled=config.compile,
        )
        self.scaler = GradientScaler(is_enabled=config.precision == "fp16")
        self.ema = None if config.ema is None else EMA(model, decay=config.ema)
        self.watchdog = watchdog_of(objective, watches_leaps=config.watch_for_spikes)
        self.step = 0
        self.tokens = 0
        self.best: tuple[float, int] | None = None
        self.flops_per_token = flops_per_token

    # -- running

    def run(self) -> bool:
        """Take the steps that are left; whether the last one was reached (Ctrl-C ends a run early,
        with a checkpoint)."""
        is_stopped = False
        try:
            meter = Meter(self)
            self._tell_facts(meter)
            with Interruption() as interruption, self.batches(self.step) as loader:
                steps = iter(loader)
                while self.step < self.config.steps and not is_stopped:
                    record = self.train_step(next(steps), meter, loader)
                    is_best = self._evaluates() and self._evaluate_and_tell()
                    if self._evaluates():
                        meter.restart(loader)
                    self._tell(record)
                    is_stopped = self.ranks.any_of_world(interruption.is_asked)
                    is_last = self.step == self.config.steps
                    is_due = _is_due(self.config.checkpoint_every, self.step, is_last)
                    if is_stopped or is_due or (is_best and self.config.keep.keep_best):
                        self._save_and_tell()
                        meter.restart(loader)
        finally:
            for observer in self.observers:
                observer.on_end(is_complete=self.step == self.config.steps)
        return self.step == self.config.steps

    def train_step(
        self, batches: Sequence[Batch], meter: Meter, loader: Batches
    ) -> StepRecord | None:
        """One optimizer step; its record, if one is due."""
        batches = [self._on_device(batch) for batch in batches]
        counts, tokens = self._global_counts(batches)
        self.model.train()
        if self.step == 0 and self.config.check_first_step:
            check_first_step(
                self.model, self.objective, batches, self.runner.evaluate, is_fresh=self.is_fresh
            )
        totals = self.runner.gradients(batches, self._shares(counts))
        losses = self._means(totals, counts)
        self._watch(losses, batches)
        norm = self._update(batches)
        self.step += 1
        self.tokens += tokens
        meter.count(tokens)
        is_last = self.step == self.config.steps
        is_due = _is_due(self.config.log_every, self.step, is_last) or self.step == 1
        return meter.record(losses, norm, loader) if is_due or self._evaluates() else None

    def _evaluates(self) -> bool:
        """After this step? Always after the last one, if there is anything to evaluate on."""
        is_last = self.step == self.config.steps
        return self.validation is not None and _is_due(
            self.config.evaluate_every, self.step, is_last
        )

    def _update(self, batches: Sequence[Batch]) -> float:
        factor = self.schedule.factor(self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * factor
        self.scaler.unscale(self.optimizer)
        norm = self.runner.clip(self.config.clip)
        if not self.scaler.is_enabled:
            self.watchdog.check_gradient(self.step, norm, batches, self.output)
        if self.scaler.step(self.optimizer) and self.ema is not None:
            self.ema.update(self.model)
        self.optimizer.zero_grad(set_to_none=True)
        return norm

    # -- what is asked of all ranks

    def _global_counts(self, batches: Sequence[Batch]) -> tuple[dict[str, float], int]:
        """By term, the valid targets of the step, and its tokens: of all ranks."""
        local = total_counts(self.objective, batches)
        tokens = sum(num_tokens(batch) for batch in batches)
        *sums, all_tokens = self.ranks.sums([*map(float, local.values()), float(tokens)])
        counts = dict(zip(local, sums, strict=True))
        if not any(counts.values()):
            raise TrainingError(
                f"step {self.step}: none of the {self.config.batch_size} rows has a valid target "
                f"({', '.join(counts)}); look at the labels of the data with --preview"
            )
        return counts, int(all_tokens)

    def _means(
        self, totals: Mapping[str, Tensor | float], counts: Mapping[str, float]
    ) -> dict[str, float]:
        """What the objective summed on this rank, over all ranks and per target: a term, and the
        right answers to it (`TERM_correct`), by its own global count, the rest by that of the first
        term."""
        names = list(totals)
        sums = self.ranks.sums([float(totals[name]) for name in names])
        first = next(iter(counts.values()))
        return {
            name: value / max(counts.get(name.removesuffix("_correct"), first), 1.0)
            for name, value in zip(names, sums, strict=True)
        }

    # -- around a step

    def _on_device(self, batch: Batch) -> Batch:
        if self.device.type == "cpu":
            return batch
        return {name: x.to(self.device, non_blocking=True) for name, x in batch.items()}

    def _watch(self, losses: Mapping[str, float], batches: Sequence[Batch]) -> None:
        total = total_loss(losses, self.objective.weights)
        self.watchdog.check(self.step, total, batches, self.output)

    def _shares(self, counts: Mapping[str, float]) -> Shares:
        weights = self.objective.weights
        return Shares(
            scales={name: weights[name] / count for name, count in counts.items() if count},
            loss_scale=self.scaler.factor,
            seed=lambda i: seed_of(self.seed, self.step, i, self.ranks.rank),
        )

    def _tell_facts(self, meter: Meter) -> None:
        parameters = list(self.model.parameters())
        facts = RunFacts(
            output=self.output,
            steps=self.config.steps,
            first_step=self.step,
            num_parameters=sum(p.numel() for p in parameters),
            num_trainable=sum(p.numel() for p in parameters if p.requires_grad),
            rows_per_step=self.config.batch_size,
            device=str(self.device),
            processes=self.ranks.processes,
            peak_flops=meter.peak_flops,
        )
        for observer in self.observers:
            observer.on_start(facts)

    def _tell(self, record: StepRecord | None) -> None:
        if record is not None:
            for observer in self.observers:
                observer.on_step(record)

    # -- evaluating

    def evaluate(self) -> Evaluation:
        """The mean losses over the validation rows, with the averaged weights if there are."""
        assert self.validation is not None
        started = time.perf_counter()
        self.model.eval()
        sums: dict[str, float] = {}
        counts: dict[str, float] = dict.fromkeys(self.objective.weights, 0.0)
        with self.averaged(), torch.no_grad():
            for batches in self.validation():
                batches = [self._on_device(batch) for batch in batches]
                for name, count in total_counts(self.objective, batches).items():
                    counts[name] += count
                for name, value in self.runner.evaluate(batches).items():
                    sums[name] = sums.get(name, 0.0) + float(value)
            samples = self.sample(self.model) if self.sample else ()
        counted = self.ranks.sums(list(counts.values()))
        losses = self._means(sums, dict(zip(counts, counted, strict=True)))
        return Evaluation(
            step=self.step,
            val_loss=total_loss(losses, self.objective.weights),
            losses=losses,
            seconds=time.perf_counter() - started,
            samples=samples,
        )

    def _evaluate_and_tell(self) -> bool:
        """Whether it is the best so far."""
        evaluation = self.evaluate()
        for observer in self.observers:
            observer.on_evaluation(evaluation)
        cost = -evaluation.losses.get("score", -evaluation.val_loss)  # a policy: by its rewards
        is_best = math.isfinite(cost) and (self.best is None or cost < self.best[0])
        if is_best:
            self.best = (cost, self.step)
        return is_best

    def averaged(self) -> AbstractContextManager[object]:
        """Within the block the model has the averaged weights, if there are any."""
        return nullcontext() if self.ema is None else self.ema.applied(self.model)

    # -- checkpoints

    def save(self) -> Path:
        """A checkpoint of this step. Every rank must call it."""

        def beside(folder: Path) -> None:
            if self.ranks.is_first:
                self.save_beside(folder)
                save_state(self.state(), folder)

        def write(folder: Path) -> None:
            self.runner.save(folder, self.optimizer, beside)

        folder = self.checkpoints.path(self.step)
        if self.runner.is_sharded:
            write(folder)
        elif self.ranks.is_first:
            self.checkpoints.save(self.step, write)
        self.ranks.barrier()
        if self.ranks.is_first:
            self.checkpoints.prune(self.best[1] if self.best else None)
        return folder

    def state(self) -> dict[str, Any]:
        """All that the next steps depend on beside the weights and the recipe. (The state of a
        sharded optimizer is with the weights.)"""
        return {
            "step": self.step,
            "tokens": self.tokens,
            "best": self.best,
            "settings": self.settings,
            "optimizer": None if self.runner.is_sharded else self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "ema": None if self.ema is None else self.ema.state_dict(),
            "watchdog": self.watchdog.state_dict(),
            "carried": None if self.carried is None else self.carried.state_dict(),
        }

    def resume(self) -> bool:
        """Go on from the latest checkpoint, if there is one."""
        folder = self.checkpoints.latest()
        if folder is None:
            return False
        state = load_state(folder)
        if "settings" not in state:
            raise TrainingError(
                f"{folder} was made by an earlier version, which did not keep the recipe's "
                "settings; go on with that version, or name another output"
            )
        self._check_same(state["settings"], folder)
        if self.runner.is_sharded != is_sharded_checkpoint(folder):
            form = "whole" if self.runner.is_sharded else "in pieces"
            raise TrainingError(
                f"{folder} has its weights {form}, and this run keeps them otherwise; resume with "
                "parallel.shard, tensor, pipeline and expert as they were, all 1 or not"
            )
        self.runner.load(folder, self.optimizer)
        if state["optimizer"] is not None:
            self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        if self.ema is not None:
            self.ema.load_state_dict(state["ema"])
        if state["watchdog"] is not None:  # as an earlier version left it where it was off
            self.watchdog.load_state_dict(state["watchdog"])
        if self.carried is not None:
            self.carried.load_state_dict(state["carried"])
        self.step, self.tokens = state["step"], state["tokens"]
        self.best = state["best"] and tuple(state["best"])
        return True

    def _check_same(self, before: Mapping[str, str], folder: Path) -> None:
        """Another recipe would go on to other weights than either."""
        ours = self.settings
        changed = [key for key in {**before, **ours} if before.get(key) != ours.get(key)]
        if changed:
            told = ", ".join(
                f"{key} {before.get(key, 'not given')} (now {ours.get(key, 'not given')})"
                for key in changed[:MOST_TOLD]
            )
            raise TrainingError(
                f"{folder} was made with {told}; resume with the recipe.yaml beside its folder, or "
                "name another output"
            )

    def _save_and_tell(self) -> None:
        folder = self.save()
        for observer in self.observers:
            observer.on_checkpoint(self.step, folder)


def seed_of(*numbers: int) -> int:
    """A seed that depends on all the numbers, and differs where any of them does."""
    digest = hashlib.blake2b(repr(numbers).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big", signed=True)


def _is_due(every: int | None, step: int, is_last: bool) -> bool:
    return is_last or (every is not None and step % every == 0)


def watchdog_of(objective: Objective, *, watches_leaps: bool) -> Watchdog:
    """A loss that is no number stops every run. The loss of a policy lies around zero, and is zero
    where nothing can be learned: its leaps tell nothing."""
    if not watches_leaps or isinstance(objective, OnPolicy):
        return Watchdog(window=0)
    return Watchdog()
