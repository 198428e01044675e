"""LoRA and QLoRA fine-tuning beside TRL and PEFT: tokens a second and peak memory.

    python -m benchmarks.fine_tuning [--dtypes float32 bfloat16] [--json]
    python -m benchmarks.fine_tuning --device cuda --shape llama-3-8b --dtypes bfloat16
    python -m benchmarks.fine_tuning --device cuda --shape llama-3-8b --dtypes bfloat16 --longest 24

The same Llama of random weights (`llama-60m`: 8 layers, 512 wide, a vocabulary of 32,000), the same
LoRA on all linear layers (r = 16), AdamW, batch and sequence length; every token is learned. Each
side is a process of its own; they are timed in turn, and the best of several rounds counts. TRL
runs its SFTTrainer with its defaults for this machine, gradient checkpointing off as ours. QLoRA
(ours only: bitsandbytes' trainer needs a GPU) has its base in NF4. Peak memory is that of the whole
process, also without what it held before training began; on a GPU, that of the GPU.

`--longest GB` asks instead for the longest row, in steps of 512 tokens, that one optimizer step has
memory for in so many gigabytes of a GPU, its layers computed again for the backward pass.
"""

import argparse
import gc
import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from benchmarks.hardware import describe
from benchmarks.in_turn import Measure, in_turn
from benchmarks.peers import versions
from benchmarks.training import Stamps, settled

from pharos.adapt import Adapters, LoraConfig
from pharos.data.rows import Row
from pharos.models.family import Model
from pharos.models.load import load_model, new_model, save_model
from pharos.quant import convert_nf4
from pharos.train.activation_checkpoint import checkpoint_activations
from pharos.train.loader import Loader
from pharos.train.loop import Trainer
from pharos.train.loop_config import LoopConfig, Precision
from pharos.train.objectives import Vocabulary, new_objective
from pharos.train.optimizers import OptimizerConfig, make_optimizer
from pharos.train.ranks import Ranks
from pharos.train.schedules import Schedule, ScheduleConfig
from pharos.train.throughput import memory_in_use

