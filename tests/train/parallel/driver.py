"""What the processes of the parallel tests do. One interpreter imports torch once and forks the
ranks of every world, one world after another; the first rank of each writes what came out as JSON.

    python driver.py FOLDER WORLD:CHECK,CHECK ...

A training check runs `STEPS` steps, or as many as its name is given (`fsdp_tp@50`). A rank that
fails ends its world: the others are killed, and the driver exits with 1. Under torchrun
(`torchrun --nproc-per-node 2 driver.py FOLDER CHECK ...`) it is one rank of the world that is
there, on GPUs if there are any.
"""

import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch._dynamo  # imported by the first optimizer's step: once here, not by every rank
import torch.distributed as dist
import torch.distributed.pipelining
import torch.distributed.tensor.parallel
from torch import nn

from pharos.core.errors import TrainingError
from pharos.data.rows import row_generator
from pharos.models.family import Task
from pharos.models.load import build_model, new_model, save_model
from pharos.models.seq2seq import Seq2SeqLM
from pharos.train.objective import Batch
from pharos.train.objectives.causal_lm import CausalLM, CausalLMConfig
from pharos.train.objectives.vocabulary import Vocabulary
from pharos.train.optimizers import OptimizerConfig, make_optimizer
from pharos.train.parallel import (
    ParallelConfig,
    PipelineRunner,
    clip_grad_norm,
    load_sharded,
    load_whole,
    named_parameters,
    open_mesh,
    parallelize,
    rows_group,
    save_sharded,
)
from pharos.train.step import Step

STEPS, ROWS, LENGTH = 4, 8, 12
SECONDS_PER_WORLD = 120

DEVICE = torch.device("cuda" if "RANK" in os.environ and torch.cuda.is_available() else "cpu")

VOCABULARY = {"vocab_size": 48, "initializer_range": 0.1}
LLAMA = {
    **VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "max_position_embeddings": 32,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "tie_word_embeddings": False,
}
CONFIGS: Mapping[str, Mapping[str, Any]] = {
    "gpt2": {
        **VOCABULARY,
        "model_type": "gpt2",
        "n_embd": 32,
        "n_layer": 4,
        "n_head": 4,
        "n_positions": 32,
        "embd_pdrop": 0.0,
        "attn_pdrop": 0.0,
        "resid_pdrop": 0.0,
    },
    "llama": {**LLAMA, "model_type": "llama"},
    "qwen3": {**LLAMA, "model_type": "qwen3", "tie_word_embeddings": True},
    "mixtral": {**LLAMA, "model_type": "mixtral", "num_local_experts": 4, "num_hidden_layers": 2},
}
SIZES = {
    "vocab_size": 48,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 16,
}
TOWERS = {"layers": 1, "attention_heads": 2, "ffn_dim": 16}
FAMILIES: Mapping[tuple[str, Task], Mapping[str, Any]] = {
    ("albert", "masked_lm"): SIZES | {"embedding_size": 8},
    ("bert", "masked_lm"): SIZES,
    ("bert", "sequence_classification"): SIZES,
    ("big_bird", "masked_lm"): SIZES,
    ("deberta-v2", "token_classification"): SIZES,
    ("distilbert", "question_answering"): {
        "vocab_size": 48,
        "dim": 16,
        "n_layers": 2,
        "n_heads": 2,
        "hidden_dim": 16,
    },
    ("falcon", "causal_lm"): {k: v for k, v in SIZES.items() if k != "intermediate_size"},
    ("longformer", "masked_lm"): SIZES | {"attention_window": [4, 4]},
    ("roberta", "body"): SIZES,
    ("t5", "seq2seq_lm"): {
        "vocab_size": 48,
        "d_model": 16,
        "d_kv": 8,
        "d_ff": 16,
        "num_layers": 2,
        "num_heads": 2,
    },
    ("marian", "seq2seq_lm"): {"vocab_size": 48, "d_model": 16}
    | {f"{tower}_{key}": n for tower in ("encoder", "decoder") for key, n in TOWERS.items()},
}
OBJECTIVE = CausalLM(CausalLMConfig(), Vocabulary(size=48))


def step_rows(step: int) -> list[Mapping[str, Any]]:
    """The rows of a step. Their documents, and so their numbers of targets, differ."""
    rows = []
    for i in range(ROWS):
        generator = row_generator("test", 0, step, i)
        document = np.zeros(LENGTH + 1, dtype=np.int32)
        document[generator.integers(1, LENGTH) :] = generator.integers(-1, 2)
        row = {"ids": generator.integers(0, 48, LENGTH + 1, dtype=np.int32), "document": document}
        rows.append(OBJECTIVE.example(row, generator))
    return rows


