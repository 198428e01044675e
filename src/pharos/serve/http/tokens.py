"""`/tokenize` and `/detokenize`: what a text costs, and what tokens say."""

import asyncio
from typing import Any

from fastapi import APIRouter

from pharos.serve.http.chat_schemas import TokenizeRequest, template_messages
from pharos.serve.http.errors import ApiError
from pharos.serve.http.frontend import Frontend
from pharos.serve.http.parameters import MOST_ENTRIES
from pharos.serve.http.schemas import DetokenizeRequest
from pharos.serve.http.served import ServedModel
from pharos.serve.http.tools import told_in_text


def tokens_router(frontend: Frontend) -> APIRouter:
    router = APIRouter()
    model = frontend.model

    @router.post("/tokenize")
    async def tokenize(body: TokenizeRequest) -> dict[str, Any]:
        model.adapter_of(body.model)
        ids = await asyncio.to_thread(_ids, model, body)
        texts = [model.tokenizer.token(id_) for id_ in ids] if body.return_token_strs else None
        return {
            "count": len(ids),
            "max_model_len": model.max_len,
            "tokens": ids,
            "token_strs": texts,
        }

    @router.post("/detokenize")
    async def detokenize(body: DetokenizeRequest) -> dict[str, Any]:
        model.adapter_of(body.model)
        most, longest = model.tokenizer.vocab_size, max(model.max_len, MOST_ENTRIES)
        if len(body.tokens) > longest:
            raise ApiError(
                f"tokens has {len(body.tokens)} ids; give at most {longest} in a request",
                param="tokens",
            )
        if any(not 0 <= id_ < most for id_ in body.tokens):
            raise ApiError(f"tokens has an id outside of 0 to {most - 1}", param="tokens")
        text = await asyncio.to_thread(model.tokenizer.decode, body.tokens, skip_special=False)
        return {"prompt": text}

    return router


def _ids(model: ServedModel, body: TokenizeRequest) -> list[int]:
    if (body.prompt is None) == (body.messages is None):
        raise ApiError("give one of prompt and messages", param="prompt")
    if body.prompt is not None:
        return model.encode(body.prompt, add_special_tokens=body.add_special_tokens)
    tools = [tool.model_dump(exclude_none=True) for tool in body.tools]
    messages = template_messages(body.messages or ())
    text = model.render(
        messages if model.knows_tools else told_in_text(messages, tools),
        add_generation_prompt=body.add_generation_prompt,
        continue_final_message=body.continue_final_message,
        tools=tools or None,
        variables=body.chat_template_kwargs,
    )
    return model.encode(text, add_special_tokens=False)
