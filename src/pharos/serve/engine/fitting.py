"""What no amount of waiting would make fit."""

from pharos.serve.engine.request import Request


def refuse_unfit(request: Request, *, max_step: int, max_len: int | None, room: int) -> None:
    """Raises ValueError for what could never be computed, however long it waited: by a model that
    reads `max_len` tokens, in steps of `max_step`, with a cache that has room for so many."""
    if not request.prompt:
        raise ValueError("the prompt has no tokens; begin it with the model's bos token")
    length = len(request.prompt)
    asked = f"a prompt of {length} tokens"
    if request.kind == "embed" and length > max_step:
        raise ValueError(
            f"{asked} cannot be embedded in a step of {max_step}; shorten "
            "it, or raise max_num_batched_tokens"
        )
    if request.kind == "generate":
        asked += f" and max_tokens {request.params.max_tokens}"
        length += request.params.max_tokens
    if max_len is not None and length > max_len:
        raise ValueError(
            f"{asked} exceed the {max_len} tokens that the model reads at most; shorten one of them"
        )
    if request.kind == "generate" and length - 1 > room:
        raise ValueError(
            f"{asked} need more than the {room} tokens that the cache has room for; shorten "
            "one of them, or give the cache more memory"
        )
