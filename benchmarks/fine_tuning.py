"""LoRA and QLoRA fine-tuning beside TRL and PEFT: tokens a second and peak memory.

    python -m benchmarks.fine_tuning [--dtypes float32 bfloat16] [--json]

The same Llama of random weights (8 layers, 512 wide, a vocabulary of 32,000), the same LoRA on all
linear layers (r = 16), AdamW, batch and sequence length; every token is learned. Each side is a
process of its own; they are timed in turn, and the best of several rounds counts. TRL runs its
SFTTrainer with its defaults for this machine, gradient checkpointing off as ours. QLoRA (ours only:
bitsandbytes' trainer needs a GPU) has its base in NF4. Peak memory is that of the whole process,
also without what it held before training began.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from benchmarks.hardware import describe
from benchmarks.in_turn import Measure, in_turn
from benchmarks.peers import versions
from benchmarks.training import Stamps

from pharos.adapt import Adapters, LoraConfig
from pharos.data.rows import Row
from pharos.models.load import load_model, new_model, save_model
from pharos.quant import convert_nf4
from pharos.train.loader import Loader
from pharos.train.loop import Trainer
from pharos.train.loop_config import LoopConfig, Precision
from pharos.train.objectives import Vocabulary, new_objective
from pharos.train.optimizers import OptimizerConfig, make_optimizer
from pharos.train.schedules import Schedule, ScheduleConfig
from pharos.train.throughput import memory_in_use

PEERS = ("trl", "peft", "transformers")
PRECISIONS: dict[str, Precision] = {"float32": "fp32", "bfloat16": "bf16"}
CONFIG: dict[str, Any] = {
    "model_type": "llama",
    "vocab_size": 32_000,
    "hidden_size": 512,
    "intermediate_size": 1376,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "max_position_embeddings": 1024,
    "tie_word_embeddings": False,
}
ROWS, LENGTH, STEPS, ROUNDS, RANK = 4, 512, 2, 3, 16
CPU = torch.device("cpu")


@dataclass(frozen=True, kw_only=True, slots=True)
class Side:
    tokens_per_second: float
    peak_bytes: int
    added_bytes: int


class RandomConversations:
    """A stream whose rows are tokens that are all learned."""

    def __getitem__(self, number: int) -> Row:
        vocab_size = int(CONFIG["vocab_size"])
        ids = np.random.default_rng(number).integers(vocab_size, size=LENGTH + 1).astype(np.int32)
        return {"ids": ids, "labels": ids}


def lora(folder: Path, dtype: str) -> Measure:
    return _ours(folder, dtype, in_nf4=False)


def qlora(folder: Path, dtype: str) -> Measure:
    return _ours(folder, dtype, in_nf4=True)


def _ours(folder: Path, dtype: str, *, in_nf4: bool) -> Measure:
    model = load_model(folder, dtype=getattr(torch, dtype))
    for parameter in model.parameters():
        parameter.data = parameter.data.clone()  # as the peer: not mapped from the file
    if in_nf4:
        convert_nf4(model)
    adapters = Adapters(model)
    adapters.add(LoraConfig(r=RANK, lora_alpha=2 * RANK))
    before = memory_in_use(CPU)
    objective = new_objective("sft", {}, Vocabulary(size=CONFIG["vocab_size"]))
    config = LoopConfig(
        steps=STEPS + 1,
        batch_size=ROWS,
        precision=PRECISIONS[dtype],
        check_first_step=False,
        watch_for_spikes=False,
        log_every=1,
    )

    def run() -> tuple[list[float], int, int]:
        stamps = Stamps()
        trainer = Trainer(
            model=model,
            objective=objective,
            optimizer=make_optimizer(OptimizerConfig(lr=1e-4), model),
            schedule=Schedule(ScheduleConfig(name="linear", final=0.0), steps=config.steps),
            config=config,
            output=folder,
            batches=lambda first: Loader(
                RandomConversations(),
                objective,
                rows_per_step=ROWS,
                micro_batch_size=ROWS,
                start_step=first,
            ),
            observers=[stamps],
        )
        trainer.save = lambda: folder  # type: ignore[method-assign]  # nothing is kept here
        trainer.run()
        return stamps.times, memory_in_use(CPU), memory_in_use(CPU) - before

    return run


def trl(folder: Path, dtype: str) -> Measure:
    transformers, peft, trl_ = (import_module(name) for name in ("transformers", "peft", "trl"))
    datasets = import_module("datasets")
    transformers.logging.set_verbosity_error()
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype))
    before = memory_in_use(CPU)
    rows = [RandomConversations()[n]["ids"][:-1].tolist() for n in range(64)]
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
            self.times.append(time.perf_counter())

    with tempfile.TemporaryDirectory(prefix="pharos-fine-tuning-") as name:
        trainer = trl_.SFTTrainer(
            model=model,
            args=trl_.SFTConfig(
                output_dir=name,
                per_device_train_batch_size=ROWS,
                max_steps=STEPS + 1,
                max_length=LENGTH,
                learning_rate=1e-4,
                bf16=dtype == "bfloat16",
                use_cpu=True,
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
        return times.times, memory_in_use(CPU), memory_in_use(CPU) - before

    return run


SIDES = {"lora": lora, "qlora": qlora, "trl": trl}


def best_of(taken: Sequence[tuple[list[float], int, int]]) -> Side:
    tokens = ROWS * LENGTH
    speeds = [(len(times) - 1) * tokens / (times[-1] - times[0]) for times, _, _ in taken]
    return Side(
        tokens_per_second=max(speeds),
        peak_bytes=max(peak for _, peak, _ in taken),
        added_bytes=max(added for _, _, added in taken),
    )


def compare(dtype: str) -> dict[str, Side]:
    with tempfile.TemporaryDirectory(prefix="pharos-fine-tuning-") as name:
        folder = Path(name)
        model = new_model(CONFIG, "causal_lm").to(getattr(torch, dtype))
        save_model(model, folder)
        (folder / "tokenizer.json").write_text(json.dumps(_tokenizer()))
        return {
            side: best_of(taken)
            for side, taken in in_turn(SIDES, (folder, dtype), rounds=ROUNDS).items()
        }


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


def main() -> None:
    parser = argparse.ArgumentParser(description="LoRA fine-tuning beside TRL and PEFT.")
    parser.add_argument("--dtypes", nargs="+", choices=list(PRECISIONS), default=list(PRECISIONS))
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    used = {"hardware": describe(), "versions": versions(PEERS)}
    rows: dict[str, dict[str, Side]] = {}
    for dtype in arguments.dtypes:
        rows[dtype] = compare(dtype)
        print(report(dtype, rows[dtype]), file=sys.stderr, flush=True)
    if arguments.json:
        plain = {dtype: {k: asdict(v) for k, v in sides.items()} for dtype, sides in rows.items()}
        print(json.dumps({**used, "rows": plain}))
    else:
        print(*[report(dtype, sides) for dtype, sides in rows.items()], *used.values(), sep="\n")


if __name__ == "__main__":
    main()
