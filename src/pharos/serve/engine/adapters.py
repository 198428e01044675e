"""The LoRA adapters that requests name: loaded and unloaded while others run.

    adapters = AdapterRegistry(model)
    adapters.load("legal", "adapters/legal")        # PEFT's files
    sequence.generation = adapters.acquire("legal")
    with adapters.route([(sequence.generation, 12)]): ...  # a forward pass over 12 tokens of it
    adapters.release(sequence.generation)

What is loaded never changes: it has a generation, a number that is not used again. A name stands
for its newest generation; sequences keep the one that they began with, and it is forgotten when the
last of them has ended. Generation 0 is the base, without an adapter.
"""

from collections import Counter
from collections.abc import Sequence as Seq
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from pharos.adapt import Adapters, PromptTuningConfig, load_adapter
from pharos.adapt.routing import check_routable
from pharos.core.errors import ModelError
from pharos.models.family import Model

BASE = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadedAdapter:
    name: str
    folder: Path
    generation: int
    num_bytes: int


class AdapterRegistry:
    """The adapters of one served model, of which the registry takes hold: it makes them, and no
    other part of a process may. At most `max_adapters` are in memory, those included that only
    running sequences still need."""

    def __init__(self, model: Model, *, max_adapters: int = 32) -> None:
        self._adapters = Adapters(model)
        self.max_adapters = max_adapters
        self._newest: dict[str, LoadedAdapter] = {}
        self._in_memory: set[int] = set()
        self._num_using: Counter[int] = Counter()
        self._last_generation = BASE

    def load(self, name: str, folder: str | Path) -> LoadedAdapter:
        """An adapter from its folder, under this name from now on. Raises ModelError, and changes
        nothing, for one that does not fit the model or cannot share a batch with others."""
        if len(self._in_memory) >= self.max_adapters:
            raise ModelError(
                f"{len(self._in_memory)} adapters are in memory, as many as there may be; unload "
                f"one before {name!r} is loaded, or wait for the requests that use it to end"
            )
        generation = self._last_generation + 1
        own = _own_name(generation)
        load_adapter(self._adapters, folder, own)
        try:
            self._check(name, own)
        except ModelError:
            self._adapters.remove(own)
            raise
        loaded = LoadedAdapter(
            name=name, folder=Path(folder), generation=generation, num_bytes=self._settle(own)
        )
        self._last_generation = generation
        self._in_memory.add(generation)
        self._replace(name, loaded)
        return loaded

    def unload(self, name: str) -> None:
        """New requests can no longer name it; those that run keep it. Raises ValueError for an
        unknown name."""
        self._check_known(name)
        self._replace(name, None)

    @property
    def num_in_memory(self) -> int:
        return len(self._in_memory)

    def loaded(self) -> list[LoadedAdapter]:
        """Those that a request can name, the oldest first."""
        return list(self._newest.values())

    def acquire(self, name: str | None) -> int:
        """The generation for a new sequence, which has to `release` it. Raises ValueError for an
        unknown name."""
        if name is None:
            return BASE
        self._check_known(name)
        generation = self._newest[name].generation
        self._num_using[generation] += 1
        return generation

    def release(self, generation: int) -> None:
        """A sequence has ended."""
        if generation == BASE:
            return
        assert self._num_using[generation] > 0, f"generation {generation} is not in use"
        self._num_using[generation] -= 1
        self._forget_if_unused(generation)

    def route(self, parts: Seq[tuple[int, int]]) -> AbstractContextManager[None]:
        """Within it, and in this thread, a batch is made of these parts: a generation, and how many
        rows follow for it."""
        if not self._in_memory:
            return nullcontext()
        return self._adapters.route(
            [(None if g == BASE else _own_name(g), num_rows) for g, num_rows in parts]
        )

    def check(self) -> None:
        """What is kept adds up: each generation has a name, or a sequence that uses it."""
        named = {loaded.generation for loaded in self._newest.values()}
        using = {generation for generation, count in self._num_using.items() if count}
        assert self._in_memory == named | using, (self._in_memory, named, using)
        assert set(self._adapters.configs) == {_own_name(g) for g in self._in_memory}

    def _check(self, name: str, own: str) -> None:
        if isinstance(self._adapters.configs[own], PromptTuningConfig):
            raise ModelError(
                f"adapter {name!r} is a prompt, whose tokens stand in front of every text; the "
                "engine serves LoRA, DoRA and bottlenecks: train one of these"
            )
        check_routable(self._adapters.model, [name] if own in self._adapters.in_experts else [])

    def _settle(self, own: str) -> int:
        """Ready to compute: in the type of the model, DoRA's lengths computed. Its bytes."""
        self._adapters.activate()
        dtype = self._adapters.model.dtype
        self._adapters.freeze(own)
        parts = [part.to(dtype) for part in self._adapters.parts(own)]
        return sum(p.nbytes for part in parts for p in part.parameters())

    def _replace(self, name: str, loaded: LoadedAdapter | None) -> None:
        before = self._newest.pop(name, None)
        if loaded is not None:
            self._newest[name] = loaded
        if before is not None:
            self._forget_if_unused(before.generation)

    def _forget_if_unused(self, generation: int) -> None:
        is_named = any(loaded.generation == generation for loaded in self._newest.values())
        if not is_named and not self._num_using[generation]:
            del self._num_using[generation]
            self._in_memory.remove(generation)
            self._adapters.remove(_own_name(generation))

    def _check_known(self, name: str) -> None:
        if name not in self._newest:
            known = ", ".join(self._newest) or "none"
            raise ValueError(f"there is no adapter {name!r}; loaded are {known}")


def _own_name(generation: int) -> str:
    """In the model: a name from outside may hold anything."""
    return f"generation-{generation}"
