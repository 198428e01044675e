"""How many parameters, and how many tokens, a budget of compute should buy.

A loss surface `L(N, D) = E + A / N^α + B / D^β` (Hoffmann et al. 2022, arXiv:2203.15556, approach
3) and compute `C = 6 N D` have one optimum: the derivatives along `N D = C / 6` vanish where
`α A / N^α = β B / D^β`, so

    N = G (C / 6)^(β / (α + β))        D = (C / 6) / N        G = (α A / (β B))^(1 / (α + β))

The constants that the paper prints contradict its own conclusion: at the compute of Chinchilla they
ask for 93 tokens per parameter, where the paper's other approaches, and the model it trained, have
20. Besiroglu et al. 2024 (arXiv:2404.10102) fitted the paper's data again and found why; their
constants are `REFIT`, the default here. The printed ones stay, to be shown beside them.

Kaplan et al. 2020 (arXiv:2001.08361) have compute go mostly into parameters. They counted without
embeddings, on small models, which explains the difference (arXiv:2406.12907); their loss is that of
another corpus, and is not compared.
"""

from dataclasses import dataclass

FLOPS_PER_PARAMETER_AND_TOKEN = 6
"""Two of the forward pass, four of the backward pass."""
PETAFLOP_DAY = 1e15 * 86_400


@dataclass(frozen=True, kw_only=True, slots=True)
class Optimum:
    """The best use of some compute. `loss` is None where the law has none to compare."""

    parameters: float
    tokens: float
    loss: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class ScalingLaw:
    """`L(N, D) = irreducible + A / N^alpha + B / D^beta`, in nats per token."""

    name: str
    irreducible: float
    A: float
    B: float
    alpha: float
    beta: float

    def __post_init__(self) -> None:
        for name in ("A", "B", "alpha", "beta"):
            if not getattr(self, name) > 0:
                raise ValueError(
                    f"the law {self.name} has {name} = {getattr(self, name):.4g}; it must be above "
                    "0, or more parameters or tokens would not help: fit it to more runs"
                )

    @property
    def exponent(self) -> float:
        """That of compute in the optimal number of parameters."""
        return self.beta / (self.alpha + self.beta)

    def loss(self, parameters: float, tokens: float) -> float:
        reducible = self.A / parameters**self.alpha + self.B / tokens**self.beta
        return self.irreducible + float(reducible)

    def optimum(self, compute: float) -> Optimum:
        pairs = compute / FLOPS_PER_PARAMETER_AND_TOKEN
        scale = (self.alpha * self.A / (self.beta * self.B)) ** (1 / (self.alpha + self.beta))
        parameters = scale * pairs**self.exponent
        tokens = pairs / parameters
        return Optimum(parameters=parameters, tokens=tokens, loss=self.loss(parameters, tokens))

    def tokens_for(self, parameters: float) -> float:
        """With how many tokens a model of this size is the best use of its compute."""
        ratio = self.beta * self.B / (self.alpha * self.A)
        return float((ratio * parameters**self.alpha) ** (1 / self.beta))

    def parameters_for(self, tokens: float) -> float:
        """Which size is the best use of the compute that it needs for so many tokens."""
        ratio = self.alpha * self.A / (self.beta * self.B)
        return float((ratio * tokens**self.beta) ** (1 / self.alpha))


REFIT = ScalingLaw(name="refit", irreducible=1.8172, A=482.01, B=2085.43, alpha=0.3478, beta=0.3658)
HOFFMANN = ScalingLaw(name="hoffmann", irreducible=1.69, A=406.4, B=410.7, alpha=0.34, beta=0.28)
LAWS = (REFIT, HOFFMANN)
TOKENS_PER_PARAMETER = 20
"""Chinchilla's own: 70B parameters, 1.4T tokens; what approaches 1 and 2 of its paper come to."""


def law_named(name: str) -> ScalingLaw:
    for law in LAWS:
        if law.name == name:
            return law
    raise ValueError(f"unknown law {name!r}; choose from {', '.join(law.name for law in LAWS)}")


def rule_of_twenty(compute: float) -> Optimum:
    """Twenty tokens for each parameter."""
    pairs = compute / FLOPS_PER_PARAMETER_AND_TOKEN
    parameters = (pairs / TOKENS_PER_PARAMETER) ** 0.5
    return Optimum(parameters=parameters, tokens=TOKENS_PER_PARAMETER * parameters, loss=None)


def kaplan(compute: float) -> Optimum:
    """`N = 1.3e9 C^0.73`, C in petaflop-days, N without embeddings."""
    parameters = 1.3e9 * (compute / PETAFLOP_DAY) ** 0.73
    tokens = compute / (FLOPS_PER_PARAMETER_AND_TOKEN * parameters)
    return Optimum(parameters=parameters, tokens=tokens, loss=None)


def comparison(compute: float, law: ScalingLaw = REFIT) -> dict[str, Optimum]:
    """What each law would do with this compute: the one that is planned with comes first."""
    laws = {other.name: other.optimum(compute) for other in (law, *LAWS)}
    return {**laws, "20 tokens/param": rule_of_twenty(compute), "kaplan": kaplan(compute)}


def batch_tokens(compute: float) -> float:
    """Tokens of an optimizer step, by DeepSeek LLM's fit (2024, arXiv:2401.02954, section 3)."""
    return float(0.2920 * compute**0.3271)


def learning_rate(compute: float) -> float:
    """The highest learning rate, by the same fit."""
    return float(0.3118 * compute**-0.1250)
