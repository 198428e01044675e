"""What a hostile document makes a parser do. Imported by name in worker processes."""

import ctypes
import mmap
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any


def double(number: int) -> int:
    return 2 * number


def process_id(_: object) -> int:
    return os.getpid()


def misbehave(how: str) -> str:
    match how:
        case "loop":
            while True:
                pass
        case "fill memory":
            return "x" * (1 << 34)
        case "exit":
            os._exit(3)
        case "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        case "null pointer":
            ctypes.string_at(0)
        case "raise":
            raise KeyError("missing part")
        case "recurse":
            return misbehave(how)
        case "unpicklable":
            return lambda: "x"  # type: ignore[return-value]
        case "print":
            print("noise")
            sys.stdout.flush()
            os.write(1, b"more noise")
        case "big":
            return "y" * 30_000_000
    return how


class _SlowToImport:
    """A function whose pickle takes a second to load."""

    def __call__(self, number: int) -> int:
        return number

    def __reduce__(self) -> tuple[Any, ...]:
        return _after_a_second, ()


def _after_a_second() -> _SlowToImport:
    began = time.monotonic()
    while time.monotonic() - began < 1:
        pass
    return _SlowToImport()


def slow_to_import() -> _SlowToImport:
    return _SlowToImport()


class _Reserving:
    """A function whose pickle reserves 1 GB of address space when it is loaded."""

    def __call__(self, number: int) -> int:
        return number

    def __reduce__(self) -> tuple[Any, ...]:
        return _reserve, ()


def _reserve() -> _Reserving:
    reserved.append(mmap.mmap(-1, 1 << 30))
    return _Reserving()


reserved: list[mmap.mmap] = []


def reserve_before() -> _Reserving:
    return _Reserving()


is_damaged = False


def crash_once_damaged(item: str) -> str:
    global is_damaged
    if is_damaged:
        os.kill(os.getpid(), signal.SIGSEGV)
    is_damaged = item == "damage"
    return item


def loop_after_noting(note: Path) -> None:
    note.write_text(str(os.getpid()))
    while True:
        pass
