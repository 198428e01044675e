"""Learn from pairs which of two answers is better, without a reward model (DPO; Rafailov et al.
2023, arXiv:2305.18290).

How much more likely than the reference the policy makes an answer y to x is its implicit reward,
β · log π(y|x) / π_ref(y|x). With h = log-ratio of the chosen - log-ratio of the rejected, summed
over the tokens of the answers, the loss of a pair is

    sigmoid  -log σ(βh); with label smoothing ε, the chance that a label is wrong,
             -(1 - ε) log σ(βh) - ε log σ(-βh)                                (conservative DPO)
    robust   (-(1 - ε) log σ(βh) + ε log σ(-βh)) / (1 - 2ε), which such labels leave unbiased
             (Chowdhury et al. 2024, arXiv:2403.00409)
    hinge    max(0, 1 - βh)                             (Zhao et al. 2023, arXiv:2305.10425)
    ipo      (h - 1 / 2β)², the log-ratios being means over tokens, so that long answers do not
             have larger ones by their length           (Azar et al. 2023, arXiv:2310.12036)

At first policy and reference are the same model and h is 0, so the first loss is known exactly
(ln 2 with `sigmoid` and `robust`), and checked. That takes dropout off, of the policy as well: it
would only be noise in h.

Only the difference is trained. That the chosen answer's own log-probability falls, while the
rejected one's falls faster, is normal; a weight on the `sft` term (the mean negative log-likelihood
of the chosen tokens) holds it up.

Shapes: B pairs; a batch has the chosen answers in its first B rows and the rejected in its last.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from pharos.data.rows import Row
from pharos.models.family import Task
from pharos.models.heads import CausalLM
from pharos.train.completions import completion_batch, is_said, log_probs_of
from pharos.train.objective import Batch
from pharos.train.objectives.token_loss import with_head
from pharos.train.objectives.vocabulary import Vocabulary
from pharos.train.reference import Reference

PreferenceLoss = Literal["sigmoid", "robust", "hinge", "ipo"]


@dataclass(frozen=True, kw_only=True, slots=True)
class DPOConfig:
    """`beta` holds the policy to its reference: the smaller, the further it may go. `reference` is
    a model's folder; without one, the model's adapter is switched off instead. With `precompute`
    the reference is asked once, before training, and its answers kept on the disk."""

    beta: float = 0.1
    loss: PreferenceLoss = "sigmoid"
    label_smoothing: float = 0.0
    sft_weight: float = 0.0
    reference: str | None = None
    precompute: bool = False

    def __post_init__(self) -> None:
        if self.beta <= 0:
            raise ValueError(f"beta is {self.beta}; it must be positive, mostly 0.01 to 0.5")
        if not 0 <= self.label_smoothing < 0.5:
            raise ValueError(
                f"label_smoothing is {self.label_smoothing}, the chance that a label is wrong; it "
                "must be 0 or more, below 0.5"
            )
        if self.label_smoothing and self.loss in ("hinge", "ipo"):
            raise ValueError(
                f"label_smoothing is {self.label_smoothing}, which the {self.loss} loss has no use "
                "for; set it to 0, or choose the loss sigmoid or robust"
            )
        if self.loss == "robust" and not self.label_smoothing:
            raise ValueError(
                "the robust loss needs label_smoothing, the chance that a label is wrong"
            )
        if self.sft_weight < 0:
            raise ValueError(f"sft_weight is {self.sft_weight}; it must be 0 or more")
        if self.precompute and self.reference is None:
            raise ValueError(
                "precompute needs a reference: name the folder of the model that training begins "
                "with"
            )

    def of_pairs(self, h_B: Tensor) -> Tensor:
        """The loss of each pair from the difference of its log-ratios."""
        return preference_loss(
            h_B, loss=self.loss, beta=self.beta, label_smoothing=self.label_smoothing
        )


def preference_loss(
    h_B: Tensor, *, loss: PreferenceLoss, beta: float, label_smoothing: float = 0.0
) -> Tensor:
    """See the module's text. `[B]`."""
    scaled_B = beta * h_B
    right_B, wrong_B = -logsigmoid(scaled_B), -logsigmoid(-scaled_B)
    if loss == "hinge":
        return (1 - scaled_B).clamp(min=0)
    if loss == "ipo":
        return (h_B - 1 / (2 * beta)).square()
    if loss == "robust":
        difference_B = (1 - label_smoothing) * right_B - label_smoothing * wrong_B
        return difference_B / (1 - 2 * label_smoothing)
    return (1 - label_smoothing) * right_B + label_smoothing * wrong_B


