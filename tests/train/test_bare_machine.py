"""A GPU machine has torch, numpy, safetensors and tokenizers, and trains from token shards."""

import subprocess
import sys

BLOCKED = ("lancedb", "pyarrow", "lxml", "pypdfium2", "rensa", "httpx", "typer", "rich", "yaml")
IMPORT = f"""
import sys
for name in {BLOCKED!r}:
    sys.modules[name] = None
import pharos.adapt
import pharos.train.run
import pharos.train.preview
"""


def test_training_is_imported_without_the_libraries_of_the_upper_layers() -> None:
    subprocess.run([sys.executable, "-c", IMPORT], check=True)