class Run:
    """A tiny training run, spread over a mesh."""

    def __init__(
        self,
        kind: str,
        config: ParallelConfig,
        *,
        max_norm: float | None = 1.0,
        num_micro_batches: int = 2,
        checkpointing: Any = "none",
        optimizer: Any = "adamw",
    ) -> None:
        self.config, self.max_norm = config, max_norm
        self.num_micro_batches = num_micro_batches
        self.mesh = open_mesh(config, DEVICE.type)
        model = new_model(CONFIGS[kind], "causal_lm", seed=1).to(DEVICE)
        self.module: nn.Module
        if config.pipeline > 1:
            self.module = PipelineRunner(
                model, OBJECTIVE, config, self.mesh, activation_checkpointing=checkpointing
            )
        else:
            step = Step(model, OBJECTIVE)
            self.module = parallelize(
                step, model, config, self.mesh, activation_checkpointing=checkpointing
            )
        self.optimizer = make_optimizer(OptimizerConfig(name=optimizer, lr=1e-3), self.module)
        self.group = rows_group(self.mesh)
        self.norms: list[float] = []

    def micro_batches(self, step: int) -> list[Batch]:
        rank, world = dist.get_rank(self.group), self.config.rows
        own = step_rows(step)[rank * ROWS // world : (rank + 1) * ROWS // world]
        size = len(own) // self.num_micro_batches
        batches = [OBJECTIVE.collate(own[i : i + size]) for i in range(0, len(own), size)]
        return [{name: x.to(DEVICE) for name, x in batch.items()} for batch in batches]

    def step(self, number: int) -> float:
        """The loss before the step."""
        batches = self.micro_batches(number)
        count = self.summed(sum(OBJECTIVE.count(batch)["causal_lm"] for batch in batches))
        self.optimizer.zero_grad()
        loss = self.summed(self.backward(batches, count)) / count
        self.norms.append(clip_grad_norm(self.module, self.max_norm, self.mesh))
        self.optimizer.step()
        return loss

    def backward(self, batches: Sequence[Batch], count: float) -> float:
        if isinstance(self.module, PipelineRunner):
            return float(self.module.step(batches, {"causal_lm": 1 / count})["causal_lm"])
        total = 0.0
        for i, batch in enumerate(batches):
            no_sync = getattr(self.module, "no_sync", None)
            if no_sync is not None and i < len(batches) - 1:
                with no_sync():
                    total += self.backward_one(batch, count)
            else:
                total += self.backward_one(batch, count)
        return total

    def backward_one(self, batch: Batch, count: float) -> float:
        loss = self.module(batch)["causal_lm"]
        (loss / count).backward()
        return float(loss.detach())

    def summed(self, value: float) -> float:
        total = torch.tensor(value, dtype=torch.float64, device=DEVICE)
        dist.all_reduce(total, group=self.group)
        return float(total)

    def train(self, steps: range) -> dict[str, list[float]]:
        losses = [self.step(number) for number in steps]
        return {"losses": losses, "norms": self.norms[-len(losses) :]}


def trained(kind: str, **options: Any) -> Callable[[Path, int], Any]:
    checkpointing = options.pop("checkpointing", "none")
    num = options.pop("num_micro_batches", 2)

    def check(folder: Path, steps: int = STEPS) -> Any:
        config = ParallelConfig(**options)
        run = Run(kind, config, checkpointing=checkpointing, num_micro_batches=num)
        return run.train(range(steps))

    return check


class SquaredOutput:
    """An objective for any model: each number that it gives is wanted to be zero."""

    weights: Mapping[str, float] = {"squares": 1.0}

    def losses(self, model: nn.Module, batch: Batch) -> Mapping[str, torch.Tensor]:
        ids = batch["ids"]
        is_pair = isinstance(model, Seq2SeqLM)
        output = model(ids, ids) if is_pair else model(ids)
        tensors = output if isinstance(output, tuple) else (output,)
        return {"squares": torch.stack([x.float().square().sum() for x in tensors]).sum()}


def every_family(**options: Any) -> Callable[[Path], Any]:
    """The loss and the gradient's norm of each family's first step."""

    def check(folder: Path) -> Any:
        config = ParallelConfig(**options)
        mesh = open_mesh(config)
        rank, world = dist.get_rank(rows_group(mesh)), config.rows
        ids = torch.arange(64).view(4, 16) % 47 + 1
        own = ids[rank * 4 // world : (rank + 1) * 4 // world]
        found = {}
        for (model_type, task), raw in FAMILIES.items():
            raw = {"model_type": model_type, "initializer_range": 0.1, **raw}
            model = new_model(raw, task, seed=2).eval()
            objective: Any = SquaredOutput()
            module = parallelize(Step(model, objective), model, config, mesh)
            loss = module({"ids": own})["squares"]
            loss.backward()
            norm = clip_grad_norm(module, None, mesh)
            total = loss.detach().clone()
            dist.all_reduce(total, group=rows_group(mesh))
            found[f"{model_type} {task}"] = [float(total), norm]
        return found

    return check


def saves_and_goes_on(folder: Path) -> Any:
    """Four ranks: five steps, a checkpoint, five more."""
    run = Run("llama", ParallelConfig(shard=2, tensor=2))
    run.train(range(5))
    saved_by = folder / "resharding"
    save_sharded(saved_by / "step", run.module, run.optimizer, beside=_leave_a_note)
    return run.train(range(5, 10)) | {"files": sorted(p.name for p in saved_by.iterdir())}


def muon_goes_on(folder: Path) -> Any:
    """A sharded run of Muon, and what a checkpoint in its midst goes on to."""
    run = Run("llama", ParallelConfig(shard=2), optimizer="muon")
    run.train(range(2))
    save_sharded(folder / "muon", run.module, run.optimizer)
    again = Run("llama", ParallelConfig(shard=2), optimizer="muon")
    load_sharded(folder / "muon", again.module, again.optimizer)
    return [run.train(range(2, 5))["losses"], again.train(range(2, 5))["losses"]]


def eight_bits_are_refused(folder: Path) -> Any:
    """What is said of a state that is laid out by blocks of a shard."""
    run = Run("llama", ParallelConfig(shard=2), optimizer="adamw8bit")
    run.train(range(1))
    try:
        save_sharded(folder / "eight-bits", run.module, run.optimizer)
    except TrainingError as error:
        return str(error)
    return None


def _leave_a_note(folder: Path) -> None:
    (folder / f"note-{dist.get_rank()}").write_text("here")


def goes_on(**options: Any) -> Callable[[Path], Any]:
    """From what those four ranks have written."""

    def check(folder: Path) -> Any:
        run = Run("llama", ParallelConfig(**options))
        load_sharded(folder / "resharding" / "step", run.module, run.optimizer)
        return run.train(range(5, 10))

    return check


def gathers_to_a_model_folder(folder: Path) -> Any:
    """Four ranks of experts and stages; then one process writes Hugging Face's format."""
    run = Run("mixtral", ParallelConfig(expert=2, pipeline=2))
    run.train(range(3))
    save_sharded(folder / "gathered", run.module, run.optimizer)
    if dist.get_rank() == 0:
        model = build_model(CONFIGS["mixtral"], "causal_lm")
        load_whole(folder / "gathered", model)
        save_model(model, folder / "exported")
    return run.train(range(3, 4))


def one_rank_cannot_write(folder: Path) -> Any:
    """A checkpoint, and a second one that fails on one rank."""
    run = Run("llama", ParallelConfig(shard=2))
    target = folder / "failing"
    save_sharded(target, run.module, run.optimizer)

    def fail(partial: Path) -> None:
        if dist.get_rank() == 1:
            raise OSError(28, "No space left on device")

    try:
        save_sharded(target, run.module, run.optimizer, beside=fail)
    except TrainingError as error:
        load_sharded(target, run.module, run.optimizer)
        return str(error)
    return None


def names_are_those_of_the_model(folder: Path) -> Any:
    """What each rank of a pipeline with experts says it has, together."""
    config = ParallelConfig(pipeline=2, expert=2)
    names = list(named_parameters(Run("mixtral", config).module))
    gathered: list[list[str]] = [[] for _ in range(dist.get_world_size())]
    dist.all_gather_object(gathered, names)
    return sorted({name for some in gathered for name in some})


def evaluates_without_gradients(folder: Path) -> Any:
    """The loss of a pipeline's evaluation beside that of its training step."""
    run = Run("gpt2", ParallelConfig(pipeline=2))
    batches = run.micro_batches(0)
    assert isinstance(run.module, PipelineRunner)
    evaluated = run.module.evaluate(batches)
    has_gradient = any(p.grad is not None for p in run.module.parameters())
    stepped = run.module.step(batches, {"causal_lm": 1.0})
    return {
        "evaluated": {name: float(value) for name, value in evaluated.items()},
        "stepped": {name: float(value) for name, value in stepped.items()},
        "has_gradient": has_gradient,
    }


def rank_one_fails(folder: Path) -> Any:
    """The others wait for it in a sum that never comes."""
    if dist.get_rank() == 1:
        raise RuntimeError("this rank was told to fail")
    dist.all_reduce(torch.zeros(1))


CHECKS: Mapping[str, Callable[..., Any]] = {
    **{f"one_{kind}": trained(kind) for kind in CONFIGS},
    "every_family_on_one": every_family(),
    "every_family_ddp": every_family(data=2),
    "every_family_fsdp": every_family(shard=2),
    "ddp": trained("gpt2", data=2),
    "fsdp": trained("llama", shard=2),
    "fsdp_full_checkpointing": trained("llama", shard=2, checkpointing="full"),
    "tp_gpt2": trained("gpt2", tensor=2),
    "tp_llama": trained("llama", tensor=2),
    "tp_qwen3": trained("qwen3", tensor=2),
    "tp_mixtral": trained("mixtral", tensor=2),
    "pp_gpt2": trained("gpt2", pipeline=2),
    "pp_llama_interleaved": trained("llama", pipeline=2, schedule="interleaved"),
    "pp_gpt2_interleaved": trained(
        "gpt2", pipeline=2, schedule="interleaved", num_micro_batches=4, checkpointing="selective"
    ),
    "ep": trained("mixtral", expert=2),
    "hsdp": trained("llama", data=2, shard=2),
    "fsdp_tp": trained("gpt2", shard=2, tensor=2),
    "ddp_tp": trained("qwen3", data=2, tensor=2),
    "ddp_pp": trained("gpt2", data=2, pipeline=2),
    "fsdp_pp": trained("qwen3", shard=2, pipeline=2, schedule="interleaved"),
    "tp_pp": trained("llama", tensor=2, pipeline=2),
    "pp_4": trained("gpt2", pipeline=4, num_micro_batches=4),
    "fsdp_ep": trained("mixtral", shard=2, expert=2),
    "ep_tp": trained("mixtral", expert=2, tensor=2),
    "3d": trained("gpt2", shard=2, tensor=2, pipeline=2),
    "saves_and_goes_on": saves_and_goes_on,
    "goes_on_with_one": goes_on(),
    "goes_on_with_two": goes_on(shard=2),
    "goes_on_in_stages": goes_on(pipeline=2),
    "gathers_to_a_model_folder": gathers_to_a_model_folder,
    "muon_goes_on": muon_goes_on,
    "eight_bits_are_refused": eight_bits_are_refused,
    "one_rank_cannot_write": one_rank_cannot_write,
    "names_are_those_of_the_model": names_are_those_of_the_model,
    "evaluates_without_gradients": evaluates_without_gradients,
    "rank_one_fails": rank_one_fails,
}


def run_rank(rank: int, world: int, checks: Sequence[str], folder: Path) -> None:
    store = dist.FileStore(str(folder / f"store-{world}-{checks[0]}"), world)
    dist.init_process_group(
        "gloo", store=store, rank=rank, world_size=world, timeout=timedelta(seconds=30)
    )
    run_checks(checks, folder)
    dist.destroy_process_group()


def run_checks(checks: Sequence[str], folder: Path) -> None:
    torch.set_num_threads(1)
    for name in checks:
        started = time.perf_counter()
        check, _, steps = name.partition("@")
        result = CHECKS[check](folder, *([int(steps)] if steps else []))
        seconds = time.perf_counter() - started
        if dist.get_rank() == 0:
            print(f"{name}: {seconds:.1f} s", flush=True)
            (folder / f"{name}.json").write_text(json.dumps(result))
        dist.barrier()


def run_world(world: int, checks: Sequence[str], folder: Path) -> bool:
    """Whether all ranks came to their end."""
    ranks = [_fork(rank, world, checks, folder) for rank in range(world)]
    running, is_good = set(ranks), True
    deadline = time.monotonic() + SECONDS_PER_WORLD
    while running:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid:
            running.discard(pid)
        if (pid and status) or time.monotonic() > deadline:
            is_good = False
            for other in running:
                os.kill(other, signal.SIGKILL)
            deadline = float("inf")
        elif not pid:
            time.sleep(0.01)
    return is_good


def _fork(rank: int, world: int, checks: Sequence[str], folder: Path) -> int:
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        run_rank(rank, world, checks, folder)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def main() -> None:
    folder, *plan = sys.argv[1:]
    if "RANK" in os.environ:
        dist.init_process_group(timeout=timedelta(seconds=60))
        run_checks(plan, Path(folder))
        dist.destroy_process_group()
        return
    good = True
    for entry in plan:
        world, _, checks = entry.partition(":")
        good &= run_world(int(world), checks.split(","), Path(folder))
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
