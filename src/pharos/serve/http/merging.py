"""Several asynchronous streams as one, in the order in which their items come."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import TypeVar

T = TypeVar("T")


async def merged(streams: Sequence[AsyncGenerator[T, None]]) -> AsyncGenerator[tuple[int, T], None]:
    """Items with the number of their stream. What one raises is raised, and closes the others."""
    if len(streams) == 1:
        async with aclosing(streams[0]) as stream:
            async for item in stream:
                yield 0, item
        return
    queue: asyncio.Queue[tuple[int, T] | BaseException | None] = asyncio.Queue()
    tasks = [asyncio.create_task(_pour(i, stream, queue)) for i, stream in enumerate(streams)]
    num_open = len(tasks)
    try:
        while num_open:
            news = await queue.get()
            if isinstance(news, BaseException):
                raise news
            if news is None:
                num_open -= 1
            else:
                yield news
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _pour(
    number: int,
    stream: AsyncGenerator[T, None],
    queue: "asyncio.Queue[tuple[int, T] | BaseException | None]",
) -> None:
    try:
        async with aclosing(stream):
            async for item in stream:
                queue.put_nowait((number, item))
        queue.put_nowait(None)
    except Exception as error:
        queue.put_nowait(error)
