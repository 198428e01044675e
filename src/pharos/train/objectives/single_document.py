"""Rows for models that see a text as a whole, and take all that is in a row for one text."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pharos.core.errors import TrainingError
from pharos.data.packing import PADDING
from pharos.data.rows import Row


def only_document(row: Row, objective: str) -> NDArray[np.integer[Any]]:
    """The ids of a row, without padding. Raises TrainingError where documents share it: the tokens
    of one would see those of the others."""
    ids: NDArray[np.integer[Any]] = row["ids"]
    if "document" not in row:
        return ids
    is_token = row["document"] != PADDING
    num_documents = len(np.unique(row["document"][is_token]))
    if num_documents > 1:
        raise TrainingError(
            f"a row has {num_documents} documents, and {objective} takes a row for one text; "
            "concatenate documents instead of packing them"
        )
    of_document: NDArray[np.integer[Any]] = ids[is_token]
    return of_document
