"""The engine: requests in, outputs out, a step at a time.

    engine = Engine(scheduler, runner, tokenizer=tokenizer)
    engine.add(Request(id="1", prompt=tokenizer.encode("Once upon a time")))
    while engine.has_work:
        for news in engine.step(): ...

    Scheduler.plan ─ Runner.run ─ Sampler.sample ─ OutputWriter.push ─ Scheduler.computed ─ outputs

Everything happens in the thread that calls it, but for what a grammar needs: it is compiled while
its request waits, and its masks are filled while the model runs.
"""

import logging
import time
from collections.abc import Callable, Iterable
from collections.abc import Sequence as Seq
from concurrent.futures import Future
from dataclasses import dataclass, replace
from itertools import count, islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pharos.data.tokenizer import Tokenizer
from pharos.models.generation import check_token_params
from pharos.serve.engine.adapters import AdapterRegistry
from pharos.serve.engine.grammar import (
    CompiledGrammar,
    GrammarCompiler,
    GrammarError,
    MaskFiller,
    new_mask,
)
from pharos.serve.engine.grammar_queue import GrammarQueue
from pharos.serve.engine.output import OutputWriter
from pharos.serve.engine.plan import Move, Part, Plan
from pharos.serve.engine.request import (
    FinishReason,
    Output,
    Refusal,
    Request,
    Sequence,
    Status,
    Token,
)
from pharos.serve.engine.runner import Runner
from pharos.serve.engine.sampler import Row, Sampler, accepted, rows_of
from pharos.serve.engine.scheduler import Scheduler
from pharos.serve.engine.speculation import Speculation
from pharos.serve.engine.stats import EngineStats
from pharos.serve.engine.tally import Tally

GRAMMAR_WAIT_S = 0.05
News = Output | Refusal

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Job:
    """A request that has not ended. `queue_s` is known from its first step on."""

    sequence: Sequence
    writer: OutputWriter
    arrived_s: float
    queue_s: float | None = None

    def take(self) -> Output | None:
        return self.writer.take(num_cached=self.sequence.num_cached, queue_s=self.queue_s or 0.0)


