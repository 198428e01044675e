"""The specialists that are at hand, over one shared encoder.

specialists = load_specialists(load_shared_encoder())
specialists.reader        # None where its adapter is not there
"""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from pharos.core.findings import Specialists
from pharos.data.tokenizer import Tokenizer
from pharos.specialists.cards import ADAPTERS, Card, specialist_folder, verified_card
from pharos.specialists.grounding import load_grounding_checker
from pharos.specialists.injection import load_injection_detector
from pharos.specialists.reranker import load_reranker
from pharos.specialists.shared_encoder import SharedEncoder
from pharos.specialists.span_reader import load_span_reader
from pharos.specialists.windows import Pairs

L = TypeVar("L")
Load = Callable[[SharedEncoder, Pairs, Path, Card], L]


def load_specialists(shared: SharedEncoder, adapters: Path = ADAPTERS) -> Specialists:
    """All whose folder is in `adapters`, by the names of `cards.SPECIALISTS`. Raises ModelError for
    one that is damaged, or not for this encoder."""
    pairs = Pairs(Tokenizer.load(shared.folder.path))

    def loaded(name: str, load: Load[L]) -> L | None:
        folder = specialist_folder(name, adapters)
        return None if folder is None else load(shared, pairs, folder, verified_card(folder))

    return Specialists(
        reranker=loaded("reranker", load_reranker),
        reader=loaded("reader", load_span_reader),
        guard=loaded("injection", load_injection_detector),
        grounding=loaded("grounding", load_grounding_checker),
    )
