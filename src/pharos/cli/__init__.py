"""The `pharos` command. `pharos.cli.app` wires it; each command is one file beside it."""

from pharos.cli.app import main

__all__ = ["main"]
