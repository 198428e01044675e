"""What a completion is worth: by a reward model, a Python function, or a verifier.

A score is given by whoever sees completions as ids, all of a rollout at once (`Scorer`). Functions
on texts become one with `of_texts`:

    def short(text: str, answer: str) -> float:
        return 1.0 if len(text) < 80 else 0.0

    scorer = of_texts(short, tokenizer)
"""

import importlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal, NamedTuple, cast

import torch

from pharos.core.errors import TrainingError
from pharos.data.rows import Row
from pharos.data.shard_index import vocabulary_fingerprint
from pharos.data.tokenizer import Tokenizer
from pharos.models.family import Model
from pharos.models.heads import Reward
from pharos.models.load import load_model
from pharos.models.resolve import find_model


class Completion(NamedTuple):
    """`prompt` is the row that was asked with, and `ids` what was said, its EOS included;
    `is_truncated` tells that there is none: it was too long."""

    prompt: Row
    ids: tuple[int, ...]
    is_truncated: bool


Scorer = Callable[[Sequence[Completion]], Sequence[float]]
TextScore = Callable[[str, str], float]
"""From what was said and the answer that the data has (or ""), to a score."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RewardSection:
    """One of three: a `verifier` compares with the data's answer; `model` is the folder of a reward
    model; `function` is a Python function, `package.module:name`, from the text that was said and
    the answer to a number."""

    verifier: Literal["final_number", "exact"] | None = None
    model: str | None = None
    function: str | None = None

    def __post_init__(self) -> None:
        given = [k for k in ("verifier", "model", "function") if getattr(self, k) is not None]
        if len(given) != 1:
            raise ValueError(
                f"{' and '.join(given) or 'nothing'} given; name one of verifier (final_number, "
                "exact), model (a folder) and function (package.module:name)"
            )

    def scorer(self, tokenizer: Tokenizer, *, device: torch.device) -> Scorer:
        """Raises TrainingError for a function that cannot be found, and for a reward model that
        reads other ids than the tokenizer's."""
        if self.verifier is not None:
            return of_texts(VERIFIERS[self.verifier], tokenizer)
        if self.function is not None:
            return of_texts(_imported(self.function), tokenizer)
        assert self.model is not None
        model = load_model(self.model, task="reward", dtype=torch.float32, device=device)
        _check_vocabulary(self.model, model, tokenizer)
        return RewardModelScorer(cast(Reward, model))


def _check_vocabulary(name: str, model: Model, tokenizer: Tokenizer) -> None:
    """By the tokenizer beside the reward model, or, where there is none, by its size."""
    folder = find_model(name).path
    if (folder / "tokenizer.json").is_file():
        is_same = vocabulary_fingerprint(Tokenizer.load(folder)) == vocabulary_fingerprint(
            tokenizer
        )
    else:
        is_same = model.config.vocab_size >= tokenizer.vocab_size
    if not is_same:
        raise TrainingError(
            f"objective.reward.model {name} has another vocabulary than the model that is trained, "
            "and would misread what that says; name a reward model made with the same tokenizer"
        )


def of_texts(score: TextScore, tokenizer: Tokenizer) -> Scorer:
    """Special tokens are left out of the text."""

    def scorer(completions: Sequence[Completion]) -> list[float]:
        return [float(score(tokenizer.decode(c.ids), answer_of(c))) for c in completions]

    return scorer


def answer_of(completion: Completion) -> str:
    """What the data says, or ""."""
    answer = completion.prompt.get("answer")
    return "" if answer is None else str(answer)


class RewardModelScorer:
    """Reads prompt and completion; what it was trained to see last must be there: a truncated
    completion is scored as it stands."""

    def __init__(self, model: Reward, *, batch_size: int = 32) -> None:
        self.model, self.batch_size = model.eval().requires_grad_(False), batch_size

    @torch.no_grad()
    def __call__(self, completions: Sequence[Completion]) -> list[float]:
        scores: list[float] = []
        for first in range(0, len(completions), self.batch_size):
            scores += self._of_batch(completions[first : first + self.batch_size])
        return scores

    def _of_batch(self, completions: Sequence[Completion]) -> list[float]:
        device = self.model.score.weight.device
        texts = [[*c.prompt["prompt_ids"].tolist(), *c.ids] for c in completions]
        lengths_B = torch.tensor([len(text) for text in texts])
        ids_BT = torch.zeros(len(texts), int(lengths_B.max()), dtype=torch.long)
        for line_T, text in zip(ids_BT, texts, strict=True):
            line_T[: len(text)] = torch.tensor(text)
        scores_B1 = self.model(ids_BT.to(device), last_B=(lengths_B - 1).to(device))
        found: list[float] = scores_B1[:, 0].float().tolist()
        return found


# -- verifiers

NUMBER = re.compile(r"(?:(?<![\w)])-)?\d[\d,]*(?:\.\d+)?")
"""A dash behind a digit, a letter or a bracket is no sign: the last of `10-7` is 7."""


def final_number(text: str, answer: str) -> float:
    """1 if the last number of the text is the last of the answer, as in GSM8K (Cobbe et al. 2021,
    arXiv:2110.14168): `1,000` is `1000`, and `72.0` is `72`."""
    found, wanted = last_number(text), last_number(answer)
    return float(found is not None and found == wanted)


def exact(text: str, answer: str) -> float:
    """1 if the text is the answer, blanks around it aside."""
    return float(text.strip() == answer.strip())


def last_number(text: str) -> Decimal | None:
    numbers = NUMBER.findall(text)
    return Decimal(numbers[-1].replace(",", "")) if numbers else None


VERIFIERS: dict[str, TextScore] = {"final_number": final_number, "exact": exact}


def _imported(name: str) -> TextScore:
    module, _, function = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise TrainingError(
            f"objective.reward.function {name!r} cannot be imported ({error}); write it as "
            "package.module:name, and run where Python finds the package"
        ) from error
    return cast(TextScore, found)
