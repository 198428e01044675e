"""Prompts with their completions: as a batch, and how likely a decoder finds what was said.

What is aligned (DPO, PPO, GRPO) is judged by the log-probabilities of whole completions. Each is
`log softmax(logits)` of the token that was said, in float32, at the temperature 1: what is sampled
elsewhere must be sampled so too.

Shapes: B sequences, T places of the longest, D hidden width, V vocabulary, N places with a label, C
of them in a chunk.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from pharos.adapt import with_prompt
from pharos.core.errors import TrainingError
from pharos.models.heads import CausalLM
from pharos.ops.cross_entropy import chunk_for
from pharos.train.objective import IGNORED, Batch

Ids = Sequence[int] | NDArray[Any]


def completion_batch(
    prompts: Sequence[Ids], completions: Sequence[Ids], *, pad_id: int
) -> dict[str, Tensor]:
    """`ids` and `labels`, `[B, T]`: each place is asked for the next token, where that is one of
    the completion. Raises TrainingError for an empty prompt: the first token of its completion
    would have nothing to be said after."""
    lengths = [len(p) + len(c) - 1 for p, c in zip(prompts, completions, strict=True)]
    ids_BT = np.full((len(prompts), max(lengths)), pad_id, dtype=np.int64)
    labels_BT = np.full_like(ids_BT, IGNORED)
    for i, (prompt, completion) in enumerate(zip(prompts, completions, strict=True)):
        if not len(prompt) or not len(completion):
            empty = "completion" if len(prompt) else "prompt"
            raise TrainingError(
                f"the {empty} of example {i} of a batch has no tokens; a prompt needs at least one "
                "(the tokenizer's BOS, say), and a completion too (its EOS)"
            )
        whole = np.concatenate([np.asarray(prompt), np.asarray(completion)])
        ids_BT[i, : lengths[i]] = whole[:-1]
        labels_BT[i, len(prompt) - 1 : lengths[i]] = completion
    return {"ids": torch.from_numpy(ids_BT), "labels": torch.from_numpy(labels_BT)}


def is_said(batch: Batch) -> Tensor:
    """`[B, T]`: the places whose next token is one of the completion."""
    return batch["labels"] != IGNORED


def log_probs_of(model: CausalLM, batch: Batch) -> Tensor:
    """`[B, T]` in float32, 0 where there is no label."""
    return spoken_log_probs(model, hidden_states(model, batch), batch["labels"])


def hidden_states(model: CausalLM, batch: Batch) -> Tensor:
    """`[B, T, D]`, behind the prompt that an adapter may have trained."""
    x_BTD: Tensor = model.body(with_prompt(model, batch["ids"]))
    return x_BTD[:, -batch["ids"].shape[1] :]


def spoken_log_probs(model: CausalLM, x_BTD: Tensor, labels_BT: Tensor) -> Tensor:
    """The same from hidden states. Only labelled places are scored, and no more of them at once
    than make a chunk: the backward pass computes a chunk's logits anew."""
    is_label_BT = labels_BT != IGNORED
    x_ND, labels_N = x_BTD[is_label_BT], labels_BT[is_label_BT]

    def of_chunk(x_CD: Tensor, labels_C: Tensor) -> Tensor:
        log_probs_CV = model.logits(x_CD).float().log_softmax(dim=-1)
        return log_probs_CV.gather(-1, labels_C[:, None])[:, 0]

    chunk = chunk_for(model.config.vocab_size)
    if len(x_ND) <= chunk:
        found_N = of_chunk(x_ND, labels_N)
    else:
        pairs = zip(torch.split(x_ND, chunk), torch.split(labels_N, chunk), strict=True)
        parts = [
            checkpoint(of_chunk, x_CD, labels_C, use_reentrant=False, preserve_rng_state=False)
            for x_CD, labels_C in pairs
        ]
        found_N = torch.cat(parts)
    log_probs_BT = found_N.new_zeros(labels_BT.shape)
    return log_probs_BT.masked_scatter(is_label_BT, found_N)
