"""A trace as a picture: one HTML file that needs nothing else and asks no network for anything.

    path.write_text(trace_page(trace(model, ids), tokenizer, name="my-model"), encoding="utf-8")

The page is `trace_page.html` with the trace inside as JSON. What a model or a user wrote reaches it
as data only: its script puts it on the page as text, and its content security policy runs no other
script, loads nothing, and sends nothing.

Attention is kept in 8 bits, as the square root of each share, so that small ones are still told
apart; of the square of tokens, only the half that a decoder sees.
"""

import base64
import hashlib
import html
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pharos.data.tokenizer import Tokenizer
from pharos.models.trace import Stage, Trace

TEMPLATE = Path(__file__).with_name("trace_page.html")
PLACE = re.compile(r"\{\{(policy|title|trace)\}\}")
LEVELS = 255
INVISIBLE = re.compile(r"[ \n\r\t]")
"""What the page has a sign for."""

EXPLAINED = {
    "embedding": "A table has a row for each token of the vocabulary; each token takes its own.",
    "position": "Another row, for the place where the token stands, is added.",
    "attention_norm": "Each vector is brought to one scale, so that none drowns the others.",
    "qkv": "One product makes queries, keys and values: what a token looks for, what it offers, "
    "and what it hands over.",
    "query": "Queries: what each token looks for.",
    "key": "Keys: what each token offers to those that look.",
    "value": "Values: what a token hands over when it is looked at.",
    "query_norm": "Each head's queries are brought to one scale.",
    "key_norm": "Each head's keys are brought to one scale.",
    "q": "The queries, head by head, knowing where they stand.",
    "k": "The keys. Several heads may share one.",
    "v": "The values.",
    "weights": "Query times key, and a softmax: how each head shares out its attention. "
    "This is what the picture above shows.",
    "out": "The heads' findings are joined and mixed, and added to what the token was.",
    "mlp_norm": "Once more, to one scale.",
    "gate": "A gate, between nothing and all, for each inner feature.",
    "up": "The feed-forward network looks at each token by itself, in more dimensions.",
    "down": "Back to the width of the model, and added to what the token was. So a block ends.",
    "router": "A score for each expert: the tokens choose among several networks.",
    "expert": "An expert, and the tokens that chose it.",
    "norm": "After the last block, one more time to one scale.",
    "logits": "A score for every token of the vocabulary to come next; a softmax makes it a "
    "probability.",
}
"""By the last part of a stage's name."""


def trace_page(trace: Trace, tokenizer: Tokenizer, *, name: str) -> str:
    """The page, of a model that is called `name`."""
    template = TEMPLATE.read_text(encoding="utf-8")
    parts = {
        "policy": _policy(template),
        "title": html.escape(f"{name}: a forward pass"),
        "trace": _embedded(page_data(trace, tokenizer, name=name)),
    }
    return PLACE.sub(lambda place: parts[place[1]], template)


def page_data(trace: Trace, tokenizer: Tokenizer, *, name: str) -> dict[str, Any]:
    """What the page's script is told."""
    num_layers, num_heads = trace.attention_LHTT.shape[:2]
    mentioned = sorted(set(trace.candidates_NTC.flatten().tolist()))
    return {
        "model": name,
        "tokens": [token_text(tokenizer, id_) for id_ in trace.ids],
        "ids": list(trace.ids),
        "first": trace.first,
        "num_new": trace.num_new,
        "num_layers": num_layers,
        "num_heads": num_heads,
        "attention": _base64(quantized(trace)),
        "num_candidates": trace.candidates_NTC.shape[2],
        "candidates": _base64(trace.candidates_NTC.numpy().astype("<i4")),
        "shares": _base64(trace.shares_NTC.numpy().astype("<f4")),
        "texts": {str(id_): token_text(tokenizer, id_) for id_ in mentioned},
        "stages": [_stage_data(stage) for stage in trace.stages],
    }


def quantized(trace: Trace) -> NDArray[np.uint8]:
    """For each layer, head and token in turn: the share of what came before the first token, of
    the first, and so on up to the token's own; as the square root, times 255."""
    shares_LHTC = torch.cat((trace.before_LHT[..., None], trace.attention_LHTT), dim=-1)
    num_tokens, num_columns = shares_LHTC.shape[2:]
    row, column = torch.tril_indices(num_tokens, num_columns, offset=1)
    levels: Tensor = (shares_LHTC[:, :, row, column].sqrt() * LEVELS).round()
    return levels.numpy().astype(np.uint8)


def token_text(tokenizer: Tokenizer, id_: int) -> str:
    """A token as it reads in a text, with its blank in front; as the vocabulary writes it where
    that cannot be seen (one byte of a character, say)."""
    token = tokenizer.token(id_)
    if token is None:
        return f"#{id_}"
    text = tokenizer.decode([id_], skip_special=False)
    if not text or "\ufffd" in text or not INVISIBLE.sub("", text).isprintable():
        return token
    return f" {text}" if token.startswith("▁") and not text.startswith(" ") else text


def _stage_data(stage: Stage) -> dict[str, Any]:
    kind = "expert" if ".experts." in stage.name else stage.name.rpartition(".")[2]
    return {
        "name": stage.name.removeprefix("blocks.0."),
        "in_block": stage.name.startswith("blocks.") or stage.name in ("q", "k", "v", "weights"),
        "axes": stage.axes,
        "num_parameters": stage.num_parameters,
        "explained": EXPLAINED.get(kind, ""),
    }


def _policy(template: str) -> str:
    """Runs the template's own style and script, known by their hashes, and nothing else."""
    hashes = {
        tag: base64.b64encode(hashlib.sha256(_inside(template, tag).encode()).digest()).decode()
        for tag in ("style", "script")
    }
    own = "; ".join(f"{tag}-src 'sha256-{digest}'" for tag, digest in hashes.items())
    return f"default-src 'none'; base-uri 'none'; form-action 'none'; {own}"


def _inside(template: str, tag: str) -> str:
    found = re.search(rf"<{tag}>(.*?)</{tag}>", template, flags=re.S)
    assert found is not None, tag
    return found[1]


def _embedded(data: dict[str, Any]) -> str:
    """JSON in ASCII, of which no character means anything to an HTML parser."""
    text = json.dumps(data, separators=(",", ":"))
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _base64(array: NDArray[Any]) -> str:
    return base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()
