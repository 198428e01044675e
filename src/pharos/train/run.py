"""From a recipe to a trained model.

    with open_run(recipe, resume=False, say=print) as run:
        run.train(observers)

A run writes everything under its output: `data/` (tokens), the checkpoints, `metrics.jsonl`, and
in the end `report.html` and `model/`: with an adapter, `adapter/` instead. On several processes,
started by torchrun, the first one prepares the data and writes; the others wait for it.
"""

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import nn

from pharos.adapt import Adapters, save_adapter
from pharos.core.errors import TrainingError
from pharos.data.rows import Rows
from pharos.models.describe import describe
from pharos.models.dropout import set_dropout
from pharos.models.family import Body, Model, Task
from pharos.models.heads import CausalLM
from pharos.models.load import new_model
from pharos.models.tower_files import save_towers
from pharos.models.two_towers import TwoTowers
from pharos.train.adaptation import adapt, check_all_saved, read_adaptation, with_new_tokens
from pharos.train.checkpoint import save_module
from pharos.train.data_section import TextData
from pharos.train.events import Observer
from pharos.train.loader import Loader
from pharos.train.loop import Trainer
from pharos.train.loop_config import DTYPES
from pharos.train.make_runner import make_runner
from pharos.train.merged_folder import write_merged
from pharos.train.metrics_log import METRICS_FILE, MetricsLog, read_metrics
from pharos.train.objective import Batch
from pharos.train.objectives.contrastive import InfoNCE, SigmoidPairs
from pharos.train.optimizers import make_optimizer
from pharos.train.parallel import ParallelConfig, check_parallel, load_whole
from pharos.train.parts import Parts, Say, device_of
from pharos.train.ranks import Ranks
from pharos.train.recipe import Recipe, decisive
from pharos.train.report import write_report
from pharos.train.rl.actor_critic import ActorCritic
from pharos.train.rl.on_policy import OnPolicy
from pharos.train.rl.ppo import PPO
from pharos.train.rl.rollouts import Rollouts
from pharos.train.run_checks import check_run, num_micro_batches
from pharos.train.runner import Runner
from pharos.train.samples import Sampler
from pharos.train.schedules import Schedule
from pharos.train.start import first_model, special_ids_of
from pharos.train.step_zero import check_vocabulary
from pharos.train.validation import validation_batches

MODEL_FOLDER, ADAPTER_FOLDER, MERGED_FOLDER = "model", "adapter", "merged"
PREPARATION_TIME = timedelta(days=1)
DOUBTFUL_ON_NF4 = {"fp32": "float32", "fp16": "float16 (which often diverges)"}
"""Precisions that QLoRA is not known with, as a run tells them."""


@contextmanager
def open_run(recipe: Recipe, *, resume: bool, say: Say) -> Iterator["Run"]:
    """A run that is ready to train, on this process or on all that torchrun started. Raises
    TrainingError, before anything is loaded, for a recipe that cannot be."""
    with processes(recipe) as ranks:
        yield Run(recipe, resume=resume, say=say if ranks.is_first else _nothing, ranks=ranks)