PEERS = ("trl", "peft", "transformers")
PRECISIONS: dict[str, Precision] = {"float32": "fp32", "bfloat16": "bf16"}
SHAPES: dict[str, dict[str, Any]] = {
    "llama-60m": {
        "model_type": "llama",
        "vocab_size": 32_000,
        "hidden_size": 512,
        "intermediate_size": 1376,
        "num_hidden_layers": 8,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "max_position_embeddings": 1024,
        "tie_word_embeddings": False,
    },
    "llama-3-8b": {
        "model_type": "llama",
        "vocab_size": 128_256,
        "hidden_size": 4096,
        "intermediate_size": 14_336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "max_position_embeddings": 131_072,
        "rope_theta": 500_000.0,
        "tie_word_embeddings": False,
    },
}
ROWS, LENGTH, STEPS, ROUNDS, RANK = 4, 512, 2, 3, 16
STRIDE = 512
"""Tokens between two lengths that the search for the longest context tells apart."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """What all sides are given; `folder` has the model."""

    folder: Path
    shape: str
    dtype: str
    device: str
    rows: int
    length: int

    @property
    def vocab_size(self) -> int:
        return int(SHAPES[self.shape]["vocab_size"])

    @property
    def memory_in_use(self) -> int:
        return memory_in_use(torch.device(self.device))


@dataclass(frozen=True, kw_only=True, slots=True)
class Side:
    tokens_per_second: float
    peak_bytes: int
    added_bytes: int


class RandomConversations:
    """A stream whose rows are tokens that are all learned."""

    def __init__(self, setting: Setting) -> None:
        self.vocab_size, self.length = setting.vocab_size, setting.length

    def __getitem__(self, number: int) -> Row:
        generator = np.random.default_rng(number)
        ids = generator.integers(self.vocab_size, size=self.length + 1).astype(np.int32)
        return {"ids": ids, "labels": ids}


def lora(setting: Setting) -> Measure:
    return _ours(setting, in_nf4=False)


def qlora(setting: Setting) -> Measure:
    return _ours(setting, in_nf4=True)


def adapted(setting: Setting, *, in_nf4: bool) -> Model:
    """The model on its device, frozen, with a LoRA that is to be trained."""
    model = load_model(setting.folder, dtype=getattr(torch, setting.dtype))
    for parameter in model.parameters():
        parameter.data = parameter.data.clone()  # as the peer: not mapped from the file
    model.to(setting.device)
    if in_nf4:
        convert_nf4(model)
    Adapters(model).add(LoraConfig(r=RANK, lora_alpha=2 * RANK))
    return model.to(setting.device)


def trainer(model: Model, setting: Setting, stamps: Stamps, *, steps: int) -> Trainer:
    objective = new_objective("sft", {}, Vocabulary(size=setting.vocab_size))
    config = LoopConfig(
        steps=steps,
        batch_size=setting.rows,
        precision=PRECISIONS[setting.dtype],
        check_first_step=False,
        watch_for_spikes=False,
        log_every=1,
    )
    made = Trainer(
        model=model,
        objective=objective,
        optimizer=make_optimizer(OptimizerConfig(lr=1e-4), model),
        schedule=Schedule(ScheduleConfig(name="linear", final=0.0), steps=steps),
        config=config,
        output=setting.folder,
        batches=lambda first: Loader(
            RandomConversations(setting),
            objective,
            rows_per_step=setting.rows,
            micro_batch_size=setting.rows,
            start_step=first,
        ),
        observers=[stamps],
        ranks=Ranks(device=torch.device(setting.device)),
    )
    made.save = lambda: setting.folder  # type: ignore[method-assign]  # nothing is kept here
    return made


def _ours(setting: Setting, *, in_nf4: bool) -> Measure:
    model = adapted(setting, in_nf4=in_nf4)
    before = setting.memory_in_use

    def run() -> tuple[list[float], int, int]:
        stamps = Stamps(setting.device)
        trainer(model, setting, stamps, steps=STEPS + 1).run()
        return stamps.times, setting.memory_in_use, setting.memory_in_use - before

    return run


def longest_context(setting: Setting, *, in_nf4: bool, gigabytes: float) -> int:
    """The tokens of one row that a step has memory for; 0 if not even the model fits."""
    gc.collect()  # the model of a search before
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(min(1.0, gigabytes * 1e9 / total))
    try:
        model = adapted(setting, in_nf4=in_nf4)
    except torch.cuda.OutOfMemoryError:
        return 0
    checkpoint_activations(model, "full")
    fits, too_long = 0, STRIDE
    while step_fits(model, replace(setting, length=too_long)):
        fits, too_long = too_long, 2 * too_long
    while too_long - fits > STRIDE:
        middle = (fits + too_long) // 2 // STRIDE * STRIDE
        if step_fits(model, replace(setting, length=middle)):
            fits = middle
        else:
            too_long = middle
    return fits


def step_fits(model: Model, setting: Setting) -> bool:
    try:
        trainer(model, setting, Stamps(setting.device), steps=1).run()
    except torch.cuda.OutOfMemoryError:
        return False
    finally:
        model.zero_grad()
        gc.collect()
        torch.cuda.empty_cache()
    return True


def trl(setting: Setting) -> Measure:
    folder, dtype = setting.folder, setting.dtype
    transformers, peft, trl_ = (import_module(name) for name in ("transformers", "peft", "trl"))
    datasets = import_module("datasets")
    transformers.logging.set_verbosity_error()
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype))
    model.to(setting.device)
    before = setting.memory_in_use
    rows = [RandomConversations(setting)[n]["ids"][:-1].tolist() for n in range(64)]
    data = datasets.Dataset.from_list([{"input_ids": row, "labels": row} for row in rows])
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))
    tokenizer.pad_token = tokenizer.eos_token = "<|endoftext|>"
    wrapped = peft.LoraConfig(
        r=RANK, lora_alpha=2 * RANK, target_modules="all-linear", task_type="CAUSAL_LM"
    )

    class Times(transformers.TrainerCallback):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            self.times: list[float] = []

        def on_step_end(self, *_: Any, **__: Any) -> None:
            self.times.append(settled(setting.device))

    with tempfile.TemporaryDirectory(prefix="pharos-fine-tuning-") as name:
        trainer = trl_.SFTTrainer(
            model=model,
            args=trl_.SFTConfig(
                output_dir=name,
                per_device_train_batch_size=setting.rows,
                max_steps=STEPS + 1,
                max_length=setting.length,
                learning_rate=1e-4,
                bf16=dtype == "bfloat16",
                use_cpu=setting.device == "cpu",
                gradient_checkpointing=False,
                dataset_kwargs={"skip_prepare_dataset": True},
                save_strategy="no",
                logging_strategy="no",
                report_to=[],
                disable_tqdm=True,
            ),
            train_dataset=data,
            processing_class=tokenizer,
            peft_config=wrapped,
        )

    def run() -> tuple[list[float], int, int]:
        times = Times()
        trainer.add_callback(times)
        trainer.train()
        trainer.remove_callback(times)
        return times.times, setting.memory_in_use, setting.memory_in_use - before

    return run


SIDES = {"lora": lora, "qlora": qlora, "trl": trl}


def best_of(setting: Setting, taken: Sequence[tuple[list[float], int, int]]) -> Side:
    tokens = setting.rows * setting.length
    speeds = [(len(times) - 1) * tokens / (times[-1] - times[0]) for times, _, _ in taken]
    return Side(
        tokens_per_second=max(speeds),
        peak_bytes=max(peak for _, peak, _ in taken),
        added_bytes=max(added for _, _, added in taken),
    )


def compare(setting: Setting) -> dict[str, Side]:
    measured = in_turn(SIDES, (setting,), rounds=ROUNDS)
    return {side: best_of(setting, taken) for side, taken in measured.items()}


@contextmanager
def random_model(shape: str, dtype: str) -> Iterator[Path]:
    """A folder with the model that all sides load."""
    with tempfile.TemporaryDirectory(prefix="pharos-fine-tuning-") as name:
        folder = Path(name)
        model = new_model(SHAPES[shape], "causal_lm").to(getattr(torch, dtype))
        save_model(model, folder)
        (folder / "tokenizer.json").write_text(json.dumps(_tokenizer()))
        yield folder


def _tokenizer() -> dict[str, Any]:
    """The least that TRL wants: it is never asked to encode."""
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": None,
        "model": {"type": "WordLevel", "vocab": {"<|endoftext|>": 0}, "unk_token": "<|endoftext|>"},
    }


def report(dtype: str, sides: dict[str, Side]) -> str:
    peer = sides["trl"]
    return "\n".join(
        f"{dtype:9} {name:6} tokens/s {side.tokens_per_second:7,.0f} "
        f"({side.tokens_per_second / peer.tokens_per_second:5.2f}x)  "
        f"peak MB {side.peak_bytes / 1e6:6,.0f} ({side.peak_bytes / peer.peak_bytes:4.2f})  "
        f"added MB {side.added_bytes / 1e6:6,.0f} ({side.added_bytes / peer.added_bytes:4.2f})"
        for name, side in sides.items()
    )


def longest(setting: Setting, gigabytes: float) -> str:
    lengths = {
        name: longest_context(setting, in_nf4=name == "qlora", gigabytes=gigabytes)
        for name in ("lora", "qlora")
    }
    told = "  ".join(f"{name} {length:,} tokens" for name, length in lengths.items())
    return f"{setting.shape} {setting.dtype}, longest row in {gigabytes:g} GB: {told}"


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="LoRA fine-tuning beside TRL and PEFT.")
    parser.add_argument("--shape", choices=list(SHAPES), default="llama-60m")
    parser.add_argument("--dtypes", nargs="+", choices=list(PRECISIONS), default=list(PRECISIONS))
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--length", type=int, default=LENGTH)
    parser.add_argument("--longest", type=float, metavar="GB")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    if arguments.longest is not None and arguments.device != "cuda":
        parser.error("--longest caps a GPU's memory: give --device cuda")
    if arguments.longest is not None and arguments.json:
        parser.error("--longest prints a line a precision: leave --json out")
    return arguments


def setting_of(arguments: argparse.Namespace, folder: Path, dtype: str) -> Setting:
    return Setting(
        folder=folder,
        shape=arguments.shape,
        dtype=dtype,
        device=arguments.device,
        rows=1 if arguments.longest is not None else arguments.rows,
        length=arguments.length,
    )


def main() -> None:
    arguments = parsed()
    used = {"hardware": describe(), "versions": versions(PEERS)}
    rows: dict[str, dict[str, Side]] = {}
    for dtype in arguments.dtypes:
        with random_model(arguments.shape, dtype) as folder:
            setting = setting_of(arguments, folder, dtype)
            if arguments.longest is not None:
                print(longest(setting, arguments.longest), flush=True)
                continue
            rows[dtype] = compare(setting)
            print(report(dtype, rows[dtype]), file=sys.stderr, flush=True)
    if arguments.json:
        plain = {dtype: {k: asdict(v) for k, v in sides.items()} for dtype, sides in rows.items()}
        print(json.dumps({**used, "rows": plain}))
    else:
        print(*[report(dtype, sides) for dtype, sides in rows.items()], *used.values(), sep="\n")


if __name__ == "__main__":
    main()
