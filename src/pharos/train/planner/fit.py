"""A scaling law from runs: `L(N, D) = E + A / N^α + B / D^β` through points of (N, D, L).

After Hoffmann et al. 2022 (approach 3): with `e = log E`, `a = log A`, `b = log B`, the Huber loss
(δ = 0.001) of

    log(exp(e) + exp(a - α log N) + exp(b - β log D)) - log L

is minimised by L-BFGS from the best places of a grid, and intervals come from fits to the runs
drawn again with replacement. Two things make it exact: logarithms are taken from their means, so
that `a` and `α` do not pull together, and δ comes down in steps, so that a start far away still
finds a slope. A search that stops too early is what spoilt the constants printed in the paper, says
the refit.
"""

import csv
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from pharos.core.errors import TrainingError
from pharos.train.planner.lbfgs import Array, Slope, minimise
from pharos.train.planner.scaling import ScalingLaw

COLUMNS = ("params", "tokens", "loss")
FEWEST_RUNS = 6
"""One more than the law has constants."""
FEWEST_SIZES = 3
DELTAS = (0.1, 0.01, 0.001)
NUM_STARTS = 6
CONFIDENCE = 0.95


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """One finished run: how large, on how much, how good."""

    params: float
    tokens: float
    loss: float


@dataclass(frozen=True, kw_only=True, slots=True)
class FittedLaw:
    """`intervals` holds, for each constant and for the exponent of compute in the optimal size, the
    middle 95% of the fits to resampled runs; `error` is the root mean square of the residuals in
    log-loss."""

    law: ScalingLaw
    intervals: Mapping[str, tuple[float, float]]
    error: float
    num_runs: int


def read_runs(path: Path) -> list[Run]:
    """A CSV with a header, or a line of JSON for each run; the columns are `params`, `tokens` and
    `loss`, and others are left alone. Raises TrainingError naming the line."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise TrainingError(
            f"{path} is not text in UTF-8 ({error.reason}): give CSV or JSONL"
        ) from None
    is_jsonl = text.lstrip().startswith("{")
    rows = _jsonl_rows(path, text) if is_jsonl else _csv_rows(path, text)
    return [_run(f"{path}:{line}", row) for line, row in rows]


def fit_law(
    runs: Sequence[Run], *, num_resamples: int = 200, seed: int = 0, name: str = "fitted"
) -> FittedLaw:
    """Raises TrainingError where the runs cannot tell the constants apart."""
    _check_runs(runs)
    points = np.log([[run.params, run.tokens, run.loss] for run in runs])
    centre = points[:, :2].mean(axis=0)
    centred = points - np.append(centre, 0.0)
    ends = [_descend(centred, start) for start in _starts(centred)]
    best = min(ends, key=lambda theta: _objective(centred, DELTAS[-1])(theta)[0])
    generator = np.random.default_rng(seed)
    draws = (generator.integers(len(runs), size=len(runs)) for _ in range(num_resamples))
    again = (minimise(_objective(centred[draw], DELTAS[-1]), best) for draw in draws)
    resampled = [_constants(theta, centre) for theta in again]
    try:
        law = _law(_constants(best, centre), name)
    except ValueError as error:
        raise TrainingError(str(error)) from error
    return FittedLaw(
        law=law,
        intervals=_intervals(resampled),
        error=float(np.sqrt(np.mean(_residuals(centred, best)[0] ** 2))),
        num_runs=len(runs),
    )


def read_law(path: Path) -> ScalingLaw:
    """A law's constants, as `pharos plan fit --out` writes them."""
    names = [field.name for field in fields(ScalingLaw)]
    try:
        constants = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(constants, dict):
            raise ValueError(f"it holds a {type(constants).__name__}")
        numbers = {name: float(constants[name]) for name in names if name != "name"}
        return ScalingLaw(name=str(constants["name"]), **numbers)
    except (KeyError, TypeError, ValueError) as error:
        raise TrainingError(
            f"{path} is no scaling law ({error}): it must be a JSON object with "
            f"{', '.join(names)}; `pharos plan fit RUNS --out FILE` writes one"
        ) from error


def _csv_rows(path: Path, text: str) -> list[tuple[int, Mapping[str, object]]]:
    reader = csv.DictReader(text.splitlines())
    missing = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
    if missing:
        raise TrainingError(
            f"{path} lacks the column {missing[0]!r}; its first line must name "
            f"{', '.join(COLUMNS)}, and it is: {', '.join(reader.fieldnames or ('empty',))}"
        )
    return [(reader.line_num, dict(row)) for row in reader]


