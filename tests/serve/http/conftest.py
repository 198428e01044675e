"""A server over a tiny model, as clients meet it: a real engine, real sockets."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import openai
import pytest

from pharos.serve.engine.build import EngineConfig, build_engine
from pharos.serve.engine.client import EngineClient
from pharos.serve.engine.hosts import InThread
from pharos.serve.engine.scheduler import SchedulerConfig
from pharos.serve.http.app import create_app
from pharos.serve.http.config import HttpConfig
from pharos.serve.http.frontend import Frontend
from pharos.serve.http.served import load_served
from pharos.serve.http.server import address_of, bound_socket, run_server

MAX_LEN = 2048


@dataclass(frozen=True)
class Running:
    url: str
    frontend: Frontend
    stop: Callable[[], None]

    def client(self, **settings: object) -> openai.OpenAI:
        given: dict[str, object] = {"api_key": "none", "max_retries": 0, "timeout": 60} | settings
        return openai.OpenAI(base_url=f"{self.url}/v1", **given)  # type: ignore[arg-type]


Serve = Callable[..., AbstractContextManager[Running]]


@pytest.fixture(scope="session")
def serve(llama_folder: Path) -> Serve:
    """`with serve(max_pending=1) as running: ...`: a server with those limits."""

    @contextmanager
    def serving(*, max_num_seqs: int = 8, **limits: object) -> Iterator[Running]:
        started: threading.Event = threading.Event()
        found: list[Running] = []

        async def main() -> None:
            engine_config = EngineConfig(
                num_blocks=256,
                dtype="float32",
                scheduler=SchedulerConfig(max_num_seqs=max_num_seqs, max_model_len=MAX_LEN),
            )
            stop = asyncio.Event()
            stop_soon = partial(asyncio.get_running_loop().call_soon_threadsafe, stop.set)
            listener = bound_socket("127.0.0.1", 0)
            build = partial(build_engine, llama_folder, engine_config)
            async with EngineClient(InThread(build)) as engine:
                model = load_served(
                    llama_folder,
                    name="tiny",
                    max_len=engine.max_len,
                    template="chatml",
                    tool_format=None,
                )
                config = HttpConfig(**{"drain_s": 1.0} | limits)  # type: ignore[arg-type]
                app = create_app(engine, model, config)
                found.append(Running(address_of(listener), app.state.frontend, stop_soon))
                await run_server(
                    app, listener, drain_s=config.drain_s, on_start=started.set, stop=stop
                )

        thread = threading.Thread(target=asyncio.run, args=(main(),))
        thread.start()
        assert started.wait(120)
        try:
            yield found[0]
        finally:
            found[0].stop()
            thread.join()

    return serving


@pytest.fixture(scope="session")
def running(serve: Serve) -> Iterator[Running]:
    """One server, for all tests that ask for nothing special."""
    with serve() as running:
        yield running


@pytest.fixture
def client(running: Running) -> Iterator[openai.OpenAI]:
    with running.client() as client:
        yield client
