"""llama.cpp with many sequences at a time: what its server does with its slots, without the server.

The package that brings llama.cpp to Python has a server that holds a lock while it answers, so it
answers one request at a time. The library under it batches. Each step here decodes the newest token
of every slot that writes, then as much of the prompts of the others as fits: the order of its own
server with `--cont-batching`, without HTTP, text and sampling, which would cost it time.
"""

import ctypes
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

CELLS = 256
"""llama.cpp makes room for a multiple of so many tokens in each sequence."""


@dataclass(slots=True)
class Slot:
    """A sequence that is read and then written. `unread` are tokens that were not computed yet."""

    request: int
    unread: deque[int]
    num_computed: int = 0
    written: list[int] = field(default_factory=list)


class LlamaCppSlots:
    """`num_slots` sequences, each of at most `slot_len` tokens with what is written."""

    def __init__(
        self, path: Path, *, num_slots: int, slot_len: int, threads: int, batch_tokens: int = 2048
    ) -> None:
        self._lib: Any = import_module("llama_cpp")
        self._quiet = self._lib.llama_log_callback(lambda *_: None)
        self._lib.llama_log_set(self._quiet, ctypes.c_void_p(0))
        self._lib.llama_backend_init()
        model = self._lib.llama_model_load_from_file(
            str(path).encode(), self._lib.llama_model_default_params()
        )
        params = self._lib.llama_context_default_params()
        params.n_ctx = num_slots * (-(-slot_len // CELLS) * CELLS)
        params.n_seq_max = num_slots
        params.n_batch = batch_tokens
        params.n_threads = params.n_threads_batch = threads
        params.kv_unified = False  # as its header advises where no long prefix is shared
        self._context = self._lib.llama_init_from_model(model, params)
        assert model is not None and self._context is not None, f"llama.cpp cannot load {path}"
        self._batch = self._lib.llama_batch_init(batch_tokens, 0, 1)
        self._batch_tokens = batch_tokens
        vocabulary = self._lib.llama_model_get_vocab(model)
        self._vocab_size: int = self._lib.llama_vocab_n_tokens(vocabulary)

    def run(
        self, prompts: Sequence[Sequence[int]], count: int, *, at_a_time: int
    ) -> list[list[int]]:
        """The `count` tokens that follow each prompt, greedily."""
        waiting = deque(enumerate(prompts))
        free = list(range(at_a_time))
        busy: dict[int, Slot] = {}
        written: list[list[int]] = [[] for _ in prompts]
        while waiting or busy:
            while waiting and free:
                request, prompt = waiting.popleft()
                busy[free.pop()] = Slot(request, deque(prompt))
            for number in self._step(busy):
                slot = busy[number]
                if len(slot.written) == count:
                    written[slot.request] = slot.written
                    del busy[number]
                    free.append(number)
                    memory = self._lib.llama_get_memory(self._context)
                    self._lib.llama_memory_seq_rm(memory, number, -1, -1)
        return written

    def _step(self, busy: dict[int, Slot]) -> list[int]:
        """Computes a batch; the slots that have a token more."""
        batch, rows = self._batch, 0
        ends: dict[int, int] = {}
        for number in sorted(busy, key=lambda number: len(busy[number].unread)):
            slot = busy[number]
            while slot.unread and rows < self._batch_tokens:
                batch.token[rows] = slot.unread.popleft()
                batch.pos[rows] = slot.num_computed
                batch.n_seq_id[rows] = 1
                batch.seq_id[rows][0] = number
                batch.logits[rows] = not slot.unread
                if not slot.unread:
                    ends[number] = rows
                slot.num_computed += 1
                rows += 1
        batch.n_tokens = rows
        code = self._lib.llama_decode(self._context, batch)
        assert code == 0, f"llama_decode gave {code}"
        for number, row in ends.items():
            newest = self._likeliest(row)
            busy[number].written.append(newest)
            busy[number].unread.append(newest)
        return list(ends)

    def _likeliest(self, row: int) -> int:
        logits = self._lib.llama_get_logits_ith(self._context, row)
        return int(np.ctypeslib.as_array(logits, shape=(self._vocab_size,)).argmax())