def _jsonl_rows(path: Path, text: str) -> list[tuple[int, Mapping[str, object]]]:
    rows: list[tuple[int, Mapping[str, object]]] = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise TrainingError(f"{path}:{number} is not JSON: {error}") from None
        if not isinstance(row, dict):
            raise TrainingError(f"{path}:{number} must be an object with {', '.join(COLUMNS)}")
        rows.append((number, row))
    return rows


def _run(place: str, row: Mapping[str, object]) -> Run:
    return Run(**{name: _number(place, name, row.get(name)) for name in COLUMNS})


def _number(place: str, name: str, value: object) -> float:
    try:
        number = float(str(value))
    except ValueError:
        number = math.nan
    if not (number > 0 and math.isfinite(number)):
        raise TrainingError(f"{place}: {name} is {value!r}; it must be a number above 0")
    return number


def _check_runs(runs: Sequence[Run]) -> None:
    if len(runs) < FEWEST_RUNS:
        raise TrainingError(
            f"{len(runs)} runs cannot tell five constants; give {FEWEST_RUNS} or more"
        )
    for name in ("params", "tokens"):
        values = {getattr(run, name) for run in runs}
        if len(values) < FEWEST_SIZES:
            raise TrainingError(
                f"the runs have {len(values)} different values of {name}; the law's exponent needs "
                f"{FEWEST_SIZES} or more: add runs of other {name}"
            )


def _residuals(points: Array, theta: Array) -> tuple[Array, Array]:
    """Of log-loss, and the three terms' shares of the loss that the law gives, [runs, 3].
    `theta` is (e, a, b, α, β)."""
    terms = np.stack(
        [
            np.full(len(points), theta[0]),
            theta[1] - theta[3] * points[:, 0],
            theta[2] - theta[4] * points[:, 1],
        ],
        axis=1,
    )
    highest = terms.max(axis=1, keepdims=True)
    weights = np.exp(terms - highest)
    total = weights.sum(axis=1, keepdims=True)
    return (highest + np.log(total))[:, 0] - points[:, 2], weights / total


def _objective(points: Array, delta: float) -> Slope:
    """Mean Huber loss in units of δ², and its gradient."""

    def huber(theta: Array) -> tuple[float, Array]:
        residuals, shares = _residuals(points, theta)
        residuals = residuals / delta
        clipped = np.clip(residuals, -1, 1)
        value = float(np.mean(clipped * (residuals - clipped / 2)))
        pull = clipped[:, None] * shares / delta
        gradient = np.stack([*pull.T, -pull[:, 1] * points[:, 0], -pull[:, 2] * points[:, 1]]).mean(
            axis=1
        )
        return value, gradient

    return huber


def _starts(points: Array) -> list[Array]:
    """The best few of a grid: how the average loss may divide into its terms, and exponents."""
    middle, least = float(points[:, 2].mean()), float(points[:, 2].min())
    objective = _objective(points, DELTAS[0])
    grid = np.array(
        [
            (least + math.log(rest), middle + math.log(of_n), middle + math.log(of_d), alpha, beta)
            for rest in (0.2, 0.5, 0.8)
            for of_n in (0.05, 0.15, 0.4)
            for of_d in (0.05, 0.15, 0.4)
            for alpha in (0.1, 0.3, 0.6, 1.0)
            for beta in (0.1, 0.3, 0.6, 1.0)
        ]
    )
    values = [objective(theta)[0] for theta in grid]
    return list(grid[np.argsort(values, kind="stable")[:NUM_STARTS]])


def _descend(points: Array, theta: Array) -> Array:
    for delta in DELTAS:
        theta = minimise(_objective(points, delta), theta)
    return theta


def _constants(theta: Array, centre: Array) -> dict[str, float]:
    e, a, b, alpha, beta = theta.tolist()
    return {
        "irreducible": math.exp(e),
        "A": math.exp(min(700.0, a + alpha * centre[0])),
        "B": math.exp(min(700.0, b + beta * centre[1])),
        "alpha": alpha,
        "beta": beta,
    }


def _law(constants: Mapping[str, float], name: str) -> ScalingLaw:
    return ScalingLaw(name=name, **constants)


def _intervals(resampled: Sequence[Mapping[str, float]]) -> dict[str, tuple[float, float]]:
    if not resampled:
        return {}
    samples = {name: [one[name] for one in resampled] for name in resampled[0]}
    samples["exponent"] = [one["beta"] / (one["alpha"] + one["beta"]) for one in resampled]
    tails = [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2]
    return {
        name: (float(low), float(high))
        for name, values in samples.items()
        for low, high in [np.quantile(values, tails)]
    }
