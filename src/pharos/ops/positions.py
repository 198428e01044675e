"""Position schemes as objects: how a transformer knows the order of its tokens.

Three places where position enters:

- added to the embedding: `sinusoidal` (Vaswani et al. 2017), or a learned table;
- a rotation of queries and keys: `Rope` (Su et al. 2021, arXiv:2104.09864);
- a bias on the attention scores that depends on the distance alone: `Alibi` (Press et al. 2021,
  arXiv:2108.12409) and `RelativeBuckets` (T5, Raffel et al. 2019, arXiv:1910.10683). Since only the
  distance counts, the bias of a whole sequence is one row of numbers per head (`DistanceBias`), not
  a matrix.

Shapes: B sequences, T positions, H heads, K width of a head, R distances.
"""

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn


class DistanceBias(NamedTuple):
    """What is added to the score of a query at position i and a key at position j, in each head:
    `values_HR[h, j - i + zero]`. The table must reach over all distances that occur."""

    values_HR: Tensor
    zero: int

    def tile(self, q_T: Tensor, k_S: Tensor) -> Tensor:
        """The bias `[H, T, S]` of these queries and keys."""
        return self.values_HR[:, k_S - q_T[:, None] + self.zero]


def distances(num_positions: int, device: torch.device | None = None) -> Tensor:
    """All distances between `num_positions` positions: -(n - 1) to n - 1; zero is at n - 1."""
    return torch.arange(1 - num_positions, num_positions, device=device)


def sinusoidal(num_positions: int, width: int) -> Tensor:
    """The table `[num_positions, width]` of "Attention Is All You Need" (section 3.5): sines in the
    even columns and cosines in the odd ones."""
    return sinusoids(torch.arange(num_positions), width)


def sinusoids(positions_BT: Tensor, width: int) -> Tensor:
    """The rows of that table at these positions: `[B, T, width]`."""
    even_P = torch.arange(0, width, 2, dtype=torch.float64, device=positions_BT.device)
    angle_BTP = positions_BT[..., None] * 10_000.0 ** (-even_P / width)
    pairs_BTP2 = torch.stack((angle_BTP.sin(), angle_BTP.cos()), dim=-1)
    return pairs_BTP2.flatten(-2)[..., :width].float()


# Rotary embeddings

LEAST_THETA = 1.001
"""At a base of 1 all pairs would turn alike, and below it the later ones faster."""
LEAST_TURNS = 1e-6


@dataclass(frozen=True, kw_only=True, slots=True)
class RopeScaling:
    """How RoPE is stretched beyond the length it was trained on.

    `linear` divides the positions by `factor` (Chen et al. 2023, arXiv:2306.15595). `dynamic`
    raises the base with the length of the sequence (NTK-aware): keys that a cache holds keep the
    base of the length at which they came, so there cached and uncached differ. `yarn` slows the low
    frequencies down, leaves the high ones alone, and sharpens the scores (Peng et al. 2023,
    arXiv:2309.00071). `llama3` does the same with other bounds, as Llama 3.1 was trained.
    """

    kind: Literal["linear", "dynamic", "yarn", "llama3"]
    factor: float
    original_max_positions: int
    # yarn
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    attention_factor: float | None = None
    mscale: float | None = None
    mscale_all_dim: float | None = None
    truncate: bool = True
    # llama3
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0

    def __post_init__(self) -> None:
        _check_finite(self, "factor", least=1.0)
        for name in ("attention_factor", "mscale", "mscale_all_dim"):
            if getattr(self, name) is not None:
                _check_finite(self, name, least=0.0)
        for name in ("beta_fast", "beta_slow"):
            _check_finite(self, name, least=LEAST_TURNS)
        for name in ("low_freq_factor", "high_freq_factor"):
            _check_finite(self, name, least=0.0)
        if self.kind == "llama3" and self.high_freq_factor <= self.low_freq_factor:
            raise ValueError(
                f"high_freq_factor {self.high_freq_factor} must be above "
                f"low_freq_factor {self.low_freq_factor}"
            )


def _check_finite(settings: object, name: str, *, least: float) -> None:
    value = getattr(settings, name)
    if type(value) not in (int, float) or not least <= value < math.inf:
        raise ValueError(f"RoPE's {name} is {value!r}; it must be a number, at least {least}")


