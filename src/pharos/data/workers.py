"""A function over many items in worker processes, each call with a time and a memory limit.

What a hostile document does to a parser (loops, fills the memory, crashes it) happens to a worker:
the worker is killed and replaced, its item gets a reason, and no other item notices, since a worker
has one item at a time.

A worker is a fresh Python that speaks pickles over two pipes (`serve`), not a child of
`multiprocessing`: that would run the caller's own main script again in every worker, and a fork of
a process in which torch has threads may hang. A worker dies with its parent, whatever ends it.

An item is blamed for a crash only if it crashes a worker that has done nothing else: an item before
it may have damaged the worker, or left it with little memory.
"""

import contextlib
import ctypes
import os
import pickle
import resource
import select
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Generic, TypeVar

Item = TypeVar("Item")
Value = TypeVar("Value")

Reply = tuple[Any, str | None, bool]
"""Value, error, and whether the worker is spent: damaged or dead, and possibly not by this item."""

BOOT = "from pharos.data.workers import serve; serve()"
HEADER_LEN = 8
CHUNK_BYTES = 1 << 20
LOOKAHEAD_PER_WORKER = 4
START_SECONDS = 120.0
# The workers are the parallelism.
ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "RAYON_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
}
PR_SET_PDEATHSIG = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkerLimits:
    """What one item may take. `memory_mb` bounds, on Linux, the address space that a worker adds to
    what its imports reserve (which is more than they use: with rensa over 1 GB)."""

    seconds: float = 60.0
    memory_mb: int = 2048

    def __post_init__(self) -> None:
        if self.seconds <= 0:
            raise ValueError(f"seconds is {self.seconds}; a worker needs some time")
        if self.memory_mb < 64:
            raise ValueError(f"memory_mb is {self.memory_mb}; a worker needs at least 64")


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome(Generic[Item, Value]):
    """Either a value, or the reason in plain words why there is none."""

    item: Item
    value: Value | None
    error: str | None
    seconds: float


def run_isolated(
    function: Callable[[Item], Value],
    items: Iterable[Item],
    *,
    workers: int,
    limits: WorkerLimits | None = None,
) -> Iterator[Outcome[Item, Value]]:
    """The outcome of `function` for each item, in the order of the items, made as it is asked for.

    Function, items and values are pickled; the function's module is imported in every worker. Few
    items are taken ahead of the one that is waited for. Closing the iterator kills the workers.
    Raises RuntimeError if a worker cannot start, for example because `function` is defined in the
    script itself, which workers do not run.
    """
    if workers < 1:
        raise ValueError(f"workers is {workers}; at least 1 is needed")
    crew = _Crew(function, limits or WorkerLimits())
    waiting: deque[Future[Outcome[Item, Value]]] = deque()
    with ThreadPoolExecutor(workers, "pharos-worker") as threads:
        try:
            for item in items:
                waiting.append(threads.submit(crew.run, item))
                if len(waiting) >= workers * LOOKAHEAD_PER_WORKER:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
            crew.dismiss()


class _Crew:
    """One worker per thread that calls `run`, replaced when it dies."""

    def __init__(self, function: Callable[[Any], Any], limits: WorkerLimits) -> None:
        self._function = function
        self._limits = limits
        self._workers: dict[int, _Worker] = {}
        self._lock = threading.Lock()
        self._is_dismissed = False

    def run(self, item: Any) -> Outcome[Any, Any]:
        worker = self._worker()
        started = time.monotonic()
        value, error, is_spent = worker.call(item)
        if is_spent and worker.num_calls > 1 and not self._is_dismissed:
            worker = self._worker()
            started = time.monotonic()
            value, error, _ = worker.call(item)
        return Outcome(item=item, value=value, error=error, seconds=time.monotonic() - started)

    def dismiss(self) -> None:
        with self._lock:
            self._is_dismissed = True
            for worker in self._workers.values():
                worker.kill()

    def _worker(self) -> "_Worker":
        thread = threading.get_ident()
        worker = self._workers.get(thread)
        if worker is None or not worker.is_alive:
            with self._lock:
                worker = self._workers[thread] = _Worker(self._function, self._limits)
                if self._is_dismissed:
                    worker.kill()
            worker.wait_until_ready()
        return worker


