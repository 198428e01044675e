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
import torch
import typer

from pharos.adapt import Adapters, LoraConfig, save_adapter
from pharos.cli.serve import PACKAGES, refuse_without
from pharos.models.load import load_model

LONG = {"model": "tiny", "prompt": "The keeper", "max_tokens": 1500}
FOREVER = {"ignore_eos": True}


@torch.no_grad()
def write_adapter(model_folder: Path, folder: Path) -> Path:
    adapters = Adapters(load_model(model_folder))
    adapters.add(LoraConfig(r=4, target_modules="all-linear"))
    for part in adapters.parts():
        for parameter in part.parameters():
            parameter.normal_(std=0.3)
    save_adapter(adapters, folder)
    return folder


@pytest.fixture(scope="module")
def served(
    llama_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A server's process and its address. It has an adapter, named legal."""
    code = "from pharos.cli import main; main()"
    adapter = write_adapter(llama_folder, tmp_path_factory.mktemp("adapters") / "legal")
    options = ["--port", "0", "--name", "tiny", "--max-model-len", "2048", "--num-blocks", "256"]
    options += ["--adapter", f"legal={adapter}"]
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
    return openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=600)


def written_by_adapter(client: openai.OpenAI) -> str:
    asked = LONG | {"model": "legal", "max_tokens": 9, "temperature": 0}
    return client.completions.create(**asked, extra_body={"min_tokens": 9}).choices[0].text


def test_an_engine_that_is_killed_is_told_of_at_once_and_started_again(
    served: tuple[subprocess.Popen[str], str],
) -> None:
    process, url = served
    client = client_of(url)
    before = written_by_adapter(client)
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
    assert written_by_adapter(client) == before


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
            ((llama_folder, "--tensor-parallel", "2", "--adapter", "a=b"), 2, "one process"),
            ((llama_folder, "--max-num-seqs", "0"), 2, "max_num_seqs is 0"),
            ((llama_folder, "--timeout", "0"), 2, "timeout_s is 0"),
            ((llama_folder, "--port", port), 1, f"port {port} of 127.0.0.1 cannot be used"),
            ((tmp_path / "nothing", "--port", "0"), 1, "nothing"),
        ):
            run = pharos("serve", *arguments)
            assert (run.code, run.out) == (code, "")
            assert says in run.err
            assert "Traceback" not in run.err


def test_what_is_not_installed_is_named_with_the_command_that_installs_it() -> None:
    refuse_without(PACKAGES)
    with pytest.raises(typer.BadParameter, match=r"needs no_such_package: pip install .*\[serve\]"):
        refuse_without(["json", "no_such_package"])
