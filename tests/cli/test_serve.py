"""The command as it is run: a server process with the engine in another."""

import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import psutil
import pytest

LONG = {"model": "tiny", "prompt": "The keeper", "max_tokens": 1500}
FOREVER = {"ignore_eos": True}


@pytest.fixture(scope="module")
def served(llama_folder: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A server's process and its address."""
    code = "from pharos.cli import main; main()"
    options = ["--port", "0", "--name", "tiny", "--max-model-len", "2048", "--num-blocks", "256"]
    process = subprocess.Popen(
        [sys.executable, "-c", code, "serve", str(llama_folder), *options],
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    seen = []
    for line in process.stderr:
        seen.append(line)
        if found := re.search(r"tiny is served at (\S+)/v1", line):
            yield process, found[1]
            break
    else:
        pytest.fail("".join(seen))
    process.kill()
    process.wait()
    process.stderr.close()


def client_of(url: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=120)


def test_an_engine_that_is_killed_is_told_of_at_once_and_started_again(
    served: tuple[subprocess.Popen[str], str],
) -> None:
    process, url = served
    client = client_of(url)
    (engine,) = psutil.Process(process.pid).children()
    with client.completions.create(**LONG, extra_body=FOREVER, stream=True) as stream:
        chunks = iter(stream)
        next(chunks)
        engine.kill()
        with pytest.raises(openai.APIError, match="engine"):
            list(chunks)
    dead = httpx.get(f"{url}/health")
    assert dead.status_code == 503
    assert dead.json()["error"]["code"] == "engine_dead"
    with pytest.raises(openai.InternalServerError) as refused:
        client.completions.create(**LONG)
    assert refused.value.status_code == 503
    while httpx.get(f"{url}/health").status_code != 200:
        assert process.poll() is None
    reply = client.completions.create(**LONG | {"max_tokens": 3})
    assert reply.choices[0].finish_reason is not None


def test_a_signal_ends_it_when_what_runs_has_ended(
    served: tuple[subprocess.Popen[str], str],
) -> None:
    process, url = served
    engines = psutil.Process(process.pid).children()
    more = LONG | {"max_tokens": 300}
    chunks = iter(client_of(url).completions.create(**more, extra_body=FOREVER, stream=True))
    next(chunks)
    process.send_signal(signal.SIGTERM)
    reasons = [chunk.choices[0].finish_reason for chunk in chunks]
    assert reasons[-1] == "length"
    assert process.wait(60) == 0
    assert psutil.wait_procs(engines, 60)[1] == []


def test_what_cannot_be_served_is_one_line(
    pharos: Any, llama_folder: Path, t5_folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "keys").write_text("# none yet\n")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = str(taken.getsockname()[1])
        for arguments, code, says in (
            ((llama_folder, "--adapter", "legal"), 2, "NAME=DIR"),
            ((llama_folder, "--api-key-file", tmp_path / "keys"), 2, "no keys"),
            ((llama_folder, "--max-num-seqs", "0"), 2, "max_num_seqs is 0"),
            ((llama_folder, "--timeout", "0"), 2, "timeout_s is 0"),
            ((llama_folder, "--port", port), 1, f"port {port} of 127.0.0.1 cannot be used"),
            ((tmp_path / "nothing", "--port", "0"), 1, "nothing"),
        ):
            run = pharos("serve", *arguments)
            assert (run.code, run.out) == (code, "")
            assert says in run.err
            assert "Traceback" not in run.err
