"""The application: routes, keys, limits, errors."""

import logging
from http import HTTPStatus
from importlib.metadata import version
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from pharos.serve.http.chat import chat_router
from pharos.serve.http.completions import completions_router
from pharos.serve.http.config import HttpConfig
from pharos.serve.http.contract import Engine
from pharos.serve.http.embeddings import embeddings_router
from pharos.serve.http.errors import ApiError
from pharos.serve.http.frontend import Frontend
from pharos.serve.http.gate import Gate
from pharos.serve.http.metrics import CONTENT_TYPE
from pharos.serve.http.models import models_router
from pharos.serve.http.replies import error_response
from pharos.serve.http.responses import responses_router
from pharos.serve.http.served import ServedModel
from pharos.serve.http.tokens import tokens_router

logger = logging.getLogger("pharos.serve")


def create_app(engine: Engine, model: ServedModel, config: HttpConfig | None = None) -> FastAPI:
    """The OpenAI-compatible API over an engine. Pages that would load scripts from elsewhere are
    left out: the description is at /openapi.json."""
    config = config or HttpConfig()
    frontend = Frontend(engine, model, config)
    app = FastAPI(title="Pharos", version=version("pharos-llm"), docs_url=None, redoc_url=None)
    app.state.frontend = frontend
    for make_router in (
        chat_router,
        completions_router,
        responses_router,
        embeddings_router,
        models_router,
        tokens_router,
    ):
        app.include_router(make_router(frontend))

    @app.get("/health")
    async def health() -> dict[str, str]:
        if not engine.is_healthy:
            raise ApiError(
                "the engine makes no progress",
                status=HTTPStatus.SERVICE_UNAVAILABLE,
                code="engine_dead",
                retry_after_s=5,
            )
        return {"status": "ok"}

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(frontend.metrics.exposition(), media_type=CONTENT_TYPE)

    app.add_exception_handler(ApiError, _told)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(Exception, _unexpected)
    app.add_middleware(Gate, config=config)
    return app


async def _told(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, ApiError)
    return error_response(error)


async def _invalid(request: Request, error: Exception) -> JSONResponse:
    """The first thing that is wrong with a body, named as a path into it."""
    assert isinstance(error, RequestValidationError)
    return error_response(_validation_error(error.errors()[0], error.body))


def _validation_error(first: dict[str, Any], body: Any) -> ApiError:
    if first["type"] == "json_invalid":
        return ApiError(f"the body is not valid JSON: {first['ctx']['error']}")
    if isinstance(body, bytes | str):
        return ApiError("the body is not read as JSON; send it with Content-Type: application/json")
    place = list(first["loc"][1:])
    if first["type"] == "unsupported_parameter":
        path = _path([*place, first["ctx"]["param"]], body)
        return ApiError(
            f"{path} is not supported: {first['ctx']['why']}",
            param=path,
            code="unsupported_parameter",
        )
    path = _path(place, body)
    if first["type"] == "extra_forbidden":
        return ApiError(
            f"{path} is not a parameter of this request; leave it out",
            param=path,
            code="unknown_parameter",
        )
    if first["type"] == "missing":
        return ApiError(f"{path or 'the body'} is missing; give it", param=path or None)
    said = f"{path or 'the body'}: {first['msg'].lower()}"
    return ApiError(said, param=path or None, code="invalid_value")


def _path(place: list[int | str], body: Any) -> str:
    """`["messages", 0, "content"]` to `messages[0].content`. Of a value that may be of several
    types, the place names the type that was tried: that is not in the body, and left out."""
    path, value = "", body
    for at, part in enumerate(place):
        if isinstance(part, int):
            path += f"[{part}]"
            value = value[part] if isinstance(value, list) and part < len(value) else None
        elif isinstance(value, dict) and (part in value or at == len(place) - 1):
            path += f".{part}"
            value = value.get(part)
    return path.removeprefix(".")


async def _http(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    message = error.detail
    if error.status_code == HTTPStatus.NOT_FOUND:
        message = f"there is no {request.url.path} here; see /openapi.json"
    elif error.status_code == HTTPStatus.BAD_REQUEST:
        message = "the body is not valid JSON in UTF-8, or nested too deeply"
    return error_response(ApiError(message, status=error.status_code))


async def _unexpected(request: Request, error: Exception) -> JSONResponse:
    """A mistake of ours; what it was stands in the log, not in the reply."""
    logger.error("%s %s failed", request.method, request.url.path, exc_info=error)
    return error_response(ApiError("the server failed; its log says why", status=500))
