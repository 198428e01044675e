"""The loss of a language model, without ever holding all of its logits.

Logits are the largest tensor of a training step: 8 rows of 1,024 tokens with a vocabulary of
128,000 are 4 GB in float32, their gradient as much again. But they are only passed through: a
token's loss needs its own V logits and nothing else. So the tokens go through in chunks. For each,
the logits are multiplied out, reduced to the loss, turned into their own gradient where they lie

    loss = logΣexp(z) - z[label]          ∂loss/∂z = softmax(z) - onehot(label)

and multiplied into those of `x` and `weight` at once. What is kept from forward to backward is
these two, and backward only scales them. (Recomputing the logits in backward would keep less, and
cost a fourth matrix product besides the three.)

Label smoothing ε (Szegedy et al. 2015, arXiv:1512.00567) gives the label the share 1 - ε, and ε to
the whole vocabulary evenly.

Shapes: N tokens, C of a chunk, D hidden width, V vocabulary.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import linear
from torch.utils.checkpoint import checkpoint

IGNORED = -100
"""The label of a token that is no target."""

LOGITS_AT_ONCE = 1 << 22
TOKENS_AT_ONCE = 512
"""A chunk has as many tokens as give so many logits, but at least these: each chunk reads the whole
weight and adds to the whole of its gradient, which must be worth it."""


class TokenLoss(NamedTuple):
    """Over all targets: the sum of their losses, and how many had the highest score of all.
    Scalars in float32 (float64 for inputs of that); only the first has a gradient."""

    loss_sum: Tensor
    num_correct: Tensor


def chunked_cross_entropy(
    x_ND: Tensor,
    weight_VD: Tensor,
    labels_N: Tensor,
    *,
    bias: Tensor | None = None,
    chunk: int | None = None,
    label_smoothing: float = 0.0,
) -> TokenLoss:
    """The cross entropy of `x Wᵀ + b` with the labels. Tokens with the label IGNORED count nothing.

    Under autocast the matrix products are in its dtype, everything between them is float32. (In
    float16 those of the gradients are in float32: nothing has scaled them yet.) No gradient is
    computed that nobody asked for: not of a frozen weight, and none under `no_grad`. Backward runs
    once.
    """
    _check(x_ND, weight_VD, labels_N, label_smoothing)
    chunk = chunk_for(len(weight_VD)) if chunk is None else chunk
    asks = torch.is_grad_enabled()
    wants = (
        asks and x_ND.requires_grad,
        asks and weight_VD.requires_grad,
        asks and bias is not None and bias.requires_grad,
    )
    settings = Settings(chunk, label_smoothing, wants)
    loss = _ChunkedCrossEntropy.apply(x_ND, weight_VD, bias, labels_N, settings)  # type: ignore[no-untyped-call]
    return TokenLoss(*loss)


def chunk_for(vocab_size: int) -> int:
    """The tokens of a chunk, unless told otherwise."""
    return max(TOKENS_AT_ONCE, LOGITS_AT_ONCE // vocab_size)


def recomputed_cross_entropy(
    logits_of: Callable[[Tensor], Tensor],
    x_ND: Tensor,
    labels_N: Tensor,
    *,
    chunk: int,
    label_smoothing: float = 0.0,
) -> TokenLoss:
    """The same where the logits are more than one product (an adapter beside the weight, a weight
    in four bits, one that is spread over devices): backward computes each chunk's anew."""

    def loss_of(x_CD: Tensor, labels_C: Tensor) -> tuple[Tensor, Tensor]:
        return cross_entropy_of(logits_of(x_CD), labels_C, label_smoothing=label_smoothing)

    parts = [
        checkpoint(loss_of, x_CD, labels_C, use_reentrant=False)
        for x_CD, labels_C in zip(
            torch.split(x_ND, chunk), torch.split(labels_N, chunk), strict=True
        )
    ]
    losses, corrects = zip(*parts, strict=True)
    return TokenLoss(torch.stack(losses).sum(), torch.stack(corrects).sum())


def plain_cross_entropy(
    x_ND: Tensor,
    weight_VD: Tensor,
    labels_N: Tensor,
    *,
    bias: Tensor | None = None,
    label_smoothing: float = 0.0,
) -> TokenLoss:
    """The twin: all logits at once."""
    _check(x_ND, weight_VD, labels_N, label_smoothing)
    return cross_entropy_of(
        linear(x_ND, weight_VD, bias), labels_N, label_smoothing=label_smoothing
    )


def cross_entropy_of(
    logits_NV: Tensor, labels_N: Tensor, *, label_smoothing: float = 0.0
) -> TokenLoss:
    """Of logits that are there anyway."""
    logits_NV = logits_NV.to(_at_least_float32(logits_NV.dtype))
    loss_sum = torch.nn.functional.cross_entropy(
        logits_NV,
        labels_N,
        ignore_index=IGNORED,
        reduction="sum",
        label_smoothing=label_smoothing,
    )
    return TokenLoss(loss_sum, (logits_NV.argmax(dim=-1) == labels_N).sum().to(loss_sum.dtype))


class Settings(NamedTuple):
    """`wants` says of x, of the weight and of the bias whether a gradient is wanted."""

    chunk: int
    label_smoothing: float
    wants: tuple[bool, bool, bool]


