"""What an adapter is to be: the settings of LoRA (with DoRA), bottleneck adapters and prompts.

The names of the settings, and the modules' names in them, are those of Hugging Face's PEFT.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeVar

from pharos.core.errors import ModelError

T = TypeVar("T")
ALL_LINEAR = "all-linear"
Targets = str | tuple[str, ...]
"""Modules by the checkpoint's names. A tuple holds whole names or their endings (`q_proj`), a
string is a regular expression for the whole name; `all-linear` stands for every linear between the
embedding and the head."""

LONGEST_PATTERN = 200
MOST_REPEATS = 3
REPEAT = re.compile(r"(?<!\()[*+?{]")
RISKY = re.compile(r"\)[*+?{]|\\[1-9]")
"""What may take a regular expression exponentially long, beside many repetitions: repeated groups,
and what refers to them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LoraConfig:
    """Low-rank updates of linears (Hu et al. 2021, arXiv:2106.09685): W + s·B·A with A `[r, in]`
    and B `[out, r]`, which begins as zero.

    s is `lora_alpha / r`; with `use_rslora`, `lora_alpha / √r` (Kalajdzievski 2023,
    arXiv:2312.03732), which keeps its size as r grows. `use_dora` learns the length of each row of
    the sum apart from its direction (Liu et al. 2024, arXiv:2402.09353). `rank_pattern` and
    `alpha_pattern` overrule `r` and `lora_alpha` where a name ends in the pattern.

    `modules_to_save` are trained whole and saved with the adapter; None is a classifier's head.
    `trainable_token_indices` are the ids whose embeddings are trained and saved: new tokens.
    A learning rate of ten times that of full fine-tuning is a good first guess.
    """

    r: int = 8
    lora_alpha: float = 16.0
    lora_dropout: float = 0.0
    target_modules: Targets = ALL_LINEAR
    use_rslora: bool = False
    use_dora: bool = False
    rank_pattern: Mapping[str, int] = field(default_factory=dict)
    alpha_pattern: Mapping[str, float] = field(default_factory=dict)
    modules_to_save: tuple[str, ...] | None = None
    trainable_token_indices: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for name, rank in {"r": self.r, **self.rank_pattern}.items():
            _check(f"rank of {name}" if name != "r" else "r", rank, rank >= 1, "at least 1")
        _check_dropout("lora_dropout", self.lora_dropout)
        for pattern in (*self.rank_pattern, *self.alpha_pattern):
            check_pattern(pattern)

    def rank_of(self, name: str) -> int:
        return by_pattern(self.rank_pattern, name, self.r)

    def alpha_of(self, name: str) -> float:
        return by_pattern(self.alpha_pattern, name, self.lora_alpha)


@dataclass(frozen=True, kw_only=True, slots=True)
class BottleneckConfig:
    """A small network behind a sublayer, added to what it gives: `y + up(act(down(y)))` (Houlsby et
    al. 2019, arXiv:1902.00751). It begins as nothing. The targets are the last linears of attention
    and feed-forward unless named."""

    size: int = 64
    activation: Literal["relu", "gelu", "silu"] = "gelu"
    target_modules: Targets | None = None
    modules_to_save: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        _check("size", self.size, self.size >= 1, "at least 1")


@dataclass(frozen=True, kw_only=True, slots=True)
class PromptTuningConfig:
    """Vectors in front of the text, as if they were tokens (Lester et al. 2021, arXiv:2104.08691).
    They begin as the embeddings of `init_ids`, or of tokens drawn at random."""

    num_virtual_tokens: int = 20
    init_ids: tuple[int, ...] = ()
    modules_to_save: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        number = self.num_virtual_tokens
        _check("num_virtual_tokens", number, number >= 1, "at least 1")


AdapterConfig = LoraConfig | BottleneckConfig | PromptTuningConfig


def matches(pattern: str, name: str) -> bool:
    """Whether a name is, or ends in, what the pattern describes."""
    return re.fullmatch(rf"(?:.*\.)?(?:{pattern})", name) is not None


def by_pattern(patterns: Mapping[str, T], name: str, usual: T) -> T:
    return next((value for pattern, value in patterns.items() if matches(pattern, name)), usual)


def check_pattern(pattern: str) -> None:
    """A pattern may come from a stranger's file. Raises ModelError for one that is no regular
    expression, or could take very long."""
    repeats = len(REPEAT.findall(pattern))
    if len(pattern) > LONGEST_PATTERN or repeats > MOST_REPEATS or RISKY.search(pattern):
        raise ModelError(f"pattern {pattern[:60]!r} is too involved; name the modules instead")
    try:
        re.compile(pattern)
    except re.error as error:
        raise ModelError(f"pattern {pattern!r} is no regular expression: {error}") from error


def _check(name: str, value: object, holds: bool, rule: str) -> None:
    if not holds:
        raise ValueError(f"{name} is {value}; it must be {rule}")


def _check_dropout(name: str, value: float) -> None:
    _check(name, value, 0.0 <= value < 1.0, "at least 0 and below 1")
