"""Language models behind an HTTP endpoint."""

from pharos.serve.client import ChatEndpoint, EndpointConfig

__all__ = ["ChatEndpoint", "EndpointConfig"]
