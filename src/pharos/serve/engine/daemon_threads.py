"""Threads that nobody has to wait for.

    threads = DaemonThreads(4, name="grammar-compiler")
    compiled = threads.submit(partial(compile, grammar))
    threads.close()

A pool of `concurrent.futures` waits for its work to end when it is shut down, and again when Python
ends, however long that takes. What these are at when they are closed goes on without anybody, and
ends with the process at the latest.
"""

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, NamedTuple, TypeVar

T = TypeVar("T")


class _Task(NamedTuple):
    future: Future[Any]
    call: Callable[[], Any]

    def run(self) -> None:
        if not self.future.set_running_or_notify_cancel():
            return
        try:
            result = self.call()
        except BaseException as error:  # it is for who asks for the result
            self.future.set_exception(error)
        else:
            self.future.set_result(result)


class DaemonThreads:
    """At most `count` of them, each begun when there is something to do."""

    def __init__(self, count: int, *, name: str) -> None:
        self._count = count
        self._name = name
        self._threads: list[threading.Thread] = []
        self._at: dict[threading.Thread, Future[Any]] = {}
        self._tasks: deque[_Task] = deque()
        self._changed = threading.Condition()
        self._is_closed = False

    def submit(self, call: Callable[[], T]) -> Future[T]:
        """Its result is there when it is `done()`. One that is cancelled is not begun."""
        future: Future[T] = Future()
        with self._changed:
            assert not self._is_closed, f"{self._name} threads are closed"
            if len(self._threads) < self._count:
                self._begin()
            self._tasks.append(_Task(future, call))
            self._changed.notify()
        return future

    def close(self) -> None:
        """Nothing more is begun, and the threads that have nothing to do end."""
        with self._changed:
            self._is_closed = True
            for task in self._tasks:
                task.future.cancel()
            self._changed.notify_all()
            busy = {thread for thread, future in self._at.items() if not future.done()}
        for thread in self._threads:
            if thread not in busy:
                thread.join()

    def _begin(self) -> None:
        name = f"{self._name}-{len(self._threads)}"
        thread = threading.Thread(target=self._work, name=name, daemon=True)
        thread.start()
        self._threads.append(thread)

    def _work(self) -> None:
        while (task := self._next()) is not None:
            task.run()

    def _next(self) -> _Task | None:
        """What to do next, when there is something; None at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._tasks or self._is_closed)
            if self._is_closed:
                return None
            task = self._tasks.popleft()
            self._at[threading.current_thread()] = task.future
            return task
