"""Processes that have the other parts of a split model, and compute what the engine's own does.

    followers = Followers.start(partial(build_runner, "path/to/model"), size=2)   # we are rank 0
    runner = Runner(model, kv, followers=followers)
    followers.stop()

The engine runs in rank 0 alone: what it decides hangs on clocks and threads (how long a grammar
compiles, whether drafts pay), and two engines would drift apart. The others are told each batch as
plain numbers, a few kilobytes beside the sums of a forward pass. They sample nothing.

A pass that fails on one rank leaves the others in the midst of a sum, so there is no going on: the
next pass is refused, and whoever runs the engine starts it anew. A sum over NCCL does not notice
that a rank is gone, so each process listens for the end of the others in a thread of its own:
`on_loss` tells of a follower's, and followers end when rank 0 does.
"""

import contextlib
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from datetime import timedelta
from multiprocessing.connection import Connection, Pipe, wait
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.distributed as dist
from torch.distributed import TCPStore  # type: ignore[attr-defined]

from pharos.serve.engine.batch import Batch
from pharos.serve.engine.tensor_parallel import Share

if TYPE_CHECKING:
    from pharos.serve.engine.runner import Runner

BuildRunner = Callable[[Share], "Runner"]

MODULE = "pharos.serve.engine.followers"
ADDRESS = "127.0.0.1"
LONGEST_IDLE = timedelta(days=365)
"""A follower waits for the next batch as long as nobody asks for anything."""
LAST_WORDS_S = 1.0
POLL_S = 0.05

log = logging.getLogger(__name__)


class _Orders(NamedTuple):
    """What a follower is told to begin with."""

    share: Share
    port: int
    build: BuildRunner


class Followers:
    """Ranks 1 to `size - 1`. This process is rank 0 from `start` until `stop`."""

    def __init__(self, processes: "list[subprocess.Popen[bytes]]", pipes: list[Connection]) -> None:
        self.has_failed = False
        """Whether a part of the model is lost: there is no going on."""
        self._processes = processes
        self._pipes = pipes
        self._loss: Future[str] = Future()
        self._listener = threading.Thread(target=self._listen, name="followers", daemon=True)
        self._listener.start()

    @classmethod
    def start(cls, build: BuildRunner, size: int) -> "Followers":
        """Each builds its runner with `build` (a function of a module, or a `functools.partial` of
        one) once all have found each other; `build` may already use `torch.distributed`."""
        store = TCPStore(ADDRESS, 0, size, is_master=True, wait_for_workers=False)
        started = [_start(_Orders(Share(rank, size), store.port, build)) for rank in range(1, size)]
        followers = cls([process for process, _ in started], [pipe for _, pipe in started])
        try:
            with followers.together():
                followers._wait_for_all(store)
                _join(Share(0, size), store)
        except Exception:
            followers.stop()
            raise
        return followers

    def on_loss(self, call: Callable[[str], None]) -> None:
        """Calls it with the reason, in another thread, when a follower ends that was not told to:
        also while this process waits for it in the midst of a pass."""
        self._loss.add_done_callback(lambda loss: None if loss.cancelled() else call(loss.result()))

    @contextmanager
    def together(self) -> Iterator[None]:
        """Within it, all ranks do the same. A follower that fails is named by a RuntimeError; what
        this process does wrong itself is raised as it is."""
        if self.has_failed:
            raise RuntimeError("a part of the model has failed before; start the engine anew")
        try:
            yield
        except Exception as error:
            self.has_failed = True
            found = self._who_failed() if isinstance(error, RuntimeError) else None
            self._loss.cancel()  # they end because we say so
            self._kill()
            if found is not None:
                raise RuntimeError(found) from error
            raise

    @contextmanager
    def computing(self, batch: Batch) -> Iterator[None]:
        """Within it, the followers compute this batch."""
        with self.together():
            _broadcast(batch)
            yield

    def stop(self) -> None:
        """Ends the followers, whatever they are at, and this process's part in them. To tell them
        over the group would wait for one that hangs; they have nothing to put in order."""
        self._loss.cancel()
        self._kill()
        for process in self._processes:
            process.wait()
        self._listener.join()
        for pipe in self._pipes:
            pipe.close()
        if dist.is_initialized():
            dist.destroy_process_group()

    def _kill(self) -> None:
        for process in self._processes:
            process.kill()

    def _wait_for_all(self, store: TCPStore) -> None:
        """Until each has found the store: to join waits without end for one that never does."""
        keys = [_arrival(rank) for rank in range(1, len(self._processes) + 1)]
        while not store.check(keys):
            if any(process.poll() is not None for process in self._processes):
                raise RuntimeError("a part of the model has ended before it began")
            time.sleep(POLL_S)

    def _listen(self) -> None:
        """To the first that ends: they say why, or nothing."""
        pipe = self._pipes.index(wait(self._pipes)[0])  # type: ignore[arg-type]
        reason = _last_words(self._pipes[pipe])
        if self._loss.set_running_or_notify_cancel():
            self._loss.set_result(f"rank {pipe + 1} of the model has failed: {reason}")

    def _who_failed(self) -> str | None:
        try:
            return self._loss.result(LAST_WORDS_S)
        except TimeoutError:
            return None


