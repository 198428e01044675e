from typing import Any, cast

from pharos.serve.engine.request import Token
from pharos.serve.http.telling import CompletionLogprobs

SUN = "☀".encode()


class Model:
    """Token 0 is a word, 1 and 2 are the halves of one character."""

    def bytes_of(self, id_: int) -> bytes:
        return (b"the", SUN[:1], SUN[1:])[id_]

    def token_text(self, id_: int) -> str:
        return ("the", "bytes:\\xe2", "bytes:\\x98\\x80")[id_]


def test_offsets_are_places_in_the_text_also_behind_a_character_of_several_tokens() -> None:
    told = CompletionLogprobs(cast(Any, Model()), offset=0)
    first = told.of([Token(id=0), Token(id=1)])
    second = told.of([Token(id=2), Token(id=0), Token(id=0)])
    assert first["text_offset"] + second["text_offset"] == [0, 3, 3, 4, 7]