class _ChunkedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x_ND: Tensor,
        weight_VD: Tensor,
        bias_V: Tensor | None,
        labels_N: Tensor,
        settings: Settings,
    ) -> tuple[Tensor, Tensor]:
        dtype = _product_dtype(x_ND)
        with torch.autocast(x_ND.device.type, enabled=False):
            weight = weight_VD.to(dtype)
            gradients = Gradients(x_ND, weight_VD, bias_V, weight, settings.wants)
            loss_sum = x_ND.new_zeros((), dtype=_at_least_float32(dtype))
            num_correct = torch.zeros_like(loss_sum)
            for start in range(0, len(x_ND), settings.chunk):
                rows = slice(start, start + settings.chunk)
                logits_CV = torch.mm(x_ND[rows].to(dtype), weight.T).to(loss_sum.dtype)
                if bias_V is not None:
                    logits_CV += bias_V
                loss, correct = _reduce(logits_CV, labels_N[rows], settings.label_smoothing)
                loss_sum += loss
                num_correct += correct
                gradients.add(rows, logits_CV)
        ctx.gradients = gradients
        ctx.mark_non_differentiable(num_correct)
        return loss_sum, num_correct

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, scale: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.gradients is None:
            raise RuntimeError("backward through chunked_cross_entropy runs once; call it again")
        gradients, ctx.gradients = ctx.gradients, None
        return *gradients.scaled(scale), None, None


class Gradients:
    """Those of the sum of the losses, gathered chunk by chunk; None where not wanted. `weight` is
    the weight as it was multiplied with."""

    def __init__(
        self,
        x_ND: Tensor,
        weight_VD: Tensor,
        bias_V: Tensor | None,
        weight: Tensor,
        wants: tuple[bool, bool, bool],
    ) -> None:
        is_half = weight.dtype == torch.float16
        self.x_ND, self.weight = x_ND, weight_VD.float() if is_half else weight
        self.dtypes = (x_ND.dtype, weight_VD.dtype, None if bias_V is None else bias_V.dtype)
        self.of_x_ND = torch.empty_like(x_ND) if wants[0] else None
        self.of_weight_VD = _sum_like(weight_VD) if wants[1] else None
        self.of_bias_V = _sum_like(bias_V) if bias_V is not None and wants[2] else None

    def add(self, rows: slice, of_logits_CV: Tensor) -> None:
        if self.of_bias_V is not None:
            self.of_bias_V += of_logits_CV.sum(dim=0)
        of_logits_CV = of_logits_CV.to(self.weight.dtype)
        if self.of_x_ND is not None:
            self.of_x_ND[rows] = of_logits_CV @ self.weight
        if self.of_weight_VD is not None:
            x_CD = self.x_ND[rows].to(self.weight.dtype)
            if self.of_weight_VD.dtype == self.weight.dtype:
                self.of_weight_VD.addmm_(of_logits_CV.T, x_CD)
            else:
                self.of_weight_VD += of_logits_CV.T @ x_CD

    def scaled(self, scale: Tensor) -> list[Tensor | None]:
        """In place: they are used once."""
        sums = (self.of_x_ND, self.of_weight_VD, self.of_bias_V)
        return [
            None if of is None else of.mul_(scale).to(dtype)
            for of, dtype in zip(sums, self.dtypes, strict=True)
        ]


def _reduce(logits_CV: Tensor, labels_C: Tensor, label_smoothing: float) -> tuple[Tensor, Tensor]:
    """The sum of the losses, and how many labels have the highest score. Leaves in `logits_CV` the
    gradient of the sum with respect to it."""
    is_target_C = labels_C != IGNORED
    label_C1 = labels_C.where(is_target_C, 0)[:, None]
    highest_C, best_C = logits_CV.max(dim=1)
    logits_CV -= highest_C[:, None]
    score_C = (1 - label_smoothing) * logits_CV.gather(1, label_C1)[:, 0]
    if label_smoothing:
        score_C += label_smoothing * logits_CV.mean(dim=1)
    total_C = logits_CV.exp_().sum(dim=1)
    loss = (total_C.log() - score_C).where(is_target_C, 0).sum()
    weight_C1 = is_target_C[:, None].to(logits_CV.dtype)
    logits_CV *= weight_C1 / total_C[:, None]
    if label_smoothing:
        logits_CV -= weight_C1 * (label_smoothing / logits_CV.shape[1])
    logits_CV.scatter_add_(1, label_C1, weight_C1 * (label_smoothing - 1))
    return loss, (is_target_C & (best_C == labels_C)).sum()


def _product_dtype(x_ND: Tensor) -> torch.dtype:
    """What `x @ W` is computed in here."""
    kind = x_ND.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x_ND.dtype


def _at_least_float32(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


def _sum_like(parameter: Tensor) -> Tensor:
    return torch.zeros_like(parameter, dtype=_at_least_float32(parameter.dtype))


def _check(x_ND: Tensor, weight_VD: Tensor, labels_N: Tensor, label_smoothing: float) -> None:
    if x_ND.ndim != 2 or weight_VD.shape[1:] != x_ND.shape[1:] or labels_N.shape != x_ND.shape[:1]:
        raise ValueError(
            f"x {tuple(x_ND.shape)}, weight {tuple(weight_VD.shape)}, labels "
            f"{tuple(labels_N.shape)}: it must be [N, D], [V, D] and [N]; flatten rows of tokens"
        )
    if not 0 <= label_smoothing < 1:
        raise ValueError(f"label_smoothing is {label_smoothing}; it must be 0 or more, below 1")
