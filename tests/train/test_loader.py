import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from pharos.core.errors import TrainingError
from pharos.data.mixing import Milestone, Mixture, Schedule
from pharos.data.order import Shuffled
from pharos.data.packing import BestFitRows, ConcatRows
from pharos.data.rows import Row, Stream
from pharos.data.token_source import TokenArrays
from pharos.train.loader import Loader
from pharos.train.objective import Batch


class Noted:
    """An objective that keeps each row, with a random number of its own."""

    weights: Mapping[str, float] = {"none": 1.0}

    def example(self, row: Row, generator: np.random.Generator) -> Row:
        return {**row, "random": generator.integers(2**40, size=1)}

    def collate(self, examples: Sequence[Row]) -> Batch:
        return {
            key: torch.from_numpy(np.stack([example[key] for example in examples]))
            for key in examples[0]
        }

    def count(self, batch: Batch) -> Mapping[str, int]:
        return {"none": len(batch["random"])}

    def losses(self, model: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
        return {"none": batch["random"].float().sum()}


class Counting:
    """A stream whose rows are their numbers; one of them cannot be read."""

    def __init__(self, broken: int | None = None) -> None:
        self.broken = broken

    def __getitem__(self, number: int) -> Row:
        if number == self.broken:
            raise TrainingError(f"row {number} is broken")
        return {"number": np.array([number])}


def mixture() -> Stream:
    generator = np.random.default_rng(0)
    documents = [generator.integers(0, 999, size=int(n)) for n in generator.integers(1, 40, 60)]
    source = TokenArrays.of_documents(documents)
    schedule = Schedule(
        [Milestone(at=0, weights={"a": 1}), Milestone(at=20, weights={"a": 1, "b": 1})], "linear"
    )
    rows = {
        "a": ConcatRows(source, 16, seed=1),
        "b": ConcatRows(TokenArrays.of_documents(documents[::-1]), 16, seed=1),
    }
    return Mixture(rows, schedule, seed=1)


def steps(loader: Loader, number: int) -> list[list[dict[str, Tensor]]]:
    with loader:
        return [[dict(batch) for batch in batches] for batches in islice(loader, number)]


def equal(a: object, b: object) -> bool:
    if isinstance(a, Tensor):
        return isinstance(b, Tensor) and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(equal(a[k], b[k]) for k in a)
    assert isinstance(a, list) and isinstance(b, list)
    return len(a) == len(b) and all(map(equal, a, b))


@pytest.mark.filterwarnings("ignore:This DataLoader will create 4 worker processes")
@pytest.mark.parametrize("workers", [1, 2, 4])
def test_workers_change_neither_order_nor_content(workers: int) -> None:
    def run(workers: int) -> list[list[dict[str, Tensor]]]:
        return steps(
            Loader(
                mixture(), Noted(), rows_per_step=6, micro_batch_size=2, workers=workers, seed=7
            ),
            9,
        )

    assert equal(run(workers), run(0))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_resumed_at_a_step_reads_on_exactly(workers: int) -> None:
    def run(start: int, number: int) -> list[list[dict[str, Tensor]]]:
        loader = Loader(
            mixture(),
            Noted(),
            rows_per_step=4,
            micro_batch_size=2,
            start_step=start,
            workers=workers,
        )
        return steps(loader, number)

    assert equal(run(0, 12)[7:], run(7, 5))


@given(st.integers(1, 4), st.integers(1, 3), st.integers(1, 3), st.integers(0, 5))
def test_however_they_are_dealt_a_step_has_its_rows(
    world: int, micro: int, per_step: int, start: int
) -> None:
    size = world * micro * per_step
    dealt: list[list[list[int]]] = []
    for rank in range(world):
        loader = Loader(
            Counting(),
            Noted(),
            rows_per_step=size,
            micro_batch_size=micro,
            rank=rank,
            world=world,
            start_step=start,
        )
        (batches,) = steps(loader, 1)
        dealt.append([batch["number"].flatten().tolist() for batch in batches])
    at_once = [row for batches in zip(*dealt, strict=True) for batch in batches for row in batch]
    assert at_once == list(range(start * size, (start + 1) * size))


def test_what_is_random_about_a_row_depends_on_its_number_and_the_seed() -> None:
    def drawn(seed: int, micro: int) -> list[int]:
        loader = Loader(Counting(), Noted(), rows_per_step=6, micro_batch_size=micro, seed=seed)
        return [int(n) for batch in steps(loader, 1)[0] for n in batch["random"]]

    assert drawn(0, 6) == drawn(0, 2) != drawn(1, 6)
    assert len(set(drawn(0, 6))) == 6


@pytest.mark.parametrize("workers", [0, 1])
def test_loading_leaves_the_random_numbers_of_training_alone(workers: int) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    steps(Loader(Counting(), Noted(), rows_per_step=2, micro_batch_size=1, workers=workers), 2)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_broken_row_is_told_as_it_was_raised(workers: int) -> None:
    loader = Loader(
        Counting(broken=5), Noted(), rows_per_step=2, micro_batch_size=2, workers=workers
    )
    with pytest.raises(TrainingError) as error, loader:
        list(islice(loader, 4))
    assert str(error.value) == "row 5 is broken"


def test_waiting_is_measured() -> None:
    loader = Loader(Counting(), Noted(), rows_per_step=2, micro_batch_size=2)
    assert loader.waited_s == 0
    steps(loader, 3)
    assert loader.waited_s > 0


def children() -> set[int]:
    path = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children")
    return set(map(int, path.read_text().split()))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_closing_ends_the_workers_in_the_middle_of_a_step() -> None:
    before = children()
    loader = Loader(Counting(), Noted(), rows_per_step=8, micro_batch_size=1, workers=2)
    running = iter(loader)
    next(running)
    assert len(children() - before) >= 2
    loader.close()
    loader.close()
    assert children() <= before
    assert list(running) == []


INTERRUPTED = """
import os, signal, sys
from pharos.train.interruption import Interruption
from pharos.train.loader import Loader
from tests.train.test_loader import Counting, Noted
loader = Loader(Counting(), Noted(), rows_per_step=4, micro_batch_size=1, workers=2)
with Interruption() as interruption:
    for step, batches in enumerate(loader):
        if step == 3:
            os.killpg(0, int(sys.argv[1]))
        if step == 30:
            loader.close()
            print("closed" if interruption.is_asked else "not asked")
"""
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_all_reaches_the_loop_and_workers_go_on(sent: signal.Signals) -> None:
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED, str(int(sent))],
        capture_output=True,
        check=False,
        text=True,
        start_new_session=True,
        timeout=600,
        env=ENVIRONMENT,
    )
    assert (done.stdout, done.stderr, done.returncode) == ("closed\n", "", 0)


