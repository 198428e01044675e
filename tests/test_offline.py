"""The main job with the network cut off, counting the attempts to reach one: there are none."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
PHAROS = "from pharos.cli import main; main()"
LINKS = (
    "<html><head><link rel=stylesheet href='http://192.0.2.1/a.css'></head><body>"
    "<h1>Keeper's allowance</h1><p>The keeper receives 85 euros per night.</p>"
    "<img src='http://192.0.2.1/beacon.png'><iframe src='http://192.0.2.1/'></iframe></body></html>"
)


@pytest.fixture(scope="module")
def cut_off(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An environment in which every process notes and refuses network calls."""
    if sys.platform != "linux" or not shutil.which("gcc"):
        pytest.skip("needs Linux and gcc to cut the network off")
    folder = tmp_path_factory.mktemp("cut-off")
    shim = folder / "no_network.so"
    command = ["gcc", "-shared", "-fPIC", "-o", str(shim), str(HERE / "no_network.c")]
    subprocess.run(command, check=True)
    log = folder / "attempts"
    log.touch()
    return {**os.environ, "LD_PRELOAD": str(shim), "PHAROS_TEST_NETWORK_LOG": str(log)}


def attempts(environment: dict[str, str]) -> str:
    return Path(environment["PHAROS_TEST_NETWORK_LOG"]).read_text()


def run(environment: dict[str, str], *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_the_cut_is_felt(cut_off: dict[str, str], tmp_path: Path) -> None:
    environment = {**cut_off, "PHAROS_TEST_NETWORK_LOG": str(tmp_path / "attempts")}
    program = "import socket; socket.create_connection(('192.0.2.1', 80), timeout=1)"
    assert run(environment, sys.executable, "-c", program).returncode != 0
    assert attempts(environment)


def test_asking_a_folder_of_every_format_makes_no_attempt(
    cut_off: dict[str, str], corpus: dict[str, Path], tmp_path: Path
) -> None:
    page = tmp_path / "page.html"
    page.write_text(LINKS)
    docs = [argument for path in [*corpus.values(), page] for argument in ("--docs", str(path))]
    question = "How much does the keeper receive per night?"
    library = ["--library", str(tmp_path / "library")]
    done = run(cut_off, sys.executable, "-c", PHAROS, "ask", question, *docs, *library, "--json")
    assert done.returncode == 0, done.stderr
    assert "85 euros" in json.loads(done.stdout)["answer"]
    assert attempts(cut_off) == ""