class Rotation(NamedTuple):
    """Cosines and sines of the angle at each position: `[B, T, K/2]`, or `[1, T, K/2]`."""

    cos: Tensor
    sin: Tensor

    def __call__(self, x_BHTK: Tensor) -> Tensor:
        """Rotate each head's pairs (i, i + K/2); what lies beyond the rotated width is kept."""
        cos_B1TP, sin_B1TP = self.cos[:, None], self.sin[:, None]
        half = cos_B1TP.shape[-1]
        one, two, rest = x_BHTK[..., :half], x_BHTK[..., half : 2 * half], x_BHTK[..., 2 * half :]
        turned = (one * cos_B1TP - two * sin_B1TP, two * cos_B1TP + one * sin_B1TP, rest)
        return torch.cat(turned if rest.shape[-1] else turned[:2], dim=-1)


@dataclass(frozen=True, kw_only=True, slots=True)
class Rope:
    """Rotary position embedding over the first `width` entries of a head (all of them in most
    models). Queries and keys rotated by it meet with a score that depends on their distance only.
    """

    width: int
    theta: float = 10_000.0
    scaling: RopeScaling | None = None

    def __post_init__(self) -> None:
        if self.width < 2 or self.width % 2:
            raise ValueError(f"RoPE rotates pairs: a width of {self.width} is not even")
        _check_finite(self, "theta", least=LEAST_THETA)
        if self.width == 2 and self.scaling is not None and self.scaling.kind == "dynamic":
            raise ValueError("dynamic RoPE scaling leaves the first pair alone: width 2 is no more")

    def rotation(self, positions_BT: Tensor, *, dtype: torch.dtype = torch.float32) -> Rotation:
        """The rotation at these positions, computed in float32 and given in `dtype`."""
        frequencies, sharpness = self.frequencies(positions_BT.amax(dim=1, keepdim=True) + 1)
        angle_BTP = positions_BT[..., None].float() * frequencies
        cos, sin = angle_BTP.cos() * sharpness, angle_BTP.sin() * sharpness
        return Rotation(cos.to(dtype), sin.to(dtype))

    def frequencies(self, length_B1: Tensor) -> tuple[Tensor, float]:
        """Radians per position of each pair, for sequences of these lengths, and the factor on
        cosines and sines: `[width / 2]`, or `[B, 1, width / 2]` where the length matters. They are
        computed where the lengths are: a pass that is recorded as a CUDA graph copies nothing from
        the host."""
        scaling, plain_P = self.scaling, self._plain(self.theta, length_B1.device)
        if scaling is None:
            return plain_P, 1.0
        if scaling.kind == "linear":
            return plain_P / scaling.factor, 1.0
        if scaling.kind == "dynamic":
            return self._dynamic(scaling, length_B1), 1.0
        if scaling.kind == "llama3":
            return self._llama3(scaling, plain_P), 1.0
        return self._yarn(scaling, plain_P)

    def _plain(self, theta: float | Tensor, device: torch.device) -> Tensor:
        steps_P = torch.arange(0, self.width, 2, dtype=torch.int64, device=device)
        frequencies_P: Tensor = 1.0 / theta ** (steps_P.float() / self.width)
        return frequencies_P

    def _dynamic(self, scaling: RopeScaling, length_B1: Tensor) -> Tensor:
        trained = scaling.original_max_positions
        reach_B1 = length_B1.clamp(min=trained) / trained
        stretch_B1 = scaling.factor * reach_B1 - (scaling.factor - 1)
        theta_B1 = self.theta * stretch_B1 ** (self.width / (self.width - 2))
        return self._plain(theta_B1[..., None], length_B1.device)

    def _llama3(self, scaling: RopeScaling, frequencies_P: Tensor) -> Tensor:
        """Wavelengths above a bound are stretched, those below another kept, a blend between."""
        turns_P = scaling.original_max_positions * frequencies_P / (2 * math.pi)
        span = scaling.high_freq_factor - scaling.low_freq_factor
        kept_P = ((turns_P - scaling.low_freq_factor) / span).clamp(0.0, 1.0)
        return (1 - kept_P) * frequencies_P / scaling.factor + kept_P * frequencies_P

    def _yarn(self, scaling: RopeScaling, frequencies_P: Tensor) -> tuple[Tensor, float]:
        low, high = self._pair_turning(scaling.beta_fast), self._pair_turning(scaling.beta_slow)
        if scaling.truncate:
            low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0), min(high, self.width - 1)
        pairs_P = torch.arange(self.width // 2, device=frequencies_P.device)
        ramp_P = (pairs_P.float() - low) / max(high - low, 1e-3)
        kept_P = 1.0 - ramp_P.clamp(0.0, 1.0)
        stretched_P = frequencies_P / scaling.factor
        return (1 - kept_P) * stretched_P + kept_P * frequencies_P, _yarn_sharpness(scaling)

    def _pair_turning(self, turns: float) -> float:
        """The (fractional) index of the pair that turns so many times in the trained length."""
        length = _trained_length(self.scaling)
        return self.width * math.log(length / (turns * 2 * math.pi)) / (2 * math.log(self.theta))


def _trained_length(scaling: RopeScaling | None) -> int:
    assert scaling is not None
    return scaling.original_max_positions


def _yarn_sharpness(scaling: RopeScaling) -> float:
    """The square root of the temperature that YaRN puts on the scores."""
    if scaling.attention_factor is not None:
        return scaling.attention_factor
    if scaling.mscale and scaling.mscale_all_dim:
        over = _log_scale(scaling.factor, scaling.mscale)
        return over / _log_scale(scaling.factor, scaling.mscale_all_dim)
    return _log_scale(scaling.factor, 1.0)


def _log_scale(factor: float, weight: float) -> float:
    return 0.1 * weight * math.log(factor) + 1.0 if factor > 1 else 1.0


# Biases on the scores


@dataclass(frozen=True, slots=True)
class Alibi:
    """Attention with linear biases: a score falls by the distance times the head's slope."""

    num_heads: int

    @property
    def slopes(self) -> Tensor:
        """`[H]`: 2^(-8 i / H); between two powers of two, every other slope of the next power."""
        power = 2 ** math.floor(math.log2(self.num_heads))
        slopes = [2.0 ** (-8.0 * i / power) for i in range(1, power + 1)]
        extra = [2.0 ** (-4.0 * i / power) for i in range(1, 2 * (self.num_heads - power), 2)]
        return torch.tensor(slopes + extra)

    def bias(self, num_positions: int, device: torch.device | None = None) -> DistanceBias:
        distance_R = distances(num_positions, device)
        slopes_H1 = self.slopes.to(distance_R.device)[:, None]
        return DistanceBias(-slopes_H1 * distance_R.abs(), num_positions - 1)


class RelativeBuckets(nn.Module):
    """T5's relative positions: a learned bias per head for each bucket of distances. Half of the
    buckets hold one distance each; the others grow logarithmically up to `max_distance`."""

    def __init__(
        self, *, num_heads: int, num_buckets: int = 32, max_distance: int = 128, causal: bool
    ) -> None:
        super().__init__()
        self.num_buckets, self.max_distance, self.causal = num_buckets, max_distance, causal
        self.weight = nn.Parameter(torch.empty(num_buckets, num_heads))
        nn.init.normal_(self.weight, std=0.02)

    def bias(self, num_positions: int) -> DistanceBias:
        distance_R = distances(num_positions, self.weight.device)
        return DistanceBias(self.weight[self.bucket(distance_R)].T, num_positions - 1)

    def bucket(self, distance_R: Tensor) -> Tensor:
        """The bucket of each distance (key minus query)."""
        num_buckets, first = self.num_buckets, torch.zeros_like(distance_R)
        if self.causal:
            away_R = (-distance_R).clamp(min=0)
        else:
            num_buckets //= 2
            first, away_R = (distance_R > 0).long() * num_buckets, distance_R.abs()
        exact = num_buckets // 2
        ratio_R = (away_R.float().clamp(min=1) / exact).log() / math.log(self.max_distance / exact)
        far_R = (exact + (ratio_R * (num_buckets - exact)).long()).clamp(max=num_buckets - 1)
        return first + torch.where(away_R < exact, away_R, far_R)
