import sys
from pathlib import Path

import pytest

from pharos.core.errors import TrainingError
from pharos.train.events import Evaluation, RunFacts, StepRecord
from pharos.train.tensorboard import TensorBoardLog


def facts(output: Path) -> RunFacts:
    return RunFacts(
        output=output,
        steps=20,
        first_step=0,
        num_parameters=100,
        num_trainable=100,
        rows_per_step=4,
        device="cpu",
        processes=1,
        peak_flops=0.0,
    )


def record(step: int) -> StepRecord:
    return StepRecord(
        step=step,
        train_loss=1.5,
        losses={"next_token": 1.5},
        learning_rate=1e-3,
        gradient_norm=0.5,
        tokens=100,
        tokens_per_second=1000.0,
        seconds=0.1,
        waited_seconds=0.0,
        mfu=0.3,
        memory_bytes=1 << 30,
    )


def test_curves_and_samples_are_in_the_files_that_tensorboard_reads(tmp_path: Path) -> None:
    pytest.importorskip("tensorboardX")
    from tensorboardX.proto.event_pb2 import Event
    from tensorboardX.record_writer import RecordWriter  # noqa: F401 (its format is read here)

    log = TensorBoardLog(tmp_path)
    log.on_start(facts(tmp_path))
    log.on_evaluation(Evaluation(step=10, val_loss=2.0, losses={}, seconds=1.0, samples=("Hi",)))
    log.on_step(record(10))
    log.on_end(is_complete=True)
    (path,) = (tmp_path / "tensorboard").iterdir()
    scalars, content = {}, path.read_bytes()
    while content:  # a record: its length, a checksum, the event, a checksum
        length = int.from_bytes(content[:8], "little")
        event = Event.FromString(content[12 : 12 + length])
        content = content[16 + length :]
        for value in event.summary.value:
            scalars[value.tag] = (event.step, value.simple_value)
    assert scalars["val/loss"] == (10, 2.0)
    assert scalars["train/loss"] == (10, 1.5)
    assert scalars["train/next_token"] == (10, 1.5)
    assert scalars["memory/gib"] == (10, 1.0)
    assert scalars["speed/mfu"] == (10, pytest.approx(0.3))
    assert any(tag.startswith("sample/1") for tag in scalars)


def test_without_the_library_the_error_names_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(TrainingError, match=r"pip install 'pharos-llm\[train\]'"):
        TensorBoardLog(tmp_path)
