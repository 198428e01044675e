"""What is asked of the engine, and how far it has got with it.

A `Request` never changes; its `Sequence` is what the scheduler, the runner and the sampler read and
write. There are no phases: a sequence has tokens, some of which are computed (their keys and values
are in the cache), and each step computes more of them. Reading a prompt, writing a token, checking
drafts and resuming after a preemption are all that same rule.
"""

from collections.abc import Sequence as Seq
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import TYPE_CHECKING, Literal

from pharos.core import SamplingParams

if TYPE_CHECKING:
    from pharos.serve.engine.grammar import GrammarState

FinishReason = Literal["stop", "length", "abort", "error"]
Kind = Literal["generate", "embed"]
GrammarKind = Literal["json_schema", "json_object", "regex", "choice", "gbnf", "lark"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Grammar:
    """What an output must obey. `text` is the schema as JSON, the pattern, the choices as a JSON
    list, or the grammar; for `json_object`, any object, it is empty."""

    kind: GrammarKind
    text: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """`prompt` are token ids. `seed` is what its randomness is drawn from (with the number of the
    token, and nothing else; that of `params` is not looked at). Lower `priority` goes first.
    `adapter` names a LoRA adapter of the engine; `salt` keeps its cached prefixes apart from other
    tenants'. `skip_special` leaves special tokens out of the text. An `embed` request is read and
    not continued: its result is a vector."""

    id: str
    prompt: Seq[int]
    params: SamplingParams = field(default_factory=SamplingParams)
    seed: int = 0
    eos_ids: frozenset[int] = frozenset()
    kind: Kind = "generate"
    priority: int = 0
    adapter: str | None = None
    grammar: Grammar | None = None
    salt: str = ""
    skip_special: bool = True


class Status(Enum):
    WAITING = auto()
    """New, or preempted: none of its blocks are on the device."""
    RUNNING = auto()
    FINISHED = auto()


@dataclass(eq=False, slots=True)
class Sequence:
    """`tokens` are the prompt and what was generated; of the first `num_computed` the keys and
    values are in the cache, in the blocks `blocks` (append-only while it runs). `drafts` are
    guessed tokens that follow `tokens` and are checked in the next step. `num_cached` counts the
    prompt's tokens that were found in the prefix cache when it was first admitted. `generation` is
    that of its adapter: a name may be loaded anew while older requests still run. `block_keys` name
    what its first full blocks hold."""

    request: Request
    arrival: int
    tokens: list[int]
    num_computed: int = 0
    drafts: list[int] = field(default_factory=list)
    blocks: list[int] = field(default_factory=list)
    block_keys: list[bytes] = field(default_factory=list)
    status: Status = Status.WAITING
    finish_reason: FinishReason | None = None
    num_cached: int = 0
    num_preemptions: int = 0
    generation: int = 0
    grammar: "GrammarState | None" = None

    @property
    def id(self) -> str:
        return self.request.id

    @property
    def num_prompt(self) -> int:
        return len(self.request.prompt)

    @property
    def num_generated(self) -> int:
        return len(self.tokens) - self.num_prompt

    @property
    def num_pending(self) -> int:
        """Tokens and drafts still to be computed: at least the newest token of one that runs."""
        return len(self.tokens) + len(self.drafts) - self.num_computed


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """A token with its log-probability by the model, before any processing."""

    id: int
    logprob: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Token:
    """A generated token, and what was asked to be told of it."""

    id: int
    logprob: float | None = None
    candidates: tuple[Candidate, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Output:
    """News of a request, once a step at most. `text` and `tokens` are what came since the last
    output; text that may still become part of a stop string is held back, and `tokens` with it.
    The last output has a `finish_reason`: with "stop", `stopped_by` is the stop string or the
    token that ended it; with "error", `error` says what happened. `vector` is the result of an
    `embed` request. `queue_s` is how long it waited for its first step, by the engine's clock."""

    request_id: str
    text: str = ""
    tokens: tuple[Token, ...] = ()
    finish_reason: FinishReason | None = None
    stopped_by: str | int | None = None
    error: str | None = None
    vector: tuple[float, ...] | None = None
    num_prompt: int = 0
    num_cached: int = 0
    num_generated: int = 0
    queue_s: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Refusal:
    """A request can never be answered, for that `reason`. There is no output of it."""

    request_id: str
    reason: str
