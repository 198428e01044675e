"""Language models behind an HTTP endpoint.

`ChatEndpoint` is imported when it is first used: the engine below needs no HTTP client.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pharos.serve.client import ChatEndpoint, EndpointConfig

__all__ = ["ChatEndpoint", "EndpointConfig"]


def __getattr__(name: str) -> object:
    if name in __all__:
        from pharos.serve import client

        return getattr(client, name)
    raise AttributeError(f"module 'pharos.serve' has no attribute {name!r}")
