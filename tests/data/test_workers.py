import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from pharos.data.workers import Outcome, WorkerLimits, run_isolated

HERE = Path(__file__).parent
LIMITS = WorkerLimits(seconds=20, memory_mb=512)


@pytest.fixture
def runaways(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(HERE))
    import runaways  # type: ignore[import-not-found]

    return runaways


def outcome(runaways: Any, how: str, limits: WorkerLimits = LIMITS) -> Outcome[str, str]:
    (only,) = run_isolated(runaways.misbehave, [how], workers=1, limits=limits)
    return only


def test_values_come_in_the_order_of_the_items(runaways: Any) -> None:
    outcomes = list(run_isolated(runaways.double, range(50), workers=2, limits=LIMITS))
    assert [o.value for o in outcomes] == [2 * i for i in range(50)]
    assert [o.item for o in outcomes] == list(range(50))


def test_a_loop_is_stopped_by_the_time_limit(runaways: Any) -> None:
    limits = WorkerLimits(seconds=1, memory_mb=512)
    assert outcome(runaways, "loop", limits).error == "took longer than 1 s"


def test_the_memory_limit_is_a_reason(runaways: Any) -> None:
    assert outcome(runaways, "fill memory").error == "needed more than 512 MB of memory"


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("exit", "the parser crashed (exit code 3)"),
        ("crash", "the parser crashed (SIGSEGV)"),
        ("null pointer", "the parser crashed (SIGSEGV)"),
        ("raise", "KeyError: 'missing part'"),
        ("recurse", "is nested too deeply"),
        ("unpicklable", "pickle"),
    ],
)
def test_whatever_goes_wrong_has_a_reason(runaways: Any, how: str, reason: str) -> None:
    error = outcome(runaways, how).error
    assert error is not None
    assert reason in error


@pytest.mark.parametrize("how", ["print", "big"])
def test_noise_and_size_do_not_disturb_the_reply(runaways: Any, how: str) -> None:
    value = outcome(runaways, how).value
    assert value == {"print": "print", "big": "y" * 30_000_000}[how]


def test_only_the_guilty_item_fails(runaways: Any) -> None:
    items = ["a", "crash", "b", "fill memory", "c", "exit", "d", "raise", "e"]
    outcomes = list(run_isolated(runaways.misbehave, items, workers=2, limits=LIMITS))
    assert [o.item for o in outcomes if o.error] == ["crash", "fill memory", "exit", "raise"]
    assert [o.value for o in outcomes if not o.error] == ["a", "b", "c", "d", "e"]


def test_items_are_not_taken_far_ahead(runaways: Any) -> None:
    taken = 0

    def items() -> Any:
        nonlocal taken
        for i in range(1000):
            taken += 1
            yield i

    outcomes = run_isolated(runaways.double, items(), workers=2, limits=LIMITS)
    next(outcomes)
    outcomes.close()  # type: ignore[attr-defined]
    assert taken < 20


def test_closing_the_iterator_kills_the_workers(runaways: Any, tmp_path: Path) -> None:
    items = [1, 2, 3, 4, 5, 6, 7, 8, 9]
    outcomes = run_isolated(runaways.process_id, items, workers=1, limits=LIMITS)
    process = psutil.Process(next(outcomes).value)
    outcomes.close()  # type: ignore[attr-defined]
    assert not process.is_running()


def test_workers_die_with_a_killed_parent(tmp_path: Path) -> None:
    note = tmp_path / "pid"
    program = (
        f"import sys; sys.path.insert(0, {str(HERE)!r}); import runaways;"
        "from pathlib import Path; from pharos.data.workers import run_isolated;"
        f"next(run_isolated(runaways.loop_after_noting, [Path({str(note)!r})], workers=1))"
    )
    parent = subprocess.Popen([sys.executable, "-c", program])
    while not note.exists() or not note.read_text():
        assert parent.poll() is None
    worker = psutil.Process(int(note.read_text()))
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    gone, _ = psutil.wait_procs([worker], timeout=120)
    assert gone or worker.status() == psutil.STATUS_ZOMBIE


def test_a_script_without_a_main_guard_is_not_run_again(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import math\nprint('started')\n"
        "from pharos.data.workers import run_isolated\n"
        "print([o.value for o in run_isolated(math.sqrt, [4, 9], workers=2)])\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True)
    assert done.stdout == "started\n[2.0, 3.0]\n"


def test_a_function_of_the_script_itself_is_refused_with_the_reason(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "from pharos.data.workers import run_isolated\n"
        "def mine(x): return x\n"
        "list(run_isolated(mine, [1], workers=2))\n"
    )
    done = subprocess.run([sys.executable, script], check=False, capture_output=True, text=True)
    assert done.returncode == 1
    assert "RuntimeError: a worker process could not start: AttributeError" in done.stderr


def test_the_time_that_imports_take_is_not_the_items(runaways: Any) -> None:
    limits = WorkerLimits(seconds=0.5, memory_mb=512)
    (only,) = run_isolated(runaways.slow_to_import(), [1], workers=1, limits=limits)
    assert only.value == 1


def test_an_item_that_a_damaged_worker_failed_at_is_tried_on_a_fresh_one(runaways: Any) -> None:
    items = ["damage", "innocent", "innocent"]
    outcomes = list(run_isolated(runaways.crash_once_damaged, items, workers=1, limits=LIMITS))
    assert [o.error for o in outcomes] == [None, None, None]


def test_the_memory_limit_does_not_count_what_imports_reserve(runaways: Any) -> None:
    limits = WorkerLimits(memory_mb=128)
    (only,) = run_isolated(runaways.reserve_before(), [1], workers=1, limits=limits)
    assert only.value == 1


def test_limits_that_leave_no_room_are_refused() -> None:
    with pytest.raises(ValueError, match="seconds is 0"):
        WorkerLimits(seconds=0)
    with pytest.raises(ValueError, match="memory_mb is 10"):
        WorkerLimits(memory_mb=10)
    with pytest.raises(ValueError, match="workers is 0"):
        next(run_isolated(str, [1], workers=0))
