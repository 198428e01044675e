"""A recipe's prompts, as the rows that rollouts begin with."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pharos.core.errors import TrainingError
from pharos.data.order import Shuffled
from pharos.data.records import Record, column, read_records, text_column
from pharos.data.rows import Row, row_generator
from pharos.train.conversation_data import Chat
from pharos.train.data_section import RecordData
from pharos.train.text_data import Data

FOR_PROMPTS = ("ppo", "grpo")
"""Objectives that are given prompts and say the rest themselves."""


class PromptRows:
    """`{"prompt_ids", "answer"}`: the text in the column `data.text` as the user's turn of the chat
    template (without a template, as it stands), and what `data.label` says is right. Raises
    TrainingError for prompts of more than `data.max_tokens`."""

    def __init__(self, records: Sequence[Record], data: RecordData, chat: Chat) -> None:
        texts = [text_column(record, data.text, n) for n, record in enumerate(records)]
        self.prompts = [np.array(chat.prompt_ids(text), dtype=np.int32) for text in texts]
        for number, ids in enumerate(self.prompts):
            if not 0 < len(ids) <= data.max_tokens:
                raise TrainingError(
                    f"record {number}: the prompt has {len(ids)} tokens; it must have 1 to "
                    f"data.max_tokens, {data.max_tokens}: shorten it, or raise data.max_tokens"
                )
        self.answers = [_answer(record, data.label, n) for n, record in enumerate(records)]

    def __len__(self) -> int:
        return len(self.prompts)

    def row(self, index: int, epoch: int) -> Row:
        return {"prompt_ids": self.prompts[index], "answer": np.array(self.answers[index])}


def _answer(record: Record, name: str, number: int) -> str:
    """Nothing where no record is meant to have one."""
    is_meant = name in record or name != RecordData(train="").label
    return str(column(record, name, number)) if is_meant else ""


def prompt_data(data: RecordData, chat: Chat, *, seed: int) -> Data:
    """The stream of prompts, and those held out."""
    found = read_records(data.records)
    if isinstance(data.validation, str):
        kept, held_out = found, read_records(Path(data.validation))
    else:
        order = row_generator("split", seed).permutation(len(found))
        apart = set(order[: round(data.validation * len(found))].tolist())
        kept = [record for i, record in enumerate(found) if i not in apart]
        held_out = [found[i] for i in sorted(apart)]
    rows = PromptRows(kept, data, chat)
    return Data(
        stream=Shuffled(rows, seed),
        validation=PromptRows(held_out, data, chat) if held_out else None,
        summary=f"{len(rows):,} prompts",
    )
