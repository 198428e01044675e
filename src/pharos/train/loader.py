"""Batches from a stream of rows, made ahead by worker processes.

Step s trains on the rows s·R, …, (s+1)·R - 1, where R is `rows_per_step`, for any number of ranks,
any size of micro-batch and any number of workers; a resumed run needs to know nothing but its step.
The rows are dealt in micro-batches, one to each data rank in turn: so what all ranks hold at once
are neighbours, the micro-batch of a single rank that takes as many (contrastive losses compare
across it).

A micro-batch depends on its number alone, so it does not matter which worker makes it: torch's
`DataLoader` hands them out in turn and returns them in order. They travel as numpy arrays, through
a pipe: tensors go through shared memory, where to open one takes longer than to make a whole row.
"""

import multiprocessing
import os
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from threading import Thread
from types import FrameType
from typing import Any, Protocol, Self

import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset, Sampler

from pharos.core.errors import PharosError, TrainingError
from pharos.data.rows import Row, Stream, row_generator
from pharos.train.objective import Batch, Objective


class Batches(Protocol):
    """What the loop reads: for each optimizer step its micro-batches, without end, until it is
    closed."""

    waited_s: float

    def __iter__(self) -> Iterator[Sequence[Batch]]: ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *exception: object) -> None: ...


class Loader:
    """For each optimizer step from `start_step` on, the micro-batches of data rank `rank` of
    `world`. Ends only when it is closed; to be gone through once.

    `waited_s` is how long the caller has waited for it so far, in seconds. In page-locked memory
    where there is a CUDA device, so that `to(device, non_blocking=True)` runs beside the model.
    """

    def __init__(
        self,
        stream: Stream,
        objective: Objective,
        *,
        rows_per_step: int,
        micro_batch_size: int,
        rank: int = 0,
        world: int = 1,
        start_step: int = 0,
        workers: int = 0,
        seed: int = 0,
    ) -> None:
        _check(rows_per_step, micro_batch_size, rank, world, workers)
        self.waited_s = 0.0
        self._per_step = rows_per_step // (world * micro_batch_size)
        batches = _MicroBatches(
            stream=stream,
            objective=objective,
            seed=seed,
            rank=rank,
            world=world,
            size=micro_batch_size,
        )
        self._batches: Iterator[_Arrays | Batch | _Failure] | None = iter(
            DataLoader(
                batches,
                batch_size=None,
                collate_fn=_as_it_is,
                sampler=_From(start_step * self._per_step),
                num_workers=workers,
                # A whole step is ready when the loop asks for one.
                prefetch_factor=max(2, -(-self._per_step // workers)) if workers else None,
                worker_init_fn=_begin_worker if workers else None,
                pin_memory=torch.cuda.is_available(),
                # Without one of its own, it would draw from the generator of dropout.
                generator=torch.Generator(),
            )
        )

    def __iter__(self) -> Iterator[Sequence[Batch]]:
        while self._batches is not None:
            yield [self._next() for _ in range(self._per_step)]

    def close(self) -> None:
        """End the worker processes. Closing twice is fine."""
        self._batches = None  # its finaliser ends and joins them

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _next(self) -> Batch:
        if self._batches is None:
            raise ValueError("the loader was closed in the middle of a step; make a new one")
        begin = time.perf_counter()
        batch = next(self._batches)
        self.waited_s += time.perf_counter() - begin
        if isinstance(batch, _Failure):
            raise batch.error
        return batch.tensors() if isinstance(batch, _Arrays) else batch


@dataclass(frozen=True, slots=True)
class _Arrays:
    """A batch on its way from the worker."""

    arrays: Mapping[str, NDArray[Any]]

    @classmethod
    def of(cls, batch: Batch) -> "_Arrays":
        return cls({name: tensor.numpy() for name, tensor in batch.items()})

    def tensors(self) -> Batch:
        return {name: torch.from_numpy(array) for name, array in self.arrays.items()}

    def pin_memory(self) -> Batch:
        """Called by the thread of `DataLoader` that pins what comes."""
        return {name: tensor.pin_memory() for name, tensor in self.tensors().items()}


@dataclass(frozen=True, slots=True)
class _Failure:
    """What a row was refused for, on its way from the worker. (torch would wrap it in the text of
    a traceback.)"""

    error: PharosError


@dataclass(frozen=True, kw_only=True, eq=False)
class _MicroBatches(Dataset["_Arrays | _Failure"]):
    """The micro-batches of one rank, by number: each `size` rows out of `world` times as many."""

    stream: Stream
    objective: Objective
    seed: int
    rank: int
    world: int
    size: int

    def __getitem__(self, number: int) -> "_Arrays | _Failure":
        first = (number * self.world + self.rank) * self.size
        try:
            rows = range(first, first + self.size)
            return _Arrays.of(self.objective.collate([self._example(row) for row in rows]))
        except PharosError as error:
            return _Failure(error)

    def _example(self, number: int) -> Row:
        generator = row_generator("example", self.seed, number)
        return self.objective.example(self.stream[number], generator)


class _From(Sampler[int]):
    """The numbers from `start` on."""

    def __init__(self, start: int) -> None:
        self.start = start

    def __iter__(self) -> Iterator[int]:
        number = self.start
        while True:
            yield number
            number += 1


def _as_it_is(batch: object) -> object:
    return batch


def _begin_worker(worker: int) -> None:
    """Ctrl-C reaches every process of the terminal, and SIGTERM (from `timeout`, Slurm, torchrun)
    every process of a job: the main one decides what it means, and ends its step with what its
    workers make. A second SIGTERM ends them, as it does the run."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _ignore_once)
    Thread(target=_end_with_parent, daemon=True).start()


def _ignore_once(number: int, frame: FrameType | None) -> None:
    signal.signal(number, signal.SIG_DFL)


def _end_with_parent() -> None:
    """At once when the main process was killed: torch would wait for ever until the batches that
    lie ready are read."""
    parent = multiprocessing.parent_process()
    assert parent is not None, "this is a worker"
    parent.join()
    os._exit(1)


def _check(rows_per_step: int, micro_batch_size: int, rank: int, world: int, workers: int) -> None:
    if not 0 <= rank < world:
        raise ValueError(f"rank is {rank}; it must be from 0 to {world - 1}")
    if workers < 0:
        raise ValueError(f"workers is {workers}; it must be 0 (none) or more")
    multiple = micro_batch_size * world
    if micro_batch_size < 1 or rows_per_step < 1 or rows_per_step % multiple:
        raise TrainingError(
            f"{rows_per_step} rows a step cannot be dealt to {world} data ranks in micro-batches "
            f"of {micro_batch_size}; make the first a multiple of {multiple}"
        )
