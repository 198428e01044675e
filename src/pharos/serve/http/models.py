"""`/v1/models`, and adapters that are loaded and unloaded while the server runs.

A client that may load adapters makes this machine read files: only those below the folder that the
server was started with are read.
"""

from collections.abc import Awaitable
from pathlib import Path
from typing import Any

from fastapi import APIRouter

from pharos.core import ModelError
from pharos.serve.http.errors import ApiError, engine_failed
from pharos.serve.http.frontend import Frontend
from pharos.serve.http.schemas import LoadAdapterRequest, UnloadAdapterRequest


def models_router(frontend: Frontend) -> APIRouter:
    router = APIRouter()
    model = frontend.model

    def card(name: str) -> dict[str, Any]:
        """An adapter's `root` is its folder, and its `parent` the model that it adapts."""
        model.adapter_of(name)
        folder = model.adapters.get(name)
        return {
            "id": name,
            "object": "model",
            "created": model.created,
            "owned_by": "pharos",
            "root": name if folder is None else folder.name,
            "parent": None if folder is None else model.name,
            "max_model_len": model.max_len,
        }

    @router.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [card(name) for name in (model.name, *model.adapters)]}

    @router.get("/v1/models/{name:path}")
    async def one_model(name: str) -> dict[str, Any]:
        return card(name)

    @router.post("/v1/load_lora_adapter")
    async def load_adapter(body: LoadAdapterRequest) -> dict[str, Any]:
        if body.lora_name == model.name:
            raise ApiError(f"{model.name} is the model's own name; give another", param="lora_name")
        folder = _allowed(body.lora_path, frontend.config.adapters_folder)
        await _answered(frontend.engine.load_adapter(body.lora_name, folder), param="lora_path")
        model.adapters[body.lora_name] = folder
        return card(body.lora_name)

    @router.post("/v1/unload_lora_adapter")
    async def unload_adapter(body: UnloadAdapterRequest) -> dict[str, Any]:
        if body.lora_name not in model.adapters:
            known = ", ".join(model.adapters) or "none"
            raise ApiError(
                f"no adapter {body.lora_name!r} is loaded; these are: {known}",
                status=404,
                param="lora_name",
                code="model_not_found",
            )
        await _answered(frontend.engine.unload_adapter(body.lora_name), param="lora_name")
        model.adapters.pop(body.lora_name, None)
        return {"id": body.lora_name, "object": "model", "deleted": True}

    return router


async def _answered(asked: Awaitable[None], *, param: str) -> None:
    """Raises ApiError for what the engine refuses, and while it is started again."""
    try:
        await asked
    except ModelError as error:
        raise engine_failed(str(error), is_running=False) from error
    except ValueError as error:
        raise ApiError(str(error), param=param) from error


def _allowed(path: Path, below: Path | None) -> Path:
    """The folder that is meant, if adapters may be loaded from there."""
    if below is None:
        raise ApiError(
            "this server loads no adapters for clients; start it with --adapters-folder DIR",
            status=403,
        )
    try:
        folder = (below / path).resolve()
    except (OSError, ValueError) as error:  # no path at all: it is too long, or has a null
        raise ApiError(f"lora_path is no path: {error}", param="lora_path") from error
    if not folder.is_relative_to(below.resolve()):
        raise ApiError(
            f"lora_path {str(path)!r} is not below the folder that adapters are loaded from",
            status=403,
            param="lora_path",
        )
    return folder
