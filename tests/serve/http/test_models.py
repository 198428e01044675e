import asyncio
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import torch

from pharos.adapt import Adapters, LoraConfig, load_adapter, save_adapter
from pharos.core import SamplingParams
from pharos.data.tokenizer import Tokenizer
from pharos.models.generation import Generation
from pharos.models.heads import CausalLM
from pharos.models.load import load_model
from pharos.serve.engine.build import EngineConfig, build_engine
from pharos.serve.engine.client import EngineClient
from pharos.serve.engine.hosts import InThread
from pharos.serve.http.app import create_app
from pharos.serve.http.config import HttpConfig
from pharos.serve.http.served import load_served

PROMPT = "The keeper of the light"


@torch.no_grad()
def write_adapter(model_folder: Path, folder: Path, *, seed: int) -> None:
    """A LoRA adapter that matters."""
    adapters = Adapters(load_model(model_folder))
    adapters.add(LoraConfig(r=4, target_modules="all-linear"))
    generator = torch.Generator().manual_seed(seed)
    for part in adapters.parts():
        for parameter in part.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator)
    save_adapter(adapters, folder)


def alone(model_folder: Path, adapter: Path | None) -> str:
    """What the model writes by itself."""
    model, tokenizer = load_model(model_folder), Tokenizer.load(model_folder)
    assert isinstance(model, CausalLM)
    if adapter is not None:
        adapters = Adapters(model)
        load_adapter(adapters, adapter)
        adapters.activate("default")
    ids = tokenizer.encode(PROMPT)
    params = SamplingParams(max_tokens=12, min_tokens=12)
    tokens = Generation(model, [ids], params, eos_ids=tokenizer.eos_ids)
    return tokenizer.decode([token.id for token in tokens])


def written(client: openai.OpenAI, model: str) -> str:
    extra = {"min_tokens": 12}
    completion = client.completions.create(
        model=model, prompt=PROMPT, max_tokens=12, temperature=0, extra_body=extra
    )
    return completion.choices[0].text


@pytest.fixture(scope="module")
def folder(llama_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of adapters."""
    folder = tmp_path_factory.mktemp("adapters")
    write_adapter(llama_folder, folder / "legal", seed=1)
    write_adapter(llama_folder, folder / "legal-v2", seed=2)
    (folder / "broken").mkdir()
    return folder


@pytest.fixture(scope="module")
def adapting(serve: Any, folder: Path) -> Iterator[Any]:
    with serve(adapters_folder=folder) as running:
        yield running


def load(running: Any, name: str, path: str) -> httpx.Response:
    body = {"lora_name": name, "lora_path": path}
    return httpx.post(f"{running.url}/v1/load_lora_adapter", json=body)


def test_an_adapter_is_a_model_of_its_own(adapting: Any, folder: Path, llama_folder: Path) -> None:
    client = adapting.client()
    base = written(client, "tiny")
    assert load(adapting, "legal", "legal").json()["parent"] == "tiny"
    assert [model.id for model in client.models.list().data] == ["tiny", "legal"]
    assert written(client, "legal") == alone(llama_folder, folder / "legal") != base
    assert written(client, "tiny") == alone(llama_folder, None) == base
    anew = {"lora_name": "legal", "lora_path": "legal-v2"}
    assert client.post("/load_lora_adapter", body=anew, cast_to=dict[str, Any])["id"] == "legal"
    assert written(client, "legal") == alone(llama_folder, folder / "legal-v2")
    name = {"lora_name": "legal"}
    assert client.post("/unload_lora_adapter", body=name, cast_to=dict[str, Any])["deleted"]
    with pytest.raises(openai.NotFoundError, match="choose from tiny"):
        written(client, "legal")


def test_what_is_no_adapter_is_refused(adapting: Any) -> None:
    for name, path in (("a", "broken"), ("a", "missing"), ("a", "\0"), ("tiny", "legal")):
        assert load(adapting, name, path).status_code == 400
    assert [model.id for model in adapting.client().models.list().data] == ["tiny"]


def test_adapters_are_loaded_only_from_below_their_folder(
    running: Any, adapting: Any, folder: Path
) -> None:
    refused = load(running, "a", "legal")
    assert refused.status_code == 403
    assert "--adapters-folder" in refused.json()["error"]["message"]
    (folder / "link").symlink_to("/")
    for path in ("..", str(folder.parent), "link/etc", "/"):
        assert load(adapting, "a", path).status_code == 403, path
    unknown = httpx.post(f"{adapting.url}/v1/unload_lora_adapter", json={"lora_name": "a"})
    assert unknown.status_code == 404


def test_while_the_engine_is_started_again_adapters_have_to_wait(
    llama_folder: Path, folder: Path
) -> None:
    engine = EngineClient(InThread(partial(build_engine, llama_folder, EngineConfig())))
    model = load_served(llama_folder, name="tiny", max_len=9, template=None, tool_format=None)
    model.adapters["legal"] = folder / "legal"
    app = create_app(engine, model, HttpConfig(adapters_folder=folder))

    async def replies() -> list[httpx.Response]:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            load = {"lora_name": "new", "lora_path": "legal-v2"}
            return [
                await client.post("/v1/load_lora_adapter", json=load),
                await client.post("/v1/unload_lora_adapter", json={"lora_name": "legal"}),
            ]

    for reply in asyncio.run(replies()):
        assert (reply.status_code, reply.json()["error"]["code"]) == (503, "engine_error")
        assert int(reply.headers["retry-after"]) >= 1
    assert set(model.adapters) == {"legal"}
