"""One output under a JSON schema, of random legal tokens, by one library: what it took, and whether
the schema accepts it. Runs in a worker process, which one schema may crash or hold up."""

import json
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from jsonschema.validators import Draft202012Validator, validator_for
from llguidance.numpy import fill_next_token_bitmask
from numpy.typing import NDArray

from pharos.data.tokenizer import Tokenizer
from pharos.serve.engine.grammar import GrammarCompiler, GrammarError, GrammarState, new_mask
from pharos.serve.engine.request import Grammar

Library = Literal["llguidance", "xgrammar"]
Ending = Literal["valid", "invalid", "unfinished", "refused", "failed"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    library: Library
    tokenizer: Path
    name: str
    schema: str
    most: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Walk:
    """`compile_s` and `mask_s` are seconds of the processor; `why` is the reason of a refusal, or
    what is wrong with an output."""

    ending: Ending
    why: str = ""
    compile_s: float = 0.0
    mask_s: tuple[float, ...] = ()


class Output(Protocol):
    """What both libraries do."""

    @property
    def is_over(self) -> bool: ...

    def fill(self, mask_1W: NDArray[np.int32]) -> None: ...

    def accept(self, token: int) -> None: ...


class Ours:
    """Our compiler's, over llguidance; the mask filled in this thread, to time it alone."""

    def __init__(self, state: GrammarState) -> None:
        self._state = state

    @property
    def is_over(self) -> bool:
        return self._state.is_over

    def fill(self, mask_1W: NDArray[np.int32]) -> None:
        fill_next_token_bitmask(self._state.matcher, mask_1W)

    def accept(self, token: int) -> None:
        self._state.accept([token])


class Theirs:
    def __init__(self, matcher: Any) -> None:
        self._matcher = matcher

    @property
    def is_over(self) -> bool:
        return bool(self._matcher.is_terminated())

    def fill(self, mask_1W: NDArray[np.int32]) -> None:
        mask_1W.fill(-1)
        self._matcher.fill_next_token_bitmask(mask_1W)

    def accept(self, token: int) -> None:
        if not self._matcher.accept_token(token):
            raise GrammarError(f"xgrammar does not accept token {token}, which its mask leaves")


@cache
def loaded(folder: Path) -> Tokenizer:
    return Tokenizer.load(folder)


@cache
def compile_with(library: Library, folder: Path) -> Callable[[str], Output]:
    tokenizer = loaded(folder)
    return ours(tokenizer) if library == "llguidance" else xgrammars(tokenizer)


def ours(tokenizer: Tokenizer) -> Callable[[str], Output]:
    compiler = GrammarCompiler(tokenizer)

    def compile_(schema: str) -> Output:
        return Ours(compiler.compile(Grammar(kind="json_schema", text=schema)).result().begin())

    return compile_


def xgrammars(tokenizer: Tokenizer) -> Callable[[str], Output]:
    """Compact JSON too, otherwise the library's own settings."""
    xgrammar = import_module("xgrammar")
    vocabulary = sorted(tokenizer.vocabulary(), key=tokenizer.vocabulary().__getitem__)
    info = xgrammar.TokenizerInfo(
        vocabulary, xgrammar.VocabType.BYTE_LEVEL, stop_token_ids=list(tokenizer.eos_ids)
    )
    compiler = xgrammar.GrammarCompiler(info, max_threads=1, cache_enabled=False)

    def compile_(schema: str) -> Output:
        compiled = compiler.compile_json_schema(schema, any_whitespace=False, separators=(",", ":"))
        return Theirs(xgrammar.GrammarMatcher(compiled, terminate_without_stop_token=True))

    return compile_


def walk(task: Task) -> Walk:
    compile_ = compile_with(task.library, task.tokenizer)
    tokenizer = loaded(task.tokenizer)
    started = time.process_time()
    try:
        output = compile_(task.schema)
    except (ValueError, RuntimeError) as error:
        return Walk(ending="refused", why=str(error))
    compile_s = time.process_time() - started
    mask_s: list[float] = []
    try:
        ids = written(output, tokenizer, task.most, mask_s)
    except (ValueError, RuntimeError) as error:
        return Walk(ending="failed", why=str(error), compile_s=compile_s, mask_s=tuple(mask_s))
    ending, why = judged(task.schema, None if ids is None else tokenizer.decode(ids))
    return Walk(ending=ending, why=why, compile_s=compile_s, mask_s=tuple(mask_s))


def written(
    output: Output, tokenizer: Tokenizer, most: int, mask_s: list[float]
) -> list[int] | None:
    """The tokens of a finished output; how long each mask took goes into `mask_s`."""
    is_closing_V = closing(tokenizer)
    draws = np.random.default_rng(0)
    mask_1W = new_mask(1, tokenizer.vocab_size)
    ids: list[int] = []
    while not output.is_over:
        if len(ids) == most:
            return None
        started = time.process_time()
        output.fill(mask_1W)
        mask_s.append(time.process_time() - started)
        legal_V = np.unpackbits(mask_1W[0].view(np.uint8), bitorder="little")
        legal = np.flatnonzero(legal_V[: tokenizer.vocab_size])
        if not len(legal):
            raise RuntimeError("nothing is legal, and the output is not over")
        ends = legal[np.isin(legal, tokenizer.eos_ids)]
        nearer = legal[is_closing_V[legal]] if draws.random() < len(ids) / 100 else ends
        ids.append(int(draws.choice(next(filter(len, (ends, nearer, legal))))))
        output.accept(ids[-1])
    return ids


@cache
def closing(tokenizer: Tokenizer) -> NDArray[np.bool_]:
    """Tokens that close something, of which more are drawn as the output grows."""
    pattern = re.compile(r'[\w.]*["}\]]')
    texts = [tokenizer.text_of(id_) for id_ in range(tokenizer.vocab_size)]
    return np.array([pattern.match(text) is not None for text in texts])


def judged(schema: str, text: str | None) -> tuple[Ending, str]:
    if text is None:
        return "unfinished", ""
    try:
        value = json.loads(text)
    except ValueError as error:
        return "invalid", f"{error}: {text[-80:]}"
    parsed = json.loads(schema)
    kind = validator_for(parsed, default=Draft202012Validator)
    errors = kind(parsed, format_checker=kind.FORMAT_CHECKER).iter_errors(value)
    wrong = next(errors, None)
    return ("valid", "") if wrong is None else ("invalid", wrong.message)
