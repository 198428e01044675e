"""A family beside `transformers`: the same random weights in both, and what must agree.

    pair = pair_of(LlamaConfig(**SIZES))
    ids = random_ids(2, 40)
    assert_close(pair.ours(ids), pair.theirs_of(ids))
    assert_same_gradients(pair, pair.ours(ids), pair.theirs_of(ids))
    assert_saved_for_theirs(pair)

Shapes: B sequences, T tokens.
"""

import copy
import re
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pytest
import torch
from torch import Tensor

from pharos.models.checkpoint import read_weights
from pharos.models.family import Model, Task
from pharos.models.load import family_of, load_model, save_model
from pharos.ops.masks import Causal, Mask, Valid

transformers = pytest.importorskip("transformers")
transformers.utils.logging.disable_progress_bar()
torch.set_num_threads(1)

VOCAB = 99
SIZES: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
"""Of a network so small that a test takes milliseconds; for the configs of `transformers`."""

NOT_COMPARED = {
    "_name_or_path",
    "architectures",
    "dtype",
    "head_dim",  # the shapes of the tensors tell it
    "max_window_layers",  # `layer_types` says it better
    "transformers_version",
}


class Pair(NamedTuple):
    """Two modules with the same weights."""

    theirs: Any
    ours: Model

    def theirs_of(self, ids_BT: Tensor, **inputs: Any) -> Tensor:
        """The first output of theirs: logits, or the hidden states of a body."""
        output: Tensor = self.theirs(ids_BT, **inputs)[0]
        return output


def pair_of(
    config: Any,
    head: str = "ForCausalLM",
    *,
    task: Task | None = None,
    dtype: torch.dtype = torch.float32,
    attention: Literal["eager", "sdpa"] = "eager",
    seed: int = 0,
    prepare: Callable[[Any], None] = lambda theirs: None,
) -> Pair:
    """A random network of `transformers` and ours, loaded from what it saved. `head` is the ending
    of the auto class (`""` for a body); `prepare` may change theirs before it is saved."""
    theirs = random_model(config, head, attention=attention, seed=seed).to(dtype)
    prepare(theirs)
    with tempfile.TemporaryDirectory() as folder:
        theirs.save_pretrained(folder)
        ours = load_model(folder, task=task)
    return Pair(theirs, ours.requires_grad_())


def random_model(config: Any, head: str, *, attention: str = "eager", seed: int = 0) -> Any:
    """Every parameter is random, also those that begin as ones and zeros: none can be mistaken
    for another."""
    torch.manual_seed(seed)
    auto = getattr(transformers, f"AutoModel{head}")
    theirs = auto.from_config(copy.deepcopy(config), attn_implementation=attention).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return theirs


def random_ids(batch: int, length: int, *, vocab: int = VOCAB, seed: int = 0) -> Tensor:
    """Token ids, none of which is padding (0)."""
    return torch.randint(1, vocab, (batch, length), generator=torch.Generator().manual_seed(seed))


class Padded(NamedTuple):
    """A batch of sequences of unequal lengths."""

    ids_BT: Tensor
    valid_BT: Tensor

    @classmethod
    def random(cls, lengths: Sequence[int], side: Literal["left", "right"]) -> "Padded":
        length = max(lengths)
        places_T = torch.arange(length) if side == "right" else torch.arange(length).flip(0)
        valid_BT = places_T < torch.tensor(lengths)[:, None]
        return cls(random_ids(len(lengths), length) * valid_BT, valid_BT)

    @property
    def positions(self) -> Tensor:
        """Counted from each sequence's first token."""
        return (self.valid_BT.cumsum(1) - 1).clamp(min=0)

    @property
    def causal(self) -> Mask:
        return Causal() & Valid(self.valid_BT)

    def for_decoder(self) -> dict[str, Any]:
        """What our decoders take beside the ids."""
        return {"positions_BT": self.positions, "mask": self.causal}

    def for_theirs(self) -> dict[str, Any]:
        """What the decoders of `transformers` take beside the ids."""
        return {"attention_mask": self.valid_BT.long(), "position_ids": self.positions}


def assert_close(
    ours: Tensor, theirs: Tensor, *, within: float = 1e-5, rounding: float = 0.0
) -> None:
    """The length of the difference is at most `within` of theirs, or mere `rounding`."""
    assert ours.shape == theirs.shape
    assert torch.isfinite(ours).all()
    difference = (ours.double() - theirs.double()).norm().item()
    length = theirs.double().norm().item()
    assert difference <= max(within * length, rounding), f"{difference:.2e} beside {length:.2e}"


def assert_same_gradients(
    pair: Pair, ours: Tensor, theirs: Tensor, *, within: float = 1e-5
) -> None:
    """Of one and the same loss of the two outputs, the gradient of every parameter. Theirs are
    written to a file as if they were weights, and ours are taken apart by the weight map. (A key's
    bias has a gradient of rounding only: it changes no share of the attention.)"""
    weights = torch.randn(ours.shape, generator=torch.Generator().manual_seed(1))
    pair.ours.zero_grad()
    pair.theirs.zero_grad()
    (ours * weights).sum().backward()
    (theirs * weights).sum().backward()
    expected = _saved_gradients(pair.theirs)
    prefix = family_of(pair.ours.config.model_type).prefix
    prefix = prefix if any(name.startswith(prefix) for name in expected) else ""
    weight_map = pair.ours.weight_map(prefix)
    rounding = 1e-8 * max(gradient.double().norm().item() for gradient in expected.values())
    for name, parameter in pair.ours.named_parameters():
        source = weight_map[name]
        gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        for theirs_name, part in zip(source.names, source.write(gradient), strict=True):
            assert_close(part, expected[theirs_name], within=within, rounding=rounding)


def _saved_gradients(theirs: Any) -> dict[str, Tensor]:
    gradients = copy.deepcopy(theirs)
    for into, parameter in zip(gradients.parameters(), theirs.parameters(), strict=True):
        into.data = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
    with tempfile.TemporaryDirectory() as folder:
        gradients.save_pretrained(folder)
        return read_weights(Path(folder))


def assert_saved_for_theirs(pair: Pair, *, without: str = "$^") -> None:
    """What we save, `transformers` loads: the same tensors under the same config. `without` is a
    pattern of tensors that theirs has and none of its outputs here needs."""
    with tempfile.TemporaryDirectory() as folder:
        save_model(pair.ours, folder)
        back, report = type(pair.theirs).from_pretrained(folder, output_loading_info=True)
    problems = {name for names in report.values() for name in names if not re.match(without, name)}
    assert not problems
    expected = pair.theirs.state_dict()
    assert back.state_dict().keys() == expected.keys()
    for name, tensor in back.state_dict().items():
        assert torch.equal(tensor, expected[name]) or re.match(without, name), name
    assert changed(pair.theirs.config, back.config) == {}


def changed(before: Any, after: Any) -> dict[str, tuple[Any, Any]]:
    """The settings that are not what they were; what is told beside them may differ."""
    old, new = before.to_dict(), after.to_dict()
    pairs = {name: (old[name], new.get(name)) for name in old.keys() - NOT_COMPARED}
    return {name: (one, other) for name, (one, other) in pairs.items() if not _within(one, other)}


def _within(one: Any, other: Any) -> bool:
    if isinstance(one, dict) and isinstance(other, dict):
        return one.items() <= other.items()
    return bool(one == other)
