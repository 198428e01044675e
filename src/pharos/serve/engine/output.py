"""From tokens to what a request is told: text in pieces, and where it ends.

A text ends with an end token, before a stop string, or after `max_tokens`. What might still become
a stop string is held back, and so is what is not a character yet; a token is passed on once all of
its text is. So the tokens of an output are those of its text, and nothing that was generated beyond
a text's end is ever told: neither its characters nor its tokens with their log-probabilities.
"""

from collections import deque
from typing import NamedTuple

from pharos.data.detokenize import StreamDecoder
from pharos.data.tokenizer import Tokenizer
from pharos.serve.engine.request import FinishReason, Output, Request, Token
from pharos.serve.stop_strings import StopStrings


class _Placed(NamedTuple):
    """A token whose text is certain: the characters `start` to `end`, shared with its neighbours
    where one character takes several tokens."""

    token: Token
    start: int
    end: int


class OutputWriter:
    """`push` the tokens of one request until there is a `finish_reason`, and `take` the news.
    Without a tokenizer there are tokens and no text. `num_generated` counts what the model wrote,
    the end included."""

    def __init__(self, request: Request, tokenizer: Tokenizer | None) -> None:
        self.finish_reason: FinishReason | None = None
        self.stopped_by: str | int | None = None
        self.num_generated = 0
        self._request = request
        self._params = request.params
        self._end_ids = request.params.end_ids(request.eos_ids)
        self._decoder = (
            None
            if tokenizer is None
            else StreamDecoder(tokenizer, skip_special=request.skip_special)
        )
        self._stop = StopStrings(self._params.stop, include=self._params.include_stop)
        self._unplaced: list[Token] = []
        self._placed: deque[_Placed] = deque()
        self._num_decoded = 0
        self._num_passed = 0
        self._text = ""
        self._tokens: list[Token] = []

    def push(self, token: Token) -> None:
        """The next token of the request. Nothing may follow once there is a `finish_reason`."""
        assert self.finish_reason is None, f"{self._request.id} has ended"
        self.num_generated += 1
        is_end = token.id in self._end_ids
        if is_end:
            self.stopped_by = token.id
        if not is_end or self._params.include_stop:
            self._write(token)
        if is_end or self._stop.is_stopped:
            self.finish("stop")
        elif self.num_generated >= self._params.max_tokens:
            self.finish("length")

    def finish(self, reason: FinishReason) -> None:
        """Nothing follows: what was held back is passed on."""
        if self._decoder is not None and not self._stop.is_stopped:
            self._place(self._decoder.flush())
            self._pass(self._stop.flush())
        if self._stop.is_stopped:
            reason, self.stopped_by = "stop", self._stop.stopped_by
            self._tokens += [placed.token for placed in self._placed if self._is_shown(placed)]
        else:
            self._tokens += [placed.token for placed in self._placed]
            self._tokens += self._unplaced
        self._placed.clear()
        self._unplaced.clear()
        self.finish_reason = reason

    def take(self, *, num_cached: int = 0, queue_s: float = 0.0) -> Output | None:
        """What came since the last time, if anything."""
        if not (self._text or self._tokens or self.finish_reason):
            return None
        output = Output(
            request_id=self._request.id,
            text=self._text,
            tokens=tuple(self._tokens),
            finish_reason=self.finish_reason,
            stopped_by=self.stopped_by,
            num_prompt=len(self._request.prompt),
            num_cached=num_cached,
            num_generated=self.num_generated,
            queue_s=queue_s,
        )
        self._text, self._tokens = "", []
        return output

    def _write(self, token: Token) -> None:
        if self._decoder is None:
            self._tokens.append(token)
            return
        self._unplaced.append(token)
        self._place(self._decoder.push(token.id))
        while self._placed and self._placed[0].end <= self._num_passed:
            self._tokens.append(self._placed.popleft().token)

    def _place(self, piece: str) -> None:
        """A piece of text is certain now: that of the tokens since the last one."""
        if not piece:
            return
        start, self._num_decoded = self._num_decoded, self._num_decoded + len(piece)
        for token in self._unplaced:
            self._placed.append(_Placed(token, start, self._num_decoded))
        self._unplaced.clear()
        may_stop = self.num_generated > self._params.min_tokens
        self._pass(self._stop.push(piece) if may_stop else piece)

    def _pass(self, text: str) -> None:
        self._text += text
        self._num_passed += len(text)

    def _is_shown(self, placed: _Placed) -> bool:
        """Whether some of a token's text is before the end."""
        return placed.start < self._num_passed
