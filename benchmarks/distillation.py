"""A distilled model beside its teacher: what is kept of the score, and in how much of the time.

    python -m benchmarks.distillation RUN [--rounds 20] [--json]

RUN is the output folder of a recipe with the objective `distillation`. Both models answer all of
the rows that the run held out; the score is the share of right answers (tokens) of the teacher's
own objective. Then both make the same forward pass in turn, over one batch of the recipe's size;
the median of the rounds counts.
"""

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import torch
import yaml
from benchmarks.hardware import describe
from torch import nn

from pharos.train.objective import Batch, Objective
from pharos.train.objectives.distillation import Distillation
from pharos.train.ranks import Ranks
from pharos.train.recipe import read_recipe
from pharos.train.run import count_parameters, open_run
from pharos.train.validation import validation_batches


@dataclass(frozen=True, kw_only=True, slots=True)
class Side:
    parameters: int
    score: float
    milliseconds: float


@torch.inference_mode()
def score_of(model: nn.Module, objective: Objective, batches: Sequence[Batch]) -> float:
    """The share of right answers, of the first of the objective's terms."""
    name = next(iter(objective.weights))
    right = sum(float(objective.losses(model, batch)["correct"]) for batch in batches)
    return right / sum(objective.count(batch)[name] for batch in batches)


@torch.inference_mode()
def times_of(passes: Sequence[Callable[[], object]], *, rounds: int) -> list[float]:
    """The median of each, in milliseconds, after one round to warm up."""
    found: list[list[float]] = [[] for _ in passes]
    for number in range(rounds + 1):
        for run, times in zip(passes, found, strict=True):
            began = time.perf_counter()
            run()
            if number:
                times.append((time.perf_counter() - began) * 1e3)
    return [median(times) for times in found]


def measure(folder: Path, *, rounds: int) -> tuple[Side, Side]:
    """The teacher and the student of a finished run."""
    raw = yaml.safe_load((folder / "recipe.yaml").read_text())
    with open_run(read_recipe(raw), resume=True, say=print) as run:
        objective, rows, training = run.objective, run.data.validation, run.recipe.training
        assert isinstance(objective, Distillation) and rows is not None
        batches = [
            batch
            for micro_batches in validation_batches(
                rows,
                objective,
                wanted=training.evaluation_rows,
                micro_batch_size=training.batch_size,
                at_once=1,
                ranks=Ranks(device=torch.device("cpu")),
                seed=run.recipe.seed,
            )
            for batch in micro_batches
        ]
        models = [objective.teacher, run.model.eval()]
        scores = [score_of(model, objective.hard, batches) for model in models]
        passes = [lambda model=model: objective.hard.losses(model, batches[0]) for model in models]
        times = times_of(passes, rounds=rounds)
        teacher, student = (
            Side(parameters=count_parameters(model), score=score, milliseconds=milliseconds)
            for model, score, milliseconds in zip(models, scores, times, strict=True)
        )
    return teacher, student


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    teacher, student = measure(arguments.run, rounds=arguments.rounds)
    kept, time_share = student.score / teacher.score, student.milliseconds / teacher.milliseconds
    if arguments.json:
        sides = {"teacher": asdict(teacher), "student": asdict(student)}
        print(json.dumps(sides | {"kept": kept, "time": time_share, "machine": describe()}))
        return
    print(f"{describe()}; {torch.get_num_threads()} threads")
    print(f"{'':8}{'parameters':>12}{'right':>9}{'ms':>9}")
    for name, side in (("teacher", teacher), ("student", student)):
        print(f"{name:8}{side.parameters:12,}{side.score:9.2%}{side.milliseconds:9.1f}")
    print(f"{kept:.1%} of the score in {time_share:.0%} of the time")


if __name__ == "__main__":
    main()
