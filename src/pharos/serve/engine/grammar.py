"""What an output may say next: a grammar as masks over the vocabulary.

    compiler = GrammarCompiler(tokenizer, vocab_size=model.config.vocab_size)
    compiling = compiler.compile(grammar)     # the request waits for it, the others go on
    state = compiling.result().begin()        # one for each output
    filling = filler.begin([(0, state, drafts)], mask_RW)     # while the forward pass runs
    filling.result()
    state.accept(tokens)

Grammars are matched by llguidance byte by byte, so that a token may end in the middle of a word, of
a rule or of a character: an Earley parser whose lexer is made of derivatives of regular
expressions, walked along a trie of the vocabulary. JSON is written in its compact form: where
optional whitespace is legal, a small model may go on with it until its tokens are spent. What a
schema asks and nothing enforces is refused by its name, never skipped.

Shapes: R rows (a sequence's newest position, and one for each of its drafts), W words of 32 tokens.
Token `t` is legal where bit `t % 32` of word `t // 32` is set.
"""

import json
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from threading import Lock
from typing import TYPE_CHECKING, Self

import llguidance
import numpy as np
from llguidance import LLExecutor, LLMatcher, LLParserLimits, LLTokenizer
from llguidance.numpy import (
    fill_next_token_bitmask_par,
    fill_next_token_bitmask_par_with_draft_tokens,
)
from numpy.typing import NDArray

from pharos.core import ModelError, PharosError
from pharos.data.tokenizer import Tokenizer
from pharos.serve.engine.daemon_threads import DaemonThreads
from pharos.serve.engine.json_schema import read_schema
from pharos.serve.engine.request import Grammar

if TYPE_CHECKING:
    from llguidance._lib import JsonCompileOptions

WORD = 32
UNMASKED = -1
"""A word whose bits are all set."""
MAX_COMPILED = 256
NUM_COMPILING = 4
LONGEST_COMPILE_S = 10.0
COMPACT: "JsonCompileOptions" = {"whitespace_flexible": False}
"""What a schema may overrule with an `x-guidance` object at its top."""
STRICT: "JsonCompileOptions" = {"lenient": False, "coerce_one_of": False}
"""What it may not."""
SAID_BETTER = {
    "NoExtension": "no text satisfies it",
    "oneOf": "its oneOf has alternatives that may hold at once; write anyOf",
}
"""Messages of the library that tell of its own inside, or of settings that we do not have."""
GIVEN_UP = ("recursion limit exceeded", "recursion depth exceeded")
"""What its readers of JSON and of GBNF say of a definition that is nested too deeply."""


class GrammarError(PharosError, ValueError):
    """A grammar cannot be read or asks what cannot be enforced; a token does not obey it."""


class GrammarState:
    """How far one output has got. Tokens that end an output are legal where the grammar accepts
    what is there; after one of them nothing is."""

    def __init__(self, matcher: LLMatcher, eos_ids: frozenset[int]) -> None:
        self.matcher = matcher
        self.eos_ids = eos_ids
        self._has_ended = False

    @property
    def error(self) -> str | None:
        """Why the output cannot go on, where its grammar became too complex to be followed: there
        are limits on the work of a step."""
        return _error(self.matcher) if self.matcher.is_error() else None

    @property
    def is_accepting(self) -> bool:
        """Whether the output may end here."""
        return self._has_ended or self.matcher.is_accepting()

    @property
    def is_over(self) -> bool:
        """Whether nothing can follow but its end, or an error keeps it from going on."""
        return self._has_ended or self.matcher.is_stopped()

    def count_legal(self, tokens: Sequence[int]) -> int:
        """How many of the tokens, from the first on, may follow one after the other."""
        if self._has_ended or not tokens:
            return 0
        if tokens[0] in self.eos_ids:
            return int(self.matcher.is_accepting())
        return self.matcher.validate_tokens(list(tokens))

    def accept(self, tokens: Sequence[int]) -> None:
        """The output goes on with these. Raises GrammarError if one is not legal, and then takes
        none of them."""
        num_legal = self.count_legal(tokens)
        if num_legal < len(tokens):
            raise GrammarError(
                f"token {tokens[num_legal]} breaks the grammar of its output; draw from the tokens "
                "that the mask leaves"
            )
        written = self.until_end(tokens)
        self._has_ended = len(written) < len(tokens)
        self.matcher.consume_tokens(written)

    def roll_back(self, num_tokens: int) -> None:
        """Forget the last so many of the accepted tokens."""
        if num_tokens and self._has_ended:
            self._has_ended = False
            num_tokens -= 1
        if num_tokens and not self.matcher.rollback(num_tokens):
            raise GrammarError(f"{num_tokens} tokens cannot be taken back: {self.error}")

    def until_end(self, tokens: Sequence[int]) -> list[int]:
        """The tokens before the first that ends an output."""
        ends = (i for i, token in enumerate(tokens) if token in self.eos_ids)
        return list(tokens[: next(ends, None)])