class Engine:
    """Without a `tokenizer` outputs have tokens and no text, and without a `compiler` no request
    may have a grammar. `clock` gives seconds and never goes back."""

    def __init__(
        self,
        scheduler: Scheduler,
        runner: Runner,
        *,
        tokenizer: Tokenizer | None = None,
        compiler: GrammarCompiler | None = None,
        speculation: Speculation | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.scheduler = scheduler
        self.runner = runner
        self.vocab_size: int = runner.model.config.vocab_size
        self._tokenizer = tokenizer
        self._compiler = compiler
        self._speculation = speculation
        self._clock = clock
        self._sampler = Sampler()
        self._filler = MaskFiller()
        self._jobs: dict[str, _Job] = {}
        self._grammars = None if compiler is None else GrammarQueue(compiler, clock)
        self._news: list[News] = []
        self._arrivals = count()
        self._has_failed = False
        self._tally = Tally(scheduler, runner)

    # Requests

    def add(self, request: Request) -> None:
        """Raises ValueError for a request that can never be answered."""
        self._refuse_unfit(request)
        sequence = Sequence(request, next(self._arrivals), list(request.prompt))
        if request.adapter is not None:
            sequence.generation = self._known_adapters().acquire(request.adapter)
        try:
            self.scheduler.add(sequence)
        except ValueError:
            self._release(sequence)
            raise
        job = _Job(sequence, OutputWriter(request, self._tokenizer), self._clock())
        self._jobs[request.id] = job
        if request.grammar is not None:
            assert self._grammars is not None
            self._grammars.add(sequence, request.grammar)

    def abort(self, request_id: str) -> None:
        """End a request, wherever it is; one that has ended stays as it is."""
        if request_id in self._jobs:
            self._end(self._jobs[request_id], "abort")

    def load_adapter(self, name: str, folder: Path) -> None:
        """For requests to come; those that run keep theirs. Raises ModelError for an adapter that
        does not fit the model."""
        self._known_adapters().load(name, folder)

    def unload_adapter(self, name: str) -> None:
        """Raises ValueError for an unknown name."""
        self._known_adapters().unload(name)

    @property
    def has_work(self) -> bool:
        return bool(self._jobs or self._news)

    @property
    def max_len(self) -> int:
        """The longest sequence that a request can become."""
        pool, limit = self.scheduler.pool, self.scheduler.config.max_model_len
        room = pool.num_blocks * pool.block_size
        return room if limit is None else min(limit, room)

    @property
    def stats(self) -> EngineStats:
        return self._tally.stats()

    def on_loss(self, call: Callable[[str], None]) -> None:
        """Calls it with the reason, in another thread, when a process that has a part of the model
        ends by itself: at any time, also within a step, and the step may then never end."""
        if self.runner.followers is not None:
            self.runner.followers.on_loss(call)

    def close(self) -> None:
        """Ends the threads and processes that work for it."""
        self._filler.close()
        if self._compiler is not None:
            self._compiler.close()
        if self.runner.followers is not None:
            self.runner.followers.stop()

    def check(self) -> None:
        """Asserts that nothing is held for a request that has ended, and that the blocks add up."""
        self.scheduler.check()
        known = {job.sequence for job in self._jobs.values()}
        assert known == {*self.scheduler.running, *self.scheduler.waiting}
        assert self._sampler.known <= known

    # A step

    def step(self) -> list[News]:
        """Computes the next tokens of as many requests as there is room for; what is new of them.

        When a step fails (out of memory, say), its requests end with an error and the engine goes
        on. If the next one fails too, the cause is not in the requests, and the error is raised; so
        it is at once where a part of a split model is lost."""
        self._take_compiled()
        plan = self.scheduler.plan()
        self._note_starts(plan)
        try:
            drawn, vectors = self._compute(plan)
        except Exception as error:
            self._abandon(plan, error)
        else:
            self._has_failed = False
            if plan.parts:
                self._tally.note_step(plan.num_tokens)
            self._tell_tokens(plan, drawn)
            self._tell_vectors(plan, vectors)
            self._propose(plan)
        if self._grammars and not plan.parts:
            self._grammars.wait(GRAMMAR_WAIT_S)
        news, self._news = self._news, []
        return news

    def _take_compiled(self) -> None:
        """Requests whose grammar is ready begin; those whose grammar is refused are refused."""
        for sequence, compiled in self._grammars.take() if self._grammars else ():
            if sequence.status is Status.FINISHED:
                continue
            if isinstance(compiled, CompiledGrammar):
                sequence.grammar = compiled.begin()
            else:
                self._refuse_grammar(self._job_of(sequence), compiled)

    def _refuse_grammar(self, job: _Job, error: BaseException) -> None:
        """Also where the library itself failed: no grammar takes the engine down."""
        reason = str(error)
        if not isinstance(error, GrammarError):
            log.error("a grammar could not be compiled", exc_info=error)
            reason = f"its grammar could not be compiled: {type(error).__name__}: {error}"
        self._forget(job, "error")
        self._news.append(Refusal(request_id=job.sequence.id, reason=reason))

    def _note_starts(self, plan: Plan) -> None:
        now = self._clock()
        for part in plan.parts:
            job = self._job_of(part.sequence)
            if job.queue_s is None:
                job.queue_s = now - job.arrived_s

    def _compute(self, plan: Plan) -> tuple[list[Token], list[list[float]]]:
        """A token for each row of logits, and a vector for each text that is embedded."""
        self._move(plan.moves)
        started_s = self._clock()
        rows = rows_of(plan)
        mask_RW, filled = self._begin_masks(rows)
        try:
            logits_RV = self.runner.run(plan)
            vectors_ED = self.runner.embed(plan)
        finally:
            if filled is not None:
                filled.result()
        drawn = self._sampler.sample(logits_RV, rows, mask_RW) if rows else []
        vectors = vectors_ED.tolist()
        if 2 * plan.num_read > plan.num_tokens:
            self.scheduler.pool.pace.note_reading(plan.num_tokens, self._clock() - started_s)
        return drawn, vectors

    def _move(self, moves: list[Move]) -> None:
        if moves:
            started_s = self._clock()
            self.runner.move(moves)
            self.scheduler.pool.pace.note_moves(len(moves), self._clock() - started_s)

    def _begin_masks(self, rows: Seq[Row]) -> tuple[NDArray[np.int32] | None, Future[None] | None]:
        """What grammars allow in each row, from when the future is done; None without grammars."""
        asked = [
            (i, row.sequence.grammar, row.sequence.drafts)
            for i, row in enumerate(rows)
            if row.sequence.grammar is not None and row.num_drafts == 0
        ]
        if not asked:
            return None, None
        mask_RW = new_mask(len(rows), self.vocab_size)
        return mask_RW, self._filler.begin(asked, mask_RW)

    def _tell_tokens(self, plan: Plan, drawn: Iterable[Token]) -> None:
        drawn = iter(drawn)
        written: dict[Sequence, list[int]] = {}
        for part in plan.parts:
            tokens = self._accepted(part, list(islice(drawn, part.num_logits)))
            if tokens:
                written[part.sequence] = self._write(self._job_of(part.sequence), tokens)
        self.scheduler.computed(plan, written)
        for sequence in written:
            grammar = sequence.grammar
            self._tell(self._job_of(sequence), None if grammar is None else grammar.error)

    def _accepted(self, part: Part, drawn: Seq[Token]) -> list[Token]:
        """The new tokens of a sequence. One whose grammar cannot be followed any more has none, and
        ends."""
        grammar = part.sequence.grammar
        if grammar is not None and grammar.error is not None:
            self._end(self._job_of(part.sequence), "error", grammar.error)
            return []
        tokens = accepted(part.sequence, drawn)
        if len(drawn) > 1:
            self._tally.note_drafts(len(drawn) - 1, len(tokens) - 1)
        return tokens

    def _write(self, job: _Job, tokens: Iterable[Token]) -> list[int]:
        """The tokens that the text goes on with: it may end before the last of them. What ends a
        grammar ends its text, also one that goes on after other ends (`ignore_eos`)."""
        grammar = job.sequence.grammar
        ids: list[int] = []
        for token in tokens:
            job.writer.push(token)
            ids.append(token.id)
            is_end = grammar is not None and token.id in grammar.eos_ids
            if is_end or job.writer.finish_reason is not None:
                break
        if grammar is not None:
            grammar.accept(ids)
            if grammar.is_over and job.writer.finish_reason is None:
                job.writer.finish("stop" if grammar.error is None else "error")
        return ids

    def _tell(self, job: _Job, error: str | None = None) -> None:
        """What is new of a request. When its text has ended, so has the request."""
        output, reason = job.take(), job.writer.finish_reason
        if output is not None:
            self._news.append(replace(output, error=error) if reason == "error" else output)
        if reason is not None:
            self._forget(job, reason)

    def _tell_vectors(self, plan: Plan, vectors: Iterable[Seq[float]]) -> None:
        embedded = [part.sequence for part in plan.parts if part.sequence.request.kind == "embed"]
        for sequence, vector in zip(embedded, vectors, strict=True):
            job = self._job_of(sequence)
            job.writer.finish("stop")
            output = job.take()
            assert output is not None
            self._news.append(replace(output, vector=tuple(vector)))
            self._forget(job, "stop")

    def _propose(self, plan: Plan) -> None:
        """Drafts for the next step, as far as grammars allow them."""
        if self._speculation is None:
            return
        written = [part.sequence for part in plan.parts if part.num_logits]
        running = [sequence for sequence in written if sequence.status is Status.RUNNING]
        self._speculation.propose(running)
        for sequence in running:
            if sequence.grammar is not None:
                del sequence.drafts[sequence.grammar.count_legal(sequence.drafts) :]

    # Ends

    def _abandon(self, plan: Plan, error: Exception) -> None:
        self.scheduler.abandon(plan)
        followers = self.runner.followers
        if self._has_failed or (followers is not None and followers.has_failed):
            raise error
        self._has_failed = True
        log.error("a step failed, and its %d requests with it", len(plan.parts), exc_info=error)
        for part in plan.parts:
            self._end(self._job_of(part.sequence), "error", f"{type(error).__name__}: {error}")

    def _end(self, job: _Job, reason: FinishReason, error: str | None = None) -> None:
        """Ends a request before its text does."""
        job.writer.finish(reason)
        self._tell(job, error)

    def _forget(self, job: _Job, reason: FinishReason) -> None:
        self.scheduler.finish(job.sequence, reason)
        self._sampler.forget(job.sequence)
        self._release(job.sequence)
        if self._speculation is not None:
            self._speculation.forget(job.sequence)
        del self._jobs[job.sequence.id]

    def _release(self, sequence: Sequence) -> None:
        if sequence.request.adapter is not None:
            self._known_adapters().release(sequence.generation)

    def _known_adapters(self) -> AdapterRegistry:
        if self.runner.adapters is None:
            raise ValueError("this engine was made without adapters; give its runner a registry")
        return self.runner.adapters

    def _job_of(self, sequence: Sequence) -> _Job:
        return self._jobs[sequence.id]

    def _refuse_unfit(self, request: Request) -> None:
        """What the scheduler does not know of."""
        if request.id in self._jobs:
            raise ValueError(f"a request {request.id!r} runs already; give each an id of its own")
        wrong = next((id_ for id_ in request.prompt if not 0 <= id_ < self.vocab_size), None)
        if wrong is not None:
            raise ValueError(
                f"the prompt has token {wrong}; the vocabulary goes from 0 to "
                f"{self.vocab_size - 1}: is this the model's tokenizer?"
            )
        check_token_params(request.params, self.vocab_size)
        if request.params.stop and self._tokenizer is None:
            raise ValueError("stop strings need a text, and this engine has no tokenizer")
        if request.grammar is not None and self._compiler is None:
            raise ValueError(
                "this model's outputs cannot be held to a grammar: its tokenizer has no token that "
                "ends a text, or its tokens are not made of bytes"
            )
