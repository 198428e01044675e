"""What a hostile document makes a parser do. Imported by name in worker processes."""

import ctypes
import os
import signal
import sys
from pathlib import Path


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


def loop_after_noting(note: Path) -> None:
    note.write_text(str(os.getpid()))
    while True:
        pass
