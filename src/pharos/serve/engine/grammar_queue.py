"""Those who wait for their grammar: until it is compiled, is refused, or has taken too long.

A grammar is compiled once for all who ask for it. Nobody waits longer than the compiler's limit: a
compilation that goes on is of use to who asks later, and one that has not begun is given up.
"""

from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, wait
from typing import NamedTuple

from pharos.serve.engine.grammar import CompiledGrammar, GrammarCompiler, GrammarError, refused
from pharos.serve.engine.request import Grammar, Sequence


class Outcome(NamedTuple):
    """`compiled` is what a sequence has waited for, or the error why there will be none."""

    sequence: Sequence
    compiled: CompiledGrammar | BaseException


class _Waiting(NamedTuple):
    sequence: Sequence
    grammar: Grammar
    since_s: float


class GrammarQueue:
    """`clock` gives seconds and never goes back."""

    def __init__(self, compiler: GrammarCompiler, clock: Callable[[], float]) -> None:
        self._compiler = compiler
        self._clock = clock
        self._waiting: dict[Future[CompiledGrammar], list[_Waiting]] = {}

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def add(self, sequence: Sequence, grammar: Grammar) -> None:
        waiting = _Waiting(sequence, grammar, self._clock())
        self._waiting.setdefault(self._compiler.compile(grammar), []).append(waiting)

    def take(self) -> list[Outcome]:
        """Those who need not wait any more."""
        return [outcome for future in list(self._waiting) for outcome in self._taken(future)]

    def wait(self, timeout_s: float) -> None:
        """Returns when one is compiled, if that is not later."""
        wait(self._waiting, timeout=timeout_s, return_when=FIRST_COMPLETED)

    def _taken(self, future: "Future[CompiledGrammar]") -> list[Outcome]:
        if future.done():
            result = future.exception() or future.result()
            return [Outcome(each.sequence, result) for each in self._waiting.pop(future)]
        latest_s = self._clock() - self._compiler.limit_s
        late = [each for each in self._waiting[future] if each.since_s <= latest_s]
        self._waiting[future] = [each for each in self._waiting[future] if each not in late]
        if not self._waiting[future]:
            del self._waiting[future]
            future.cancel()
        return [Outcome(each.sequence, self._lateness(each.grammar)) for each in late]

    def _lateness(self, grammar: Grammar) -> GrammarError:
        return refused(
            grammar,
            f"it was not compiled in {self._compiler.limit_s:g} seconds; give it fewer "
            "alternatives and properties, and smaller numbers, or ask again later",
        )