class LogProbs(NamedTuple):
    """Of the chosen and the rejected answers, each `[B]`: sums over their tokens."""

    chosen_B: Tensor
    rejected_B: Tensor

    @classmethod
    def of(cls, sums_2B: Tensor) -> "LogProbs":
        return cls(*sums_2B.chunk(2))


class DPO:
    """Rows are `{"prompt_ids", "chosen_ids", "rejected_ids"}`, the answers without the prompt and
    with their EOS; and `{"chosen_reference", "rejected_reference"}`, log-probabilities that were
    computed before."""

    task: ClassVar[Task] = "causal_lm"
    """What the model is made for."""

    def __init__(
        self, config: DPOConfig, vocabulary: Vocabulary, reference: Reference | None = None
    ) -> None:
        self.config, self.pad_id = config, vocabulary.pad_id
        self.reference = reference or Reference.load(config.reference)

    @property
    def weights(self) -> Mapping[str, float]:
        sft = {"sft": self.config.sft_weight} if self.config.sft_weight else {}
        return {"dpo": 1.0, **sft}

    @property
    def first_loss(self) -> float:
        """Of each pair, while policy and reference are the same."""
        return float(self.config.of_pairs(torch.zeros(1)))

    def example(self, row: Row, generator: np.random.Generator) -> Row:
        return row

    def collate(self, examples: Sequence[Row]) -> Batch:
        batch = pair_batch(examples, pad_id=self.pad_id)
        if "chosen_reference" in examples[0]:
            sums = [example[f"{kind}_reference"] for kind in KINDS for example in examples]
            batch["reference"] = torch.from_numpy(np.array(sums, dtype=np.float32))
        return batch

    def count(self, batch: Batch) -> Mapping[str, int]:
        pairs = len(batch["ids"]) // 2
        chosen = int(is_said(batch)[:pairs].sum())
        return {"dpo": pairs, **({"sft": chosen} if self.config.sft_weight else {})}

    def losses(self, model: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
        """Beside the terms, sums over the pairs: how many are told right (`accuracy`), the
        implicit rewards and their difference (`margin`), and the log-probabilities."""
        # Not restored: what recomputes activations in the backward pass must see the same model.
        policy = with_head(model.eval(), CausalLM, self.task)
        sums_2B = log_probs_of(policy, batch).sum(dim=1)
        ratios = LogProbs.of(sums_2B - self._reference_sums(policy, batch))
        lengths = LogProbs.of(is_said(batch).sum(dim=1))
        is_mean = self.config.loss == "ipo"
        h_B = difference(ratios, lengths) if is_mean else ratios.chosen_B - ratios.rejected_B
        own = LogProbs.of(sums_2B)
        terms = {"dpo": self.config.of_pairs(h_B).sum()}
        if self.config.sft_weight:
            terms["sft"] = -own.chosen_B.sum()
        return terms | self._told(h_B, ratios, own)

    def _reference_sums(self, policy: CausalLM, batch: Batch) -> Tensor:
        if "reference" in batch:
            return batch["reference"]
        return self.reference.log_probs(policy, batch).sum(dim=1)

    @torch.no_grad()
    def _told(self, h_B: Tensor, ratios: LogProbs, own: LogProbs) -> dict[str, Tensor]:
        beta = self.config.beta
        return {
            "accuracy": (h_B > 0).float().sum(),
            "margin": beta * (ratios.chosen_B - ratios.rejected_B).sum(),
            "chosen_reward": beta * ratios.chosen_B.sum(),
            "rejected_reward": beta * ratios.rejected_B.sum(),
            "chosen_log_prob": own.chosen_B.sum(),
            "rejected_log_prob": own.rejected_B.sum(),
        }


KINDS = ("chosen", "rejected")


def difference(ratios: LogProbs, lengths: LogProbs) -> Tensor:
    """Of the mean log-ratios per token."""
    return ratios.chosen_B / lengths.chosen_B - ratios.rejected_B / lengths.rejected_B


def pair_batch(examples: Sequence[Row], *, pad_id: int) -> dict[str, Tensor]:
    """`ids` and `labels`: the prompts with their chosen answers, then with their rejected ones."""
    return completion_batch(
        [example["prompt_ids"] for _ in KINDS for example in examples],
        [example[f"{kind}_ids"] for kind in KINDS for example in examples],
        pad_id=pad_id,
    )
