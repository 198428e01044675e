import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

import pytest

from pharos.serve.http.merging import merged


async def numbers(*values: int) -> AsyncGenerator[int, None]:
    for value in values:
        await asyncio.sleep(0)
        yield value


@pytest.mark.parametrize("streams", [[], [()], [(1, 2)], [(1, 2), (), (3,)]])
def test_every_item_comes_once_and_in_its_streams_order(streams: list[tuple[int, ...]]) -> None:
    async def main() -> list[tuple[int, int]]:
        return [item async for item in merged([numbers(*values) for values in streams])]

    found = asyncio.run(main())
    for number, values in enumerate(streams):
        assert [item for at, item in found if at == number] == list(values)
    assert len(found) == sum(map(len, streams))


def test_a_stream_that_fails_closes_the_others() -> None:
    async def main() -> None:
        is_closed = False

        async def endless() -> AsyncGenerator[int, None]:
            nonlocal is_closed
            try:
                await asyncio.Event().wait()
                yield 0
            finally:
                is_closed = True

        async def failing() -> AsyncGenerator[int, None]:
            await asyncio.sleep(0)
            raise OSError("gone")
            yield 0

        with pytest.raises(OSError, match="gone"):
            async with aclosing(merged([endless(), failing()])) as items:
                async for _ in items:
                    pass
        assert is_closed

    asyncio.run(main())
