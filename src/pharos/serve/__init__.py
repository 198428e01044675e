"""Language models behind an HTTP endpoint."""

from pharos.serve.client import ChatEndpoint

__all__ = ["ChatEndpoint"]