class CompiledGrammar:
    """What outputs of the same grammar share."""

    def __init__(self, matcher: LLMatcher, eos_ids: frozenset[int]) -> None:
        self._matcher = matcher
        self._eos_ids = eos_ids

    def begin(self) -> GrammarState:
        return GrammarState(self._matcher.deep_copy(), self._eos_ids)


class GrammarCompiler:
    """Compiles in `num_threads` threads of its own, without holding the interpreter up, and
    remembers the last `max_compiled` grammars (and why they were refused). There are several
    threads, so that one grammar that takes long holds no other up, and who waits for it should not
    do so for longer than `limit_s` seconds (`GrammarQueue`). What the library limits ends each of
    them, if not soon.

    `vocab_size` is how many rows the model's head has, if more than the tokenizer has tokens: no
    text is made of those. Raises ModelError for a tokenizer whose tokens are not made of bytes
    (BERT's), or that does not know how a text ends.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        vocab_size: int | None = None,
        max_compiled: int = MAX_COMPILED,
        limit_s: float = LONGEST_COMPILE_S,
        num_threads: int = NUM_COMPILING,
    ) -> None:
        if not tokenizer.eos_ids:
            raise ModelError(
                "outputs that obey a grammar need a token to end with, and the tokenizer has no "
                'eos token; name it in tokenizer_config.json ("eos_token")'
            )
        self.vocab_size = vocab_size or tokenizer.vocab_size
        self._eos_ids = frozenset(tokenizer.eos_ids)
        self._tokenizer = _library_tokenizer(tokenizer, self.vocab_size)
        self._limits = LLParserLimits(verbose_errors=False)
        self.limit_s = limit_s
        self._max_compiled = max_compiled
        self._compiled: OrderedDict[Grammar, Future[CompiledGrammar]] = OrderedDict()
        self._lock = Lock()
        self._threads = DaemonThreads(num_threads, name="grammar-compiler")

    def compile(self, grammar: Grammar) -> Future[CompiledGrammar]:
        """Its result is there when it is `done()`; where the grammar is refused, its exception is a
        GrammarError that says why."""
        with self._lock:
            if grammar not in self._compiled or self._compiled[grammar].cancelled():
                self._compiled[grammar] = self._threads.submit(partial(self._compile, grammar))
            self._compiled.move_to_end(grammar)
            if len(self._compiled) > self._max_compiled:
                self._compiled.popitem(last=False)
            return self._compiled[grammar]

    def close(self) -> None:
        """What is being compiled is not waited for."""
        self._threads.close()

    def _compile(self, grammar: Grammar) -> CompiledGrammar:
        try:
            definition = _definition(grammar)
        except (ValueError, RecursionError) as error:
            raise refused(grammar, _reason(str(error))) from error
        matcher = LLMatcher(self._tokenizer, definition, log_level=0, limits=self._limits)
        first = matcher.deep_copy()
        if not first.is_error():
            first.compute_bitmask()  # some errors show only here
        if first.is_error():
            raise refused(grammar, _error(first))
        return CompiledGrammar(matcher, self._eos_ids)


class MaskFiller:
    """Fills masks in a thread of its own, while the forward pass runs; and in several, where there
    are many rows and cores."""

    def __init__(self, *, num_threads: int = 1) -> None:
        self._executor = LLExecutor(num_threads=num_threads)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="grammar-masks")

    def begin(
        self,
        rows: Iterable[tuple[int, GrammarState, Sequence[int]]],
        mask_RW: NDArray[np.int32],
    ) -> Future[None]:
        """`fill`, in the other thread. Until it is done, leave states and masks alone."""
        return self._thread.submit(self.fill, list(rows), mask_RW)

    def fill(
        self,
        rows: Iterable[tuple[int, GrammarState, Sequence[int]]],
        mask_RW: NDArray[np.int32],
    ) -> None:
        """For each `(row, state, drafts)`, `mask_RW[row]` is what may come next, and the rows after
        it what may follow each of the drafts. All other rows are unmasked, and so are those behind
        a draft that is not legal, or is an end: nothing can follow there. Then ask the states for
        their `error`."""
        mask_RW[:] = UNMASKED
        asked = [(state.matcher, row, state.until_end(drafts)) for row, state, drafts in rows]
        plain = [(matcher, row) for matcher, row, drafts in asked if not drafts]
        drafted = [part for part in asked if part[2]]
        if plain:
            fill_next_token_bitmask_par(self._executor, plain, mask_RW)
        if drafted:
            fill_next_token_bitmask_par_with_draft_tokens(self._executor, drafted, mask_RW)

    def close(self) -> None:
        """Ends the thread; there is none before `begin`."""
        self._thread.shutdown(cancel_futures=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def new_mask(num_rows: int, vocab_size: int) -> NDArray[np.int32]:
    """`[num_rows, W]`, unmasked."""
    return np.full((num_rows, -(-vocab_size // WORD)), UNMASKED, dtype=np.int32)


def _library_tokenizer(tokenizer: Tokenizer, vocab_size: int) -> LLTokenizer:
    eos_ids = list(tokenizer.eos_ids)
    try:
        return LLTokenizer(_with_special_ends(tokenizer), n_vocab=vocab_size, eos_token=eos_ids)
    except (ValueError, RuntimeError) as error:
        raise ModelError(
            f"outputs cannot be held to a grammar with this tokenizer: {_in_one_line(str(error))}; "
            "take a model whose tokens are made of bytes (byte-level BPE, byte fallback)"
        ) from error


def _with_special_ends(tokenizer: Tokenizer) -> str:
    """`tokenizer.json` with the tokens that end an output marked as special: else a string could
    have them, letter by letter the same, for its text."""
    content = json.loads(tokenizer.backend.to_str())
    ends = set(tokenizer.eos_ids)
    kept = [token for token in content["added_tokens"] if token["id"] not in ends]
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    special = [
        {"id": id_, "content": tokenizer.token(id_), "special": True, **flags} for id_ in ends
    ]
    added = sorted(kept + special, key=lambda token: int(token["id"]))
    return json.dumps(content | {"added_tokens": added})


def _definition(grammar: Grammar) -> str:
    """A grammar in the library's own form."""
    match grammar.kind:
        case "json_schema":
            return _json_definition(json.dumps(read_schema(grammar.text)))
        case "json_object":
            return _json_definition('{"type": "object"}')
        case "choice":
            return llguidance.grammar_from("choice", json.dumps(_choices(grammar.text)))
        case "regex" | "gbnf" | "lark":
            return llguidance.grammar_from(grammar.kind, grammar.text)


def _json_definition(schema: str) -> str:
    return LLMatcher.grammar_from_json_schema(schema, defaults=COMPACT, overrides=STRICT)


def _choices(text: str) -> list[str]:
    choices = json.loads(text)
    if not isinstance(choices, list) or not choices or not all(isinstance(c, str) for c in choices):
        raise ValueError(f"choices are a JSON list of one or more strings, and not {text[:80]}")
    return choices


def _reason(message: str) -> str:
    if any(said in message for said in GIVEN_UP):
        return "it is nested too deeply; make parts of it rules or $defs of their own"
    return message


def refused(grammar: Grammar, reason: str) -> GrammarError:
    """Why there is no output that obeys it."""
    return GrammarError(f"this {grammar.kind} cannot be enforced: {_in_one_line(reason)}")


def _error(matcher: LLMatcher) -> str:
    message = matcher.get_error().replace("<non-verbose/>", "")
    said = next((ours for theirs, ours in SAID_BETTER.items() if theirs in message), message)
    return _in_one_line(said)


def _in_one_line(message: str) -> str:
    """Without the lines that point at a place in the line above."""
    lines = (line.strip() for line in message.splitlines())
    return " ".join(line for line in lines if line.strip("^|- "))
