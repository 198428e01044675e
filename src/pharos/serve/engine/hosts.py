"""Where the engine's loop runs: in a thread, or in a process of its own.

A thread shares the interpreter with whoever asks. A process does not, it may be killed without
killing anybody else, and it takes the memory of its model with it.
"""

import os
import subprocess
import sys
import threading
from multiprocessing.connection import Connection, Pipe
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Protocol

from pharos.serve.engine.worker import BuildEngine, run

BOOT = "from pharos.serve.engine.worker import main; main({descriptor})"
LAST_WORDS_S = 10.0


class Host(Protocol):
    """Runs the loop, again and again if need be, but never twice at a time."""

    def start(self) -> Connection:
        """Begins a loop; the client's end of its pipe. It ends when that is closed."""
        ...

    def wait(self) -> str:
        """Waits for the end of a loop that has closed its end of the pipe; how it ended."""
        ...

    def kill(self) -> None:
        """Ends the loop in the midst of a step, if that can be done."""
        ...


class InThread:
    """For tests, and where the memory of a second process is dear."""

    def __init__(self, build: BuildEngine) -> None:
        self._build = build
        self._thread: threading.Thread | None = None

    def start(self) -> Connection:
        ours, theirs = Pipe()
        arguments = (self._build, theirs)
        self._thread = threading.Thread(target=run, args=arguments, name="engine", daemon=True)
        self._thread.start()
        return ours

    def wait(self) -> str:
        assert self._thread is not None
        self._thread.join()
        return "its thread has ended"

    def kill(self) -> None:
        """A thread cannot be killed: it ends after its step."""


class InProcess:
    """`build` is pickled: a function of a module, or a `functools.partial` of one. The process is a
    fresh Python, not a fork: where torch has threads, a fork may hang."""

    def __init__(self, build: BuildEngine) -> None:
        self._build = build
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """Of the process that was started last."""
        return None if self._process is None else self._process.pid

    def start(self) -> Connection:
        build = ForkingPickler.dumps(self._build)  # what cannot be pickled starts no process
        ours, theirs = Pipe()
        path = os.pathsep.join(folder or str(Path.cwd()) for folder in sys.path)
        self._process = subprocess.Popen(
            [sys.executable, "-c", BOOT.format(descriptor=theirs.fileno())],
            stdin=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": path},
            pass_fds=[theirs.fileno()],
            start_new_session=True,  # Ctrl-C is for the parent, which lets requests end first
        )
        theirs.close()
        ours.send_bytes(build)
        return ours

    def wait(self) -> str:
        assert self._process is not None
        try:
            code = self._process.wait(LAST_WORDS_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        return f"its process was killed by signal {-code}" if code < 0 else f"it exited with {code}"

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