def agree_on_least(value: int) -> int:
    """The least of the ranks' numbers."""
    values = torch.tensor(value)
    dist.all_reduce(values, dist.ReduceOp.MIN)
    return int(values)


def follow(runner: "Runner") -> None:
    """Compute what rank 0 computes, until it is gone."""
    while (batch := _next_batch()) is not None:
        runner.compute(batch)


def _next_batch() -> Batch | None:
    """None when rank 0 is gone: it tells nobody to end."""
    try:
        return _broadcast(None)
    except RuntimeError:
        log.info("rank 0 of the model is gone, and so is this one")
        return None


def main(descriptor: int) -> None:
    """A follower's process."""
    pipe = Connection(descriptor)
    share, port, build = pipe.recv()
    threading.Thread(target=_end_with, args=(pipe,), daemon=True).start()
    try:
        store = TCPStore(ADDRESS, port, share.size, is_master=False)
        store.set(_arrival(share.rank), "")
        _join(share, store)
        follow(build(share))
    except Exception as error:
        log.exception("rank %d of the model has failed", share.rank)
        _report(pipe, f"{type(error).__name__}: {error}")


def _end_with(pipe: Connection) -> None:
    """Ends this process with rank 0, whatever it is at: it may wait for it in a sum."""
    with contextlib.suppress(EOFError, OSError):
        pipe.recv()
    os._exit(1)


def _report(pipe: Connection, reason: str) -> None:
    try:
        pipe.send(reason)
    except OSError:
        log.info("nobody is there to be told")


def _broadcast(batch: Batch | None) -> Batch | None:
    """What rank 0 has."""
    told: list[Batch | None] = [batch]
    dist.broadcast_object_list(told, src=0, device=torch.device("cpu"))
    return told[0]


def _join(share: Share, store: TCPStore) -> None:
    """The ranks share the cores of one machine."""
    torch.set_num_threads(max(torch.get_num_threads() // share.size, 1))
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(
        backend, store=store, rank=share.rank, world_size=share.size, timeout=LONGEST_IDLE
    )


def _arrival(rank: int) -> str:
    """What a follower puts into the store when it has found it."""
    return f"rank {rank} is there"


def _start(orders: _Orders) -> "tuple[subprocess.Popen[bytes], Connection]":
    ours, theirs = Pipe()
    path = os.pathsep.join(folder or str(Path.cwd()) for folder in sys.path)
    process = subprocess.Popen(
        [sys.executable, "-m", MODULE, str(theirs.fileno())],
        stdin=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": path},
        pass_fds=[theirs.fileno()],
        start_new_session=True,  # Ctrl-C is for rank 0
    )
    theirs.close()
    ours.send(orders)
    return process, ours


def _last_words(pipe: Connection) -> str:
    """Why a follower has ended."""
    try:
        return str(pipe.recv())
    except (EOFError, OSError):
        return "it ended without a word"


if __name__ == "__main__":
    main(int(sys.argv[1]))
