"""`/v1/embeddings` and `/rerank`: texts as vectors, and how near documents are to a query."""

import asyncio
import base64
import struct
from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter
from starlette.responses import Response

from pharos.serve.http.completions import prompt_ids
from pharos.serve.http.errors import ApiError
from pharos.serve.http.frontend import Frontend, Job
from pharos.serve.http.replies import Reply
from pharos.serve.http.schemas import MOST_INPUTS, EmbeddingRequest, RerankRequest


def embeddings_router(frontend: Frontend) -> APIRouter:
    router = APIRouter()

    @router.post("/v1/embeddings")
    async def embeddings(body: EmbeddingRequest) -> Response:
        job = await asyncio.to_thread(_embedding_job, frontend, body)
        return Reply(_embeddings(frontend, body, job))

    @router.post("/rerank")
    @router.post("/v1/rerank")
    async def rerank(body: RerankRequest) -> Response:
        job = await asyncio.to_thread(_rerank_job, frontend, body)
        return Reply(_reranked(frontend, body, job))

    return router


def _embedding_job(frontend: Frontend, body: EmbeddingRequest) -> Job:
    inputs = body.inputs()
    if not 0 < len(inputs) <= MOST_INPUTS:
        raise ApiError(
            f"input has {len(inputs)} texts; give from 1 to {MOST_INPUTS}", param="input"
        )
    special = body.add_special_tokens
    return frontend.embed_job(
        body, [prompt_ids(frontend, text, add_special_tokens=special) for text in inputs]
    )


async def _embeddings(frontend: Frontend, body: EmbeddingRequest, job: Job) -> dict[str, Any]:
    vectors, num_tokens = await frontend.vectors(job)
    as_base64 = body.encoding_format == "base64"
    return {
        "object": "list",
        "model": job.model,
        "data": [
            {
                "object": "embedding",
                "index": index,
                "embedding": _packed(vector) if as_base64 else vector,
            }
            for index, vector in enumerate(vectors)
        ],
        "usage": {"prompt_tokens": num_tokens, "total_tokens": num_tokens},
    }


def _rerank_job(frontend: Frontend, body: RerankRequest) -> Job:
    """The query, then the documents."""
    texts = [body.query, *body.documents]
    return frontend.embed_job(body, [frontend.model.text_ids(text) for text in texts])


async def _reranked(frontend: Frontend, body: RerankRequest, job: Job) -> dict[str, Any]:
    (query, *documents), num_tokens = await frontend.vectors(job)
    scores = [_cosine(query, document) for document in documents]
    best = sorted(range(len(scores)), key=lambda index: -scores[index])[: body.top_n]
    results: list[dict[str, Any]] = [
        {"index": index, "relevance_score": scores[index]} for index in best
    ]
    if body.return_documents:
        for result in results:
            result["document"] = {"text": body.documents[result["index"]]}
    usage = {"prompt_tokens": num_tokens, "total_tokens": num_tokens}
    return {"id": job.id, "model": job.model, "usage": usage, "results": results}


def _packed(vector: Sequence[float]) -> str:
    """Little-endian float32, as OpenAI's client unpacks it."""
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()


def _cosine(a: Sequence[float], b: Sequence[float]) -> float:
    """Of vectors of any length: 0 where one of them is 0."""
    product = sum(x * y for x, y in zip(a, b, strict=True))
    lengths = sum(x * x for x in a) * sum(y * y for y in b)
    return product / lengths**0.5 if lengths else 0.0
