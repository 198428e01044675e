"""What replies tell beside the text: how many tokens it took, and how likely they were."""

from codecs import getincrementaldecoder
from collections.abc import Iterable, Sequence
from typing import Any

from pharos.serve.engine.request import Candidate, Output, Token
from pharos.serve.http.served import ServedModel


def usage(last: Sequence[Output], num_choices: int) -> dict[str, Any]:
    """Of the last output of each choice, those of one prompt beside each other; a prompt counts
    once."""
    num_prompt = sum(output.num_prompt for output in last[::num_choices])
    num_generated = sum(output.num_generated for output in last)
    return {
        "prompt_tokens": num_prompt,
        "completion_tokens": num_generated,
        "total_tokens": num_prompt + num_generated,
        "prompt_tokens_details": {
            "cached_tokens": sum(output.num_cached for output in last[::num_choices])
        },
    }


def chat_logprobs(model: ServedModel, tokens: Iterable[Token]) -> list[dict[str, Any]]:
    """OpenAI's of a chat: each token with the likeliest at its place."""
    return [
        _told(model, token)
        | {"top_logprobs": [_told(model, candidate) for candidate in token.candidates]}
        for token in tokens
    ]


class CompletionLogprobs:
    """OpenAI's of a completion, which also says where in the text a token stands."""

    def __init__(self, model: ServedModel, offset: int) -> None:
        self._model = model
        self._offset = offset
        self._decoder = getincrementaldecoder("utf-8")("replace")

    def of(self, tokens: Sequence[Token]) -> dict[str, Any]:
        """For the next tokens of the text."""
        texts = [self._model.token_text(token.id) for token in tokens]
        offsets = []
        for token in tokens:
            offsets.append(self._offset)
            self._offset += len(self._decoder.decode(self._model.bytes_of(token.id)))
        return {
            "tokens": texts,
            "token_logprobs": [token.logprob for token in tokens],
            "top_logprobs": [
                {self._model.token_text(c.id): c.logprob for c in token.candidates}
                for token in tokens
            ],
            "text_offset": offsets,
        }


def _told(model: ServedModel, token: Token | Candidate) -> dict[str, Any]:
    return {
        "token": model.token_text(token.id),
        "logprob": token.logprob,
        "bytes": list(model.bytes_of(token.id)),
    }
