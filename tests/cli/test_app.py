import subprocess
import sys

HEAVY = {"torch", "lancedb", "pyarrow", "numpy", "kreuzberg", "rich", "httpx", "huggingface_hub"}


def test_help_imports_nothing_heavy() -> None:
    code = """
import sys
from pharos.cli import main
try:
    main(["--help"])
except SystemExit:
    pass
print(*sorted({name.partition(".")[0] for name in sys.modules}))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "Ask a folder of documents" in done.stdout
    assert not HEAVY & set(done.stdout.splitlines()[-1].split())