@contextmanager
def processes(recipe: Recipe) -> Iterator[Ranks]:
    """The process group of those that torchrun started, if it did."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        yield Ranks(device=device_of(recipe))
        return
    device = device_of(recipe)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, timeout=PREPARATION_TIME)  # the first one makes the data
    try:
        yield Ranks.of_world(device)
    finally:
        dist.destroy_process_group()


class Run:
    """A recipe with its data, model and optimizer in place."""

    def __init__(self, recipe: Recipe, *, resume: bool, say: Say, ranks: Ranks) -> None:
        self.recipe, self.say, self.ranks = recipe, say, ranks
        self.output = Path(recipe.output)
        self.is_first = ranks.is_first
        self.parallel = recipe.parallel or ParallelConfig(data=ranks.processes)
        check_run(recipe, self.parallel, world=ranks.processes, resume=resume)
        torch.manual_seed(recipe.seed)
        parts = Parts.of(recipe, say, self._first_alone)
        self.data, self.tokenizer, self.chat = parts.data, parts.tokenizer, parts.chat
        self.objective = parts.objective
        new_ids = [parts.tokenizer.vocabulary()[token] for token in recipe.model.new_tokens]
        self.network = first_model(
            recipe.model,
            parts.task,
            vocab_size=parts.tokenizer.vocab_size,
            labels=parts.data.labels,
            special_ids=special_ids_of(parts.tokenizer),
            seed=recipe.seed,
            new_ids=new_ids,
            is_frozen=recipe.adapter is not None,
        )
        if recipe.model.dropout is not None:
            set_dropout(self.network, recipe.model.dropout)
        self._check_model(self.network, parts.task)
        self.task = parts.task
        # Of a frozen weight there is no gradient: two passes over it, not three.
        passes = 3 if recipe.adapter is None and not recipe.model.freeze else 2
        self.flops_per_token = passes * flops_per_token(self.network, parts.task, recipe)
        self.adapters = self._adapters(new_ids)
        self.model: nn.Module = self.network
        if isinstance(parts.objective, PPO):
            self.model = ActorCritic(cast(CausalLM, self.network))
        self.model = self._towers(self.network) or self.model
        self.model.to(ranks.device)
        if self.adapters is not None:
            check_all_saved(self.network if self.is_on_policy else self.model, self.adapters)
        self.trainer = self._trainer()
        if resume and not self.trainer.resume():
            say(f"There is no checkpoint in {self.output}; the run begins")
        say(f"{parts.data.summary}; {told_parameters(self.model)}")

    def train(self, observers: Sequence[Observer] = ()) -> bool:
        """Take the steps that are left. Returns whether the run is complete; what it came to is
        then in `model/` and `report.html`."""
        if self.is_first:
            self.trainer.observers = [MetricsLog(self.output), *observers]
        is_complete = self.trainer.run()
        if is_complete:
            self._export()
        if self.is_first:
            write_report(self.output)
        return is_complete

    def outcome(self, is_complete: bool) -> dict[str, Any]:
        """What `--json` prints: the last losses, and where things are."""
        recipe, lines = self.recipe, read_metrics(self.output / METRICS_FILE)
        evaluated = [line for line in lines if "val_loss" in line]
        last = lines[-1] if lines else {}
        return {
            "complete": is_complete,
            "step": self.trainer.step,
            "train_loss": last.get("train_loss"),
            "val_loss": evaluated[-1]["val_loss"] if evaluated else None,
            "best_val_loss": min((line["val_loss"] for line in evaluated), default=None),
            "tokens": self.trainer.tokens,
            "tokens_per_second": last.get("tokens_per_second"),
            "parameters": count_parameters(self.model),
            "output": str(self.output),
            "model": str(self.result) if is_complete else None,
            "merged": str(self.output / MERGED_FOLDER) if is_complete and recipe.merge else None,
        }

    @property
    def result(self) -> Path:
        """The folder that the trained model, or its adapter, is written to in the end."""
        return self.output / (MODEL_FOLDER if self.adapters is None else ADAPTER_FOLDER)

    # -- the parts

    def _check_model(self, network: Model, task: Task) -> None:
        check_vocabulary(network, self.tokenizer.vocab_size)
        check_parallel(
            self.parallel,
            world=self.ranks.processes,
            model=network.config,
            task=task,
            num_micro_batches=num_micro_batches(self.recipe, self.parallel),
        )

    def _adapters(self, new_ids: Sequence[int]) -> Adapters | None:
        recipe, precision = self.recipe, self.recipe.training.precision
        if recipe.adapter is None:
            return None
        adaptation = with_new_tokens(read_adaptation(recipe.adapter), self.network, new_ids)
        if adaptation.on_nf4 and precision in DOUBTFUL_ON_NF4:
            self.say(
                f"qlora computes in {DOUBTFUL_ON_NF4[precision]}, as training.precision says; bf16 "
                "is what QLoRA is known with"
            )
        return adapt(self.network, adaptation, compute=DTYPES[precision], seed=recipe.seed)

    def _trainer(self) -> Trainer:
        recipe, config = self.recipe, self.recipe.training
        runner, rows = make_runner(
            recipe, self.model, self.objective, self.parallel, self.ranks, self.adapters
        )
        micro = config.micro_batch(self.parallel.rows)

        def batches(first_step: int) -> Loader:
            return Loader(
                self.data.stream,
                self.objective,
                rows_per_step=config.batch_size,
                micro_batch_size=micro,
                rank=rows.rank,
                world=rows.world,
                start_step=first_step,
                workers=config.workers,
                seed=recipe.seed,
            )

        validation = self.data.validation
        rollouts = self._rollouts(micro) if self.is_on_policy else None

        def evaluated(validation: Rows) -> Iterator[Sequence[Batch]]:
            if rollouts is None:
                return validation_batches(
                    validation,
                    self.objective,
                    wanted=config.evaluation_rows,
                    micro_batch_size=micro,
                    at_once=self.parallel.pipeline,
                    ranks=rows,
                    seed=recipe.seed,
                )
            return rollouts.evaluation(validation, config.evaluation_rows or sys.maxsize)

        return Trainer(
            model=self.model,
            objective=self.objective,
            optimizer=make_optimizer(recipe.optimizer, runner.module),
            schedule=Schedule(recipe.schedule, steps=config.steps),
            config=config,
            output=self.output,
            batches=batches if rollouts is None else rollouts.loader,
            carried=rollouts,
            validation=(lambda: evaluated(validation)) if validation else None,
            sample=self._sampler(runner, has_validation=bool(validation)),
            ranks=rows,
            runner=runner,
            flops_per_token=self.flops_per_token,
            seed=recipe.seed,
            save_beside=self._save_beside,
            settings=decisive(recipe),
            is_fresh=recipe.model.config is not None,
        )

    def _sampler(self, runner: Runner, *, has_validation: bool) -> Sampler | None:
        """Who writes at each evaluation; if nobody can, that is told."""
        if self.recipe.sample is None:
            return None
        reason = None
        if not isinstance(self.network, CausalLM):
            reason = "only a decoder continues texts"
        elif runner.is_sharded:
            reason = "no process has the whole model"
        elif not has_validation:
            reason = "samples are written when the run evaluates, and data.validation is 0"
        if reason is not None:
            self.say(f"sample is left out: {reason}")
            return None
        encode = self.chat.prompt_ids if self.chat else self.tokenizer.encode
        prompts = [list(encode(prompt)) for prompt in self.recipe.sample.prompts]
        return Sampler(
            self.recipe.sample,
            prompts,
            self.tokenizer,
            most=cast(CausalLM, self.network).body.max_positions,
            seed=self.recipe.seed,
        )

    @property
    def is_on_policy(self) -> bool:
        """Whether the model learns from what it says itself."""
        return isinstance(self.objective, OnPolicy)

    def _rollouts(self, micro: int) -> Rollouts:
        recipe, config = self.recipe, self.recipe.training
        objective = cast(OnPolicy, self.objective)
        if self.ranks.processes > 1:
            raise TrainingError(
                f"{recipe.objective['name']} runs on one process, and torchrun started "
                f"{self.ranks.processes}; start it with pharos train"
            )
        if objective.settings.reward is None:
            raise TrainingError(
                "objective.reward is missing; give it a verifier (final_number, exact), a model (a "
                "folder) or a function (package.module:name)"
            )
        return Rollouts(
            self.model,
            objective,
            self.data.stream,
            objective.settings.reward.scorer(self.tokenizer, device=self.ranks.device),
            batch_size=config.batch_size,
            micro_batch_size=micro,
            eos_ids=self.tokenizer.eos_ids,
            pad_id=self.tokenizer.pad_id or 0,
            seed=recipe.seed,
            dtype=DTYPES[config.precision],
        )

    # -- files

    def _first_alone(self, make: Callable[[], Any]) -> Any:
        """Made by the first process; then by the others, which find it done."""
        made = make() if self.is_first else None
        self.ranks.barrier()
        return made if self.is_first else make()

    def _save_beside(self, folder: Path) -> None:
        self.tokenizer.save(folder)
        if self.chat is not None:
            self.chat.save(folder)

    def _export(self) -> None:
        """The result: with averaged weights, if there are."""
        if not self.is_first:
            return
        folder = self.result
        folder.mkdir(exist_ok=True)
        with self.trainer.averaged():
            if self.adapters is None:
                self._save_whole(folder)
            else:
                save_adapter(self.adapters, folder, base_model=self.recipe.model.load)
        self._save_beside(folder)
        if self.recipe.merge:
            assert self.recipe.model.load is not None
            write_merged(self.recipe.model.load, folder, self.output / MERGED_FOLDER)
            self.say(f"Merged: {self.output / MERGED_FOLDER}")

    def _save_whole(self, folder: Path) -> None:
        """The network, and of towers what they learned besides."""
        network, model = self.network, self.model
        if self.trainer.runner.is_sharded:
            network = new_model(network.config.to_hugging_face(), self.task)
            model = self._towers(network) or network
            load_whole(self.trainer.checkpoints.path(self.trainer.step), model)
        if isinstance(model, TwoTowers):
            save_towers(model, folder)
        else:
            save_module(network, folder)

    def _towers(self, network: Model) -> TwoTowers | None:
        """What a contrastive objective trains."""
        if not isinstance(self.objective, InfoNCE | SigmoidPairs):
            return None
        return self.objective.towers(cast(Body, network), seed=self.recipe.seed)


def flops_per_token(model: Model, task: Task, recipe: Recipe) -> float:
    """Of a forward pass, on average over the tokens of a row."""
    data = recipe.data
    length = data.sequence_length if isinstance(data, TextData) else data.max_tokens
    return float(describe(model, task).flops_per_token(max(1, length // 2)))


def told_parameters(model: nn.Module) -> str:
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    count = count_parameters(model)
    share = "" if trained == count else f", {trained:,} of them trained ({trained / count:.2%})"
    return f"{count:,} parameters{share}"


def count_parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def _nothing(text: str) -> None:
    pass
