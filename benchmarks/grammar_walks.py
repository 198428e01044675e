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
CLOSING_AFTER = 20
"""Tokens, from which on those that close something are likelier."""


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
def compile_with(library: Library, folder: Path) -> Callable[[str], Output]:
    tokenizer = Tokenizer.load(folder)
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
    tokenizer = Tokenizer.load(task.tokenizer)
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
    favour_V = closing(tokenizer)
    draws = np.random.default_rng(0)
    mask_1W = new_mask(1, tokenizer.vocab_size)
    ids: list[int] = []
    while not output.is_over:
        if len(ids) == most:
            return None
        started = time.process_time()
        output.fill(mask_1W)
        mask_s.append(time.process_time() - started)
        ids.append(drawn(mask_1W[0], favour_V, tokenizer.eos_ids, draws, len(ids)))
        output.accept(ids[-1])
    return ids


def drawn(
    mask_W: NDArray[np.int32],
    favour_V: NDArray[np.float64],
    eos_ids: tuple[int, ...],
    draws: np.random.Generator,
    step: int,
) -> int:
    """An end where one is legal; else a random token, short ones and closing ones first."""
    legal_V = np.unpackbits(mask_W.view(np.uint8), bitorder="little")[: len(favour_V)].astype(bool)
    if not legal_V.any():
        raise RuntimeError("nothing is legal, and the output is not over")
    for id_ in eos_ids:
        if legal_V[id_]:
            return id_
    scores_V = draws.gumbel(size=len(favour_V)) + favour_V * (step > CLOSING_AFTER)
    return int(np.where(legal_V, scores_V, -np.inf).argmax())


@cache
def closing(tokenizer: Tokenizer) -> NDArray[np.float64]:
    texts = [tokenizer.text_of(id_) for id_ in range(tokenizer.vocab_size)]
    pattern = re.compile(r'[\w.]*["}\]]')
    return np.array([6.0 * bool(pattern.match(text)) - 0.2 * len(text) for text in texts])


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
