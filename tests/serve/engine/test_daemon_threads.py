"""What is asked of threads is done, or given up; nobody waits for the end of what takes long."""

import threading
from collections.abc import Callable, Iterator

import pytest

from pharos.serve.engine.daemon_threads import DaemonThreads

PATIENCE_S = 120.0


class Task:
    """Has begun, and ends when it may."""

    def __init__(self) -> None:
        self.has_begun, self.may_end = threading.Event(), threading.Event()
        self.thread: threading.Thread | None = None

    def __call__(self) -> str:
        self.thread = threading.current_thread()
        self.has_begun.set()
        self.may_end.wait()
        return "done"


@pytest.fixture
def begin() -> Iterator[Callable[[], Task]]:
    tasks: list[Task] = []

    def new() -> Task:
        tasks.append(Task())
        return tasks[-1]

    yield new
    for task in tasks:
        task.may_end.set()


def test_results_and_errors_are_for_who_asked() -> None:
    threads = DaemonThreads(2, name="counting")
    results = [threads.submit(lambda number=number: 1 // number) for number in (1, 0)]
    assert results[0].result(PATIENCE_S) == 1
    with pytest.raises(ZeroDivisionError):
        results[1].result(PATIENCE_S)
    assert threads.submit(lambda: "next").result(PATIENCE_S) == "next"
    threads.close()


def test_there_are_as_many_as_there_may_be_and_the_others_wait(begin: Callable[[], Task]) -> None:
    threads = DaemonThreads(2, name="few")
    tasks = [begin() for _ in range(3)]
    results = [threads.submit(task) for task in tasks]
    for task in tasks[:2]:
        assert task.has_begun.wait(PATIENCE_S)
    assert not tasks[2].has_begun.is_set()
    tasks[0].may_end.set()
    assert tasks[2].has_begun.wait(PATIENCE_S)
    assert results[0].result(PATIENCE_S) == "done"
    threads.close()


def test_what_is_cancelled_before_it_begins_is_not_begun(begin: Callable[[], Task]) -> None:
    threads = DaemonThreads(1, name="one")
    first, second = begin(), begin()
    threads.submit(first)
    given_up = threads.submit(second)
    assert given_up.cancel()
    last = threads.submit(lambda: "last")
    first.may_end.set()
    assert last.result(PATIENCE_S) == "last"
    assert not second.has_begun.is_set()
    threads.close()


def test_closing_ends_the_idle_gives_up_what_waits_and_leaves_the_busy(
    begin: Callable[[], Task],
) -> None:
    before = set(threading.enumerate())
    threads = DaemonThreads(1, name="closing")
    busy, waiting = begin(), begin()
    result, given_up = threads.submit(busy), threads.submit(waiting)
    assert busy.has_begun.wait(PATIENCE_S)
    threads.close()
    assert given_up.cancelled() and not result.done()
    assert busy.thread is not None and busy.thread.daemon
    assert set(threading.enumerate()) - before == {busy.thread}
    busy.may_end.set()
    assert result.result(PATIENCE_S) == "done"
    busy.thread.join(PATIENCE_S)
    assert set(threading.enumerate()) <= before


def test_those_that_have_nothing_to_do_are_gone_when_it_is_closed() -> None:
    before = set(threading.enumerate())
    threads = DaemonThreads(3, name="idle")
    for result in [threads.submit(lambda: None) for _ in range(9)]:
        result.result(PATIENCE_S)
    threads.close()
    assert set(threading.enumerate()) <= before