KILLED = """
import os, signal
from pathlib import Path
import numpy as np
from pharos.train.loader import Loader
from tests.train.test_loader import Noted, children

class Large:
    def __getitem__(self, number):
        return {"numbers": np.zeros(100_000)}

loader = Loader(Large(), Noted(), rows_per_step=2, micro_batch_size=1, workers=2)
next(iter(loader))
print(*children(), flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_workers_end_with_a_main_process_that_is_killed() -> None:
    """They hold its standard output, which is at its end when they are."""
    done = subprocess.run(
        [sys.executable, "-c", KILLED],
        capture_output=True,
        check=False,
        text=True,
        timeout=600,
        env=ENVIRONMENT,
    )
    assert len(done.stdout.split()) >= 2
    assert (done.stderr, done.returncode) == ("", -signal.SIGKILL)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("workers", [0, 2])
def test_where_there_is_a_gpu_batches_are_in_page_locked_memory(workers: int) -> None:
    loader = Loader(Counting(), Noted(), rows_per_step=4, micro_batch_size=2, workers=workers)
    (batches,) = steps(loader, 1)
    assert all(tensor.is_pinned() for batch in batches for tensor in batch.values())


def test_rows_that_cannot_be_dealt_evenly_are_refused() -> None:
    with pytest.raises(TrainingError, match="6 rows a step cannot be dealt to 2 data ranks in"):
        Loader(Counting(), Noted(), rows_per_step=6, micro_batch_size=2, world=2)
    with pytest.raises(ValueError, match="rank is 2; it must be from 0 to 1"):
        Loader(Counting(), Noted(), rows_per_step=4, micro_batch_size=2, rank=2, world=2)
    with pytest.raises(ValueError, match="workers is -1"):
        Loader(Counting(), Noted(), rows_per_step=2, micro_batch_size=2, workers=-1)


def test_an_epoch_through_the_loader_has_every_token_once() -> None:
    generator = np.random.default_rng(1)
    lengths = generator.integers(1, 30, size=40)
    ends = np.cumsum([0, *lengths])
    source = TokenArrays.of_documents(np.arange(ends[i], ends[i + 1]) for i in range(40))
    rows = BestFitRows(source, 16)
    loader = Loader(
        Shuffled(rows, 3), Noted(), rows_per_step=len(rows), micro_batch_size=len(rows), workers=2
    )
    for (batch,) in steps(loader, 2):
        tokens = batch["ids"][batch["document"] >= 0]
        assert sorted(tokens.tolist()) == list(range(sum(lengths)))
