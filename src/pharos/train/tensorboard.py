"""The curves of a run for TensorBoard: an optional part.

It is written with tensorboardX, which needs protobuf and nothing else; TensorBoard itself, with its
server, is only needed where one looks: `tensorboard --logdir OUTPUT/tensorboard`.
"""

from pathlib import Path

from pharos.core.errors import TrainingError
from pharos.train.events import Evaluation, Observer, RunFacts, StepRecord

FOLDER = "tensorboard"


class TensorBoardLog(Observer):
    """Writes into `tensorboard/` of the output. A run that is gone on with goes on there. Raises
    TrainingError if tensorboardX is not installed."""

    def __init__(self, output: Path) -> None:
        try:
            from tensorboardX import SummaryWriter
        except ImportError as error:
            raise TrainingError(
                "logging for TensorBoard needs tensorboardX, which is not installed; "
                "pip install 'pharos-llm[train]'"
            ) from error
        self._open = SummaryWriter
        self._folder = str(output / FOLDER)

    def on_start(self, facts: RunFacts) -> None:
        self._writer = self._open(self._folder, purge_step=facts.first_step + 1)

    def on_step(self, record: StepRecord) -> None:
        values = {
            "train/loss": record.train_loss,
            **{f"train/{name}": value for name, value in record.losses.items()},
            "train/learning_rate": record.learning_rate,
            "train/gradient_norm": record.gradient_norm,
            "speed/tokens_per_second": record.tokens_per_second,
            "speed/seconds_waited": record.waited_seconds,
            "memory/gib": record.memory_bytes / 2**30,
        }
        if record.mfu is not None:
            values["speed/mfu"] = record.mfu
        self._write(values, record.step)

    def on_evaluation(self, evaluation: Evaluation) -> None:
        losses = {f"val/{name}": value for name, value in evaluation.losses.items()}
        self._write({"val/loss": evaluation.val_loss, **losses}, evaluation.step)
        for number, sample in enumerate(evaluation.samples, start=1):
            self._writer.add_text(f"sample/{number}", f"```\n{sample}\n```", evaluation.step)
        self._writer.flush()

    def on_end(self, *, is_complete: bool) -> None:
        self._writer.close()

    def _write(self, values: dict[str, float], step: int) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
