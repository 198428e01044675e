"""Training a GPT beside transformers' Trainer: tokens a second and peak memory.

    python -m benchmarks.training [--shapes char-10m gpt2-124m] [--dtypes float32 bfloat16] [--json]
    python -m benchmarks.training --device cuda --shapes gpt2-124m --dtypes bfloat16 \\
        --rows 32 --length 1024 --steps 20 --compile

The same architecture, sizes, batch, sequence length, optimizer (AdamW) and random tokens; fresh
weights. Each side is a process of its own; they are timed in turn, several rounds, the best of
which counts. `transformers` runs its own Trainer with its defaults for this machine (bf16 by
autocast, as ours). Peak memory is that of the whole process, or of the GPU.

The limit: a forward and a backward pass compute six operations per weight and token besides
attention's, at most at the rate of one large matrix product (measured here), of a GPU at that of
its data sheet. The share of it that is reached is what papers call MFU.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from benchmarks.hardware import describe
from benchmarks.in_turn import Measure, in_turn
from benchmarks.peers import versions

from pharos.data.order import Shuffled
from pharos.data.packing import ConcatRows
from pharos.data.token_source import TokenArrays
from pharos.models.describe import describe_config
from pharos.models.load import new_model
from pharos.train.events import Observer, StepRecord
from pharos.train.loader import Loader
from pharos.train.loop import Trainer
from pharos.train.loop_config import LoopConfig, Precision
from pharos.train.objectives import Vocabulary, new_objective
from pharos.train.optimizers import OptimizerConfig, make_optimizer
from pharos.train.ranks import Ranks
from pharos.train.schedules import Schedule, ScheduleConfig
from pharos.train.throughput import memory_in_use, peak_flops

PEERS = ("transformers", "accelerate")


@dataclass(frozen=True, kw_only=True, slots=True)
class Shape:
    """`steps` are timed at once; `rows` are of one optimizer step, in one micro-batch."""

    vocab_size: int
    layers: int
    heads: int
    width: int
    length: int
    rows: int
    steps: int

    def config(self) -> dict[str, Any]:
        return {
            "model_type": "gpt2",
            "vocab_size": self.vocab_size,
            "n_layer": self.layers,
            "n_head": self.heads,
            "n_embd": self.width,
            "n_positions": self.length,
            "embd_pdrop": 0.0,
            "attn_pdrop": 0.0,
            "resid_pdrop": 0.0,
            "architectures": ["GPT2LMHeadModel"],
        }


SHAPES = {
    "char-0.8m": Shape(vocab_size=65, layers=4, heads=4, width=128, length=64, rows=12, steps=40),
    "char-10m": Shape(vocab_size=65, layers=6, heads=6, width=384, length=256, rows=16, steps=3),
    "gpt2-124m": Shape(
        vocab_size=50257, layers=12, heads=12, width=768, length=512, rows=2, steps=1
    ),
}
PRECISIONS: dict[str, Precision] = {"float32": "fp32", "bfloat16": "bf16"}
ROUNDS = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class Side:
    tokens_per_second: float
    peak_bytes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    shape: str
    dtype: str
    device: str
    ours: Side
    peer: Side
    limit_tokens_per_second: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """What both sides are given."""

    shape: Shape
    dtype: str
    device: str
    is_compiled: bool


def settled(device: str) -> float:
    """The time at which all that was asked of a device is done."""
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def random_tokens(shape: Shape) -> np.ndarray[Any, Any]:
    count = 1000 * (shape.length + 1)
    return np.random.default_rng(0).integers(shape.vocab_size, size=count).astype(np.int32)


class Stamps(Observer):
    """When each step was over."""

    def __init__(self, device: str = "cpu") -> None:
        self.device = device
        self.times: list[float] = []

    def on_step(self, record: StepRecord) -> None:
        self.times.append(settled(self.device))


def ours(setting: Setting) -> Measure:
    shape, device = setting.shape, torch.device(setting.device)
    model = new_model(shape.config(), "causal_lm").train().to(device)
    objective = new_objective("causal_lm", {}, Vocabulary(size=shape.vocab_size))
    source = TokenArrays.of_documents([random_tokens(shape)])
    stream = Shuffled(ConcatRows(source, shape.length + 1, seed=0), 0)
    config = LoopConfig(
        steps=shape.steps + 1,
        batch_size=shape.rows,
        precision=PRECISIONS[setting.dtype],
        compile=setting.is_compiled,
        check_first_step=False,
        watch_for_spikes=False,
        log_every=1,
    )

    def run() -> tuple[list[float], int]:
        stamps = Stamps(setting.device)
        with tempfile.TemporaryDirectory(prefix="pharos-training-") as name:
            Trainer(
                model=model,
                objective=objective,
                optimizer=make_optimizer(OptimizerConfig(lr=1e-4), model),
                schedule=Schedule(ScheduleConfig(name="linear", final=0.0), steps=config.steps),
                config=config,
                output=Path(name),
                batches=lambda first: Loader(
                    stream,
                    objective,
                    rows_per_step=shape.rows,
                    micro_batch_size=shape.rows,
                    start_step=first,
                ),
                observers=[stamps],
                ranks=Ranks(device=device),
            ).run()
        return stamps.times, memory_in_use(device)

    return run


def peer(setting: Setting) -> Measure:
    shape = setting.shape
    transformers = import_module("transformers")
    transformers.logging.set_verbosity_error()
    raw = {key: value for key, value in shape.config().items() if key != "architectures"}
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config(**raw))
    rows = random_tokens(shape).reshape(-1, shape.length + 1)[:, :-1]
    data = [{"input_ids": torch.from_numpy(row).long()} for row in rows]

    class Times(transformers.TrainerCallback):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            self.times: list[float] = []

        def on_step_end(self, *_: Any, **__: Any) -> None:
            self.times.append(settled(setting.device))

    def collate(examples: Sequence[Any]) -> dict[str, torch.Tensor]:
        ids = torch.stack([example["input_ids"] for example in examples])
        return {"input_ids": ids, "labels": ids}

    def run() -> tuple[list[float], int]:
        times = Times()
        with tempfile.TemporaryDirectory(prefix="pharos-training-") as name:
            arguments = transformers.TrainingArguments(
                output_dir=name,
                per_device_train_batch_size=shape.rows,
                max_steps=shape.steps + 1,
                learning_rate=1e-4,
                bf16=setting.dtype == "bfloat16",
                use_cpu=setting.device == "cpu",
                torch_compile=setting.is_compiled,
                save_strategy="no",
                logging_strategy="no",
                report_to=[],
                disable_tqdm=True,
            )
            transformers.Trainer(
                model=model,
                args=arguments,
                train_dataset=data,
                data_collator=collate,
                callbacks=[times],
            ).train()
        return times.times, memory_in_use(torch.device(setting.device))

    return run


SIDES = {"ours": ours, "peer": peer}


def best_of(shape: Shape, taken: Sequence[tuple[list[float], int]]) -> Side:
    """Of several runs: when each step was over, and the peak of memory so far."""
    speeds = [
        (len(times) - 1) * shape.rows * shape.length / (times[-1] - times[0]) for times, _ in taken
    ]
    return Side(tokens_per_second=max(speeds), peak_bytes=max(peak for _, peak in taken))


def compare(name: str, setting: Setting) -> Comparison:
    shape = setting.shape
    measured = in_turn(SIDES, (setting,), rounds=ROUNDS)
    best = {side: best_of(shape, taken) for side, taken in measured.items()}
    flops = 3 * describe_config(shape.config(), "causal_lm").flops_per_token(shape.length // 2)
    rate = peak_flops(torch.device(setting.device), getattr(torch, setting.dtype))
    return Comparison(
        shape=name,
        dtype=setting.dtype,
        device=setting.device,
        ours=best["ours"],
        peer=best["peer"],
        limit_tokens_per_second=rate / flops or None,
    )


def report(row: Comparison) -> str:
    ours, peer, limit = row.ours, row.peer, row.limit_tokens_per_second
    reached = "limit unknown: the GPU is not in pharos.train.planner.devices"
    if limit is not None:
        reached = f"limit {limit:8,.0f} ({ours.tokens_per_second / limit:4.0%} of it: MFU)"
    return (
        f"{row.shape:10} {row.dtype:9} tokens/s  ours {ours.tokens_per_second:8,.0f}  "
        f"transformers {peer.tokens_per_second:8,.0f}  "
        f"{ours.tokens_per_second / peer.tokens_per_second:5.2f}x  {reached}  "
        f"peak MB  {ours.peak_bytes / 1e6:6,.0f}  {peer.peak_bytes / 1e6:6,.0f}"
    )


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Training speed beside transformers' Trainer.")
    parser.add_argument("--shapes", nargs="+", choices=list(SHAPES), default=list(SHAPES))
    parser.add_argument("--dtypes", nargs="+", choices=list(PRECISIONS), default=list(PRECISIONS))
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    for name in ("rows", "length", "steps"):
        parser.add_argument(f"--{name}", type=int, help="instead of the shape's own")
    parser.add_argument("--compile", action="store_true", help="torch compiles both sides' steps")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


def main() -> None:
    arguments = parsed()
    used = {"hardware": describe(), "versions": versions(PEERS)}
    given = {name: getattr(arguments, name) for name in ("rows", "length", "steps")}
    changes = {name: value for name, value in given.items() if value is not None}
    rows = []
    for name in arguments.shapes:
        for dtype in arguments.dtypes:
            setting = Setting(
                shape=replace(SHAPES[name], **changes),
                dtype=dtype,
                device=arguments.device,
                is_compiled=arguments.compile,
            )
            rows.append(compare(name, setting))
            print(report(rows[-1]), file=sys.stderr, flush=True)
    if arguments.json:
        print(json.dumps({**used, "rows": [asdict(row) for row in rows]}))
    else:
        print(*[report(row) for row in rows], *used.values(), sep="\n")


if __name__ == "__main__":
    main()
