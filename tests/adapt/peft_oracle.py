"""Four architectures beside PEFT: one random checkpoint in both, adapted by either.

Shapes: B sequences, T tokens.
"""

import copy
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from oracle import SIZES, Pair, pair_of, random_ids, transformers
from torch import Tensor

from pharos.models.family import Task

peft = pytest.importorskip("peft")
warnings.filterwarnings("ignore", module="peft")

WIDE: dict[str, Any] = SIZES | {"intermediate_size": 48}
T5: dict[str, Any] = {
    "vocab_size": 99,
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 48,
    "num_layers": 2,
    "num_heads": 4,
    "decoder_start_token_id": 0,
}


class Kind(NamedTuple):
    """A network, its head, and the names of two of its linears."""

    config: Any
    head: str
    task_type: str
    targets: list[str]
    task: Task | None = None


KINDS = {
    "llama": Kind(
        transformers.LlamaConfig(**WIDE), "ForCausalLM", "CAUSAL_LM", ["q_proj", "down_proj"]
    ),
    "gpt2": Kind(
        transformers.GPT2Config(**SIZES, tie_word_embeddings=True),
        "ForCausalLM",
        "CAUSAL_LM",
        ["c_attn", "c_fc"],
    ),
    "bert": Kind(
        transformers.BertConfig(**WIDE, num_labels=3),
        "ForSequenceClassification",
        "SEQ_CLS",
        ["query", "value"],
    ),
    "llama classifier": Kind(
        transformers.LlamaConfig(**WIDE, num_labels=3),
        "ForSequenceClassification",
        "SEQ_CLS",
        ["q_proj", "v_proj"],
    ),
    "t5": Kind(transformers.T5Config(**T5), "ForSeq2SeqLM", "SEQ_2_SEQ_LM", ["q", "wi"]),
}
IDS_BT = random_ids(2, 7)
TARGET_BT = random_ids(2, 4, seed=1)


def pair(kind: Kind, *, seed: int = 0) -> Pair:
    return pair_of(kind.config, kind.head, task=kind.task, seed=seed)


def ours_of(model: Any, ids_BT: Tensor = IDS_BT) -> Tensor:
    is_seq2seq = hasattr(model, "decode")
    output: Tensor = model(ids_BT, TARGET_BT) if is_seq2seq else model(ids_BT)
    return output


def theirs_of(model: Any, ids_BT: Tensor = IDS_BT) -> Tensor:
    config = getattr(model, "base_model", model).config
    extra = {"decoder_input_ids": TARGET_BT} if config.is_encoder_decoder else {}
    output: Tensor = model(input_ids=ids_BT, **extra).logits
    return output


def peft_model(theirs: Any, config: Any) -> Any:
    """Adapted by PEFT, with all that is trained random: no zero hides a mistake."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = peft.get_peft_model(copy.deepcopy(theirs), config).eval()
    randomize(model, lambda p: p.requires_grad)
    return model


def peft_load(theirs: Any, folder: Path) -> Any:
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*missing adapter keys.*")
        return peft.PeftModel.from_pretrained(copy.deepcopy(theirs), folder).eval()


@torch.no_grad()
def randomize(model: Any, chosen: Callable[[Any], bool], *, seed: int = 3) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        if chosen(parameter):
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