class _Worker:
    """One worker process, seen from its parent."""

    def __init__(self, function: Callable[[Any], Any], limits: WorkerLimits) -> None:
        self.is_alive = True
        self.num_calls = 0
        self._limits = limits
        self._process = subprocess.Popen(
            [sys.executable, "-c", BOOT],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # what parsers print there is not for the user
            env={**os.environ, **ONE_THREAD, "PYTHONPATH": _python_path()},
            start_new_session=True,  # Ctrl-C is for the parent, which kills its workers
        )
        assert self._process.stdin and self._process.stdout
        self._requests: IO[bytes] = self._process.stdin
        self._replies: IO[bytes] = self._process.stdout
        with contextlib.suppress(BrokenPipeError):  # wait_until_ready will tell
            _send(self._requests, pickle.dumps((function, limits)))

    def wait_until_ready(self) -> None:
        """Return when function and imports are loaded, which is not in any item's time."""
        try:
            error = pickle.loads(self._read_reply(time.monotonic() + START_SECONDS))
        except TimeoutError:
            error = f"it took longer than {START_SECONDS:g} s"
        except EOFError:
            self.kill()
            error = f"it ended with {self._exit()}"
        if error:
            self.kill()
            raise RuntimeError(f"a worker process could not start: {error}")

    def call(self, item: Any) -> Reply:
        deadline = time.monotonic() + self._limits.seconds
        self.num_calls += 1
        try:
            _send(self._requests, pickle.dumps(item))
            reply: Reply = pickle.loads(self._read_reply(deadline))
        except TimeoutError:
            self.kill()
            return None, f"took longer than {self._limits.seconds:g} s", False
        except (BrokenPipeError, EOFError):
            self.kill()
            return None, self._cause_of_death(), True
        if reply[2]:
            self.kill()
        return reply

    def kill(self) -> None:
        self.is_alive = False
        self._process.kill()
        self._process.wait()

    def _read_reply(self, deadline: float) -> bytes:
        length = int.from_bytes(self._read(HEADER_LEN, deadline), "big")
        return self._read(length, deadline)

    def _read(self, length: int, deadline: float) -> bytes:
        pieces = []
        pipe = self._replies.fileno()
        ready = select.poll()
        ready.register(pipe, select.POLLIN)
        while length:
            left = deadline - time.monotonic()
            if left <= 0 or not ready.poll(left * 1000):
                raise TimeoutError
            piece = os.read(pipe, min(length, CHUNK_BYTES))
            if not piece:
                raise EOFError
            pieces.append(piece)
            length -= len(piece)
        return b"".join(pieces)

    def _cause_of_death(self) -> str:
        return (
            f"the parser crashed ({self._exit()}); a file that needs more than "
            f"{self._limits.memory_mb} MB of memory can do that"
        )

    def _exit(self) -> str:
        code = self._process.returncode
        return signal.Signals(-code).name if code < 0 else f"exit code {code}"


def _python_path() -> str:
    return os.pathsep.join(path or str(Path.cwd()) for path in sys.path)


def _send(pipe: IO[bytes], data: bytes) -> None:
    pipe.write(len(data).to_bytes(HEADER_LEN, "big") + data)
    pipe.flush()


# The other side: what runs in the worker.


def serve() -> None:
    """Say whether the start failed, then answer the requests on standard input until it ends."""
    _die_with_parent()
    requests = sys.stdin.buffer
    with os.fdopen(os.dup(sys.stdout.fileno()), "wb") as replies:
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # a parser may print what it likes
        try:
            function, limits = _receive(requests)
            _limit_memory(limits.memory_mb)
        except Exception as error:  # whatever an import raises is the reason
            _send(replies, pickle.dumps(f"{type(error).__name__}: {error}"))
            return
        _send(replies, pickle.dumps(None))
        while True:
            try:
                item = _receive(requests)
            except EOFError:
                return
            _send(replies, _answer(function, item, limits))


def _answer(function: Callable[[Any], Any], item: Any, limits: WorkerLimits) -> bytes:
    try:
        return pickle.dumps((function(item), None, False))
    except MemoryError:
        reason, is_spent = f"needed more than {limits.memory_mb} MB of memory", True
    except RecursionError:
        reason, is_spent = "is nested too deeply", False
    except Exception as error:  # whatever a parser raises is the document's reason
        reason, is_spent = _reason(error), False
    return pickle.dumps((None, reason, is_spent))


def _reason(error: Exception) -> str:
    from pharos.core import DocumentError

    if isinstance(error, DocumentError):
        return str(error)
    if isinstance(error, OSError):
        return f"cannot be read: {error.strerror or error}"
    return f"{type(error).__name__}: {error}"


def _receive(pipe: IO[bytes]) -> Any:
    header = pipe.read(HEADER_LEN)
    if len(header) < HEADER_LEN:
        raise EOFError
    return pickle.loads(pipe.read(int.from_bytes(header, "big")))


def _limit_memory(megabytes: int) -> None:
    """Bound what is added to the address space from now on. Only Linux enforces such a limit."""
    if sys.platform != "linux":
        return
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    wanted = pages * resource.getpagesize() + (megabytes << 20)
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    limit = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _die_with_parent() -> None:
    """On Linux the kernel kills this process when the thread that started it ends; elsewhere it
    ends with the request it is at."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
