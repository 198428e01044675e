"""Servers of a model, each in a process of its own, asked for tokens after tokens."""

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from benchmarks.hardware import usable_cores

from pharos.serve.bench import BenchClient, Prompt

START_S = 600.0
"""Much, for a machine that has other things to do."""


class IdsClient(BenchClient):
    """Prompts are ids, so that no tokenizer has a say in how long they are."""

    def _body(self, prompt: Prompt) -> dict[str, Any]:
        return super()._body(prompt) | {"prompt": [int(word) for word in prompt.text.split()]}


def ids_prompt(ids: Sequence[int], max_tokens: int) -> Prompt:
    return Prompt(text=" ".join(map(str, ids)), max_tokens=max_tokens)


@contextmanager
def served(command: list[str]) -> Iterator[str]:
    """From when a server is healthy to its end: its address. It is told its port with `--port`."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    environment = os.environ | {"OMP_NUM_THREADS": str(usable_cores())}
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            [*command, "--port", str(port)], stdout=log, stderr=log, env=environment
        )
        try:
            _wait_for(f"http://127.0.0.1:{port}/health", process)
            yield f"http://127.0.0.1:{port}/v1"
        except Exception:
            log.seek(0)
            print(log.read()[-4000:].decode(errors="replace"), file=sys.stderr)
            raise
        finally:
            process.terminate()
            process.wait()


def write_tokenizer(folder: Path, vocab_size: int) -> None:
    """For a model that has none: a word for each id, so that each has a text."""
    words = {f"token{id_}": id_ for id_ in range(vocab_size)}
    tokenizer = {
        "version": "1.0",
        "added_tokens": [],
        "pre_tokenizer": {"type": "WhitespaceSplit"},
        "model": {"type": "WordLevel", "vocab": words, "unk_token": "token0"},
    }
    without = ("truncation", "padding", "normalizer", "post_processor", "decoder")
    content = json.dumps(tokenizer | dict.fromkeys(without))
    (folder / "tokenizer.json").write_text(content, encoding="utf-8")
    (folder / "tokenizer_config.json").write_text("{}", encoding="utf-8")


def _wait_for(url: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if httpx.get(url, trust_env=False).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.2)
    raise RuntimeError(f"{process.args!r} has not become healthy")
