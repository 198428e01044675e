"""The specialists that are at hand, over one shared encoder.

specialists = load_specialists(load_shared_encoder())
specialists.reader        # None where its adapter is not there
"""

from collections.abc import Callable
from functools import cached_property, partial
from pathlib import Path
from typing import TypeVar

from pharos.core.findings import Specialists
from pharos.data.tokenizer import Tokenizer
from pharos.specialists.cards import ADAPTERS, Card, specialist_folder, verified_card
from pharos.specialists.grounding import WindowGroundingChecker, load_grounding_checker
from pharos.specialists.injection import InjectionDetector, load_injection_detector
from pharos.specialists.reranker import WindowReranker, load_reranker
from pharos.specialists.shared_encoder import SharedEncoder
from pharos.specialists.span_reader import SpanReader, SpanReaderConfig, load_span_reader
from pharos.specialists.windows import Pairs

L = TypeVar("L")
Load = Callable[[SharedEncoder, Pairs, Path, Card], L]


class ShippedTeam:
    """A `core.Team` of those whose folder is in `adapters`, each loaded when it is first asked.
    Raises ModelError then for one that is damaged, or not for this encoder."""

    def __init__(
        self,
        shared: SharedEncoder,
        adapters: Path = ADAPTERS,
        *,
        reading: SpanReaderConfig | None = None,
    ) -> None:
        self._shared, self._adapters, self._reading = shared, adapters, reading
        self._pairs = Pairs(Tokenizer.load(shared.folder.path))

    @cached_property
    def reranker(self) -> WindowReranker | None:
        return self._loaded("reranker", load_reranker)

    @cached_property
    def reader(self) -> SpanReader | None:
        return self._loaded("reader", partial(load_span_reader, config=self._reading))

    @cached_property
    def guard(self) -> InjectionDetector | None:
        return self._loaded("injection", load_injection_detector)

    @cached_property
    def grounding(self) -> WindowGroundingChecker | None:
        return self._loaded("grounding", load_grounding_checker)

    def _loaded(self, name: str, load: Load[L]) -> L | None:
        folder = specialist_folder(name, self._adapters)
        if folder is None:
            return None
        return load(self._shared, self._pairs, folder, verified_card(folder))


def load_specialists(
    shared: SharedEncoder, adapters: Path = ADAPTERS, *, reading: SpanReaderConfig | None = None
) -> Specialists:
    """All whose folder is in `adapters`, now. Raises ModelError for one that is damaged, or not for
    this encoder."""
    team = ShippedTeam(shared, adapters, reading=reading)
    return Specialists(
        reranker=team.reranker,
        reader=team.reader,
        guard=team.guard,
        grounding=team.grounding,
    )
