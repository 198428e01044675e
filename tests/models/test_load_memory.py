"""Loading asks for no more memory than the model itself and one tensor beside it."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pharos.models.load import build_model, save_model

MEGABYTE = 2**20
BERT = {
    "model_type": "bert",
    "vocab_size": 30_000,
    "hidden_size": 768,
    "num_hidden_layers": 4,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
}
GPT2 = {"model_type": "gpt2", "vocab_size": 30_000, "n_embd": 768, "n_layer": 4, "n_head": 12}

# Watches its own anonymous memory, which pages of mapped files are no part of, while it loads.
CHILD = """
import json, sys, threading
from pathlib import Path
import torch
from pharos.models.load import family_of, load_model

def anonymous():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))

def load(folder, dtype):
    before, seen, loaded = anonymous(), [], threading.Event()
    def watch():
        while not loaded.wait(0.0005):
            seen.append(anonymous())
    watcher = threading.Thread(target=watch)
    watcher.start()
    model = load_model(folder, task="body", dtype=dtype)
    seen.append(anonymous())
    loaded.set()
    watcher.join()
    sizes = [parameter.nbytes for parameter in model.parameters()]
    return {"growth": max(seen) - before, "size": sum(sizes), "largest": max(sizes)}

folder, model_type = sys.argv[1:]
torch.set_num_threads(1)
family_of(model_type)
torch.ones(1000).to(torch.bfloat16)
print(json.dumps([load(folder, dtype) for dtype in (torch.float32, torch.bfloat16)]))
"""


def load_in_child(folder: Path, model_type: str) -> list[dict[str, int]]:
    """As it is in the file, and converted to bfloat16."""
    command = [sys.executable, "-c", CHILD, str(folder), model_type]
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"}  # what is freed is given back
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    result: list[dict[str, int]] = json.loads(done.stdout)
    return result


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("raw", [BERT, GPT2], ids=["joined", "transposed"])
def test_loading_needs_its_own_size_and_one_tensor(raw: dict[str, Any], tmp_path: Path) -> None:
    save_model(build_model(raw, "body"), tmp_path)
    as_it_is, converted = load_in_child(tmp_path, raw["model_type"])
    assert 190 * MEGABYTE < as_it_is["size"] == 2 * converted["size"]
    for load in (as_it_is, converted):
        assert load["growth"] < load["size"] + load["largest"]
