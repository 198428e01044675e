"""`metrics.jsonl`: one object for each logged step, with the losses of an evaluation in that of its
step. JSON has no infinity and no "not a number": these are null in the file."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pharos.core.errors import TrainingError
from pharos.train.events import Evaluation, Observer, RunFacts, StepRecord

METRICS_FILE = "metrics.jsonl"


class MetricsLog(Observer):
    """Appends to the file of an earlier part of the run, without what came after the step that is
    gone on from."""

    def __init__(self, output: Path) -> None:
        self.path = output / METRICS_FILE
        self._evaluation: Evaluation | None = None

    def on_start(self, facts: RunFacts) -> None:
        kept = [line for line in read_metrics(self.path) if line["step"] <= facts.first_step]
        self.path.parent.mkdir(parents=True, exist_ok=True)
        part = self.path.with_name(self.path.name + ".part")
        text = "".join(_as_line(line) for line in kept if facts.first_step)
        part.write_text(text, encoding="utf-8")
        part.replace(self.path)

    def on_evaluation(self, evaluation: Evaluation) -> None:
        self._evaluation = evaluation

    def on_step(self, record: StepRecord) -> None:
        line = {key: value for key, value in asdict(record).items() if key != "losses"}
        line |= {f"train/{name}": value for name, value in record.losses.items()}
        if self._evaluation is not None and self._evaluation.step == record.step:
            line |= _of_evaluation(self._evaluation)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(_as_line(line))


def _as_line(line: Mapping[str, Any]) -> str:
    finite = {
        key: None if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in line.items()
    }
    return json.dumps(finite, allow_nan=False) + "\n"


def _of_evaluation(evaluation: Evaluation) -> dict[str, Any]:
    losses = {f"val/{name}": value for name, value in evaluation.losses.items()}
    return {"val_loss": evaluation.val_loss, **losses, "samples": list(evaluation.samples)}


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The objects of a log, none if there is no file; a loss that is null is NaN. A last line that
    a crash cut off is left out; any other that is not an object with a step is a TrainingError."""
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8").split("\n")
    found: list[dict[str, Any]] = []
    for number, line in enumerate(lines[:-1], start=1):
        try:
            value = json.loads(line)
        except ValueError as error:
            raise TrainingError(f"{path}, line {number}, is not JSON: {error}") from error
        if not isinstance(value, dict) or not isinstance(value.get("step"), int):
            raise TrainingError(f"{path}, line {number}, has no step")
        found.append({key: _restored(key, inner) for key, inner in value.items()})
    return found


def _restored(key: str, value: Any) -> Any:
    is_loss = key in ("train_loss", "val_loss") or key.startswith(("train/", "val/"))
    return math.nan if is_loss and value is None else value
