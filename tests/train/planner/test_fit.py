import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pharos.core import TrainingError
from pharos.train.planner.fit import Run, fit_law, read_law, read_runs
from pharos.train.planner.lbfgs import Array, minimise
from pharos.train.planner.scaling import HOFFMANN, REFIT, ScalingLaw

SIZES = np.geomspace(1e7, 1e10, 6)
TOKENS = np.geomspace(2e8, 2e11, 6)


def runs_of(law: ScalingLaw, noise: float = 0.0, seed: int = 0) -> list[Run]:
    generator = np.random.default_rng(seed)
    return [
        Run(params=n, tokens=d, loss=law.loss(n, d) * float(np.exp(noise * generator.normal())))
        for n in SIZES
        for d in TOKENS
    ]


@pytest.mark.parametrize("law", [REFIT, HOFFMANN], ids=lambda law: law.name)
def test_a_surface_is_recovered_from_its_points(law: ScalingLaw) -> None:
    fitted = fit_law(runs_of(law), num_resamples=0).law
    for name in ("irreducible", "A", "B", "alpha", "beta"):
        assert getattr(fitted, name) == pytest.approx(getattr(law, name), rel=1e-4), name


@settings(max_examples=6, deadline=None)
@given(
    irreducible=st.floats(0.5, 3),
    alpha=st.floats(0.2, 0.7),
    beta=st.floats(0.2, 0.7),
    of_n=st.floats(0.1, 1),
    of_d=st.floats(0.1, 1),
)
def test_exponents_of_any_surface_are_within_one_percent(
    irreducible: float, alpha: float, beta: float, of_n: float, of_d: float
) -> None:
    law = ScalingLaw(
        name="synthetic",
        irreducible=irreducible,
        A=of_n * 1e8**alpha,
        B=of_d * 1e10**beta,
        alpha=alpha,
        beta=beta,
    )
    fitted = fit_law(runs_of(law), num_resamples=0).law
    assert fitted.alpha == pytest.approx(alpha, rel=0.01)
    assert fitted.beta == pytest.approx(beta, rel=0.01)


def test_intervals_hold_the_truth_and_narrow_with_less_noise() -> None:
    rough, fine = (
        fit_law(runs_of(REFIT, noise, seed=3), num_resamples=40) for noise in (0.01, 0.001)
    )
    for fitted in (rough, fine):
        low, high = fitted.intervals["exponent"]
        assert low < REFIT.exponent < high
    width = [np.diff(fitted.intervals["alpha"]).item() for fitted in (rough, fine)]
    assert width[1] < width[0] / 3
    assert rough.error == pytest.approx(0.01, rel=0.4)


def test_one_run_gone_wrong_hardly_moves_the_law() -> None:
    runs = runs_of(REFIT)
    runs[7] = Run(params=runs[7].params, tokens=runs[7].tokens, loss=2 * runs[7].loss)
    fitted = fit_law(runs, num_resamples=0).law
    assert fitted.alpha == pytest.approx(REFIT.alpha, rel=0.01)


def test_the_same_seed_gives_the_same_intervals() -> None:
    runs = runs_of(REFIT, 0.005)[:18]
    assert fit_law(runs, num_resamples=5) == fit_law(runs, num_resamples=5)
    assert fit_law(runs, num_resamples=5) != fit_law(runs, num_resamples=5, seed=1)


def test_runs_that_cannot_tell_the_constants_are_refused() -> None:
    with pytest.raises(TrainingError, match="5 runs cannot tell five constants; give 6 or more"):
        fit_law(runs_of(REFIT)[:5])
    with pytest.raises(TrainingError, match="1 different values of params"):
        fit_law(runs_of(REFIT)[:6])


def test_runs_are_read_from_csv_and_from_jsonl(tmp_path: Path) -> None:
    table, lines = tmp_path / "runs.csv", tmp_path / "runs.jsonl"
    table.write_text("name,params,tokens,loss\na,1e7,2e8,4.5\nb,2e7,4e8,4.1\n")
    lines.write_text(
        '{"params": 1e7, "tokens": 2e8, "loss": 4.5}\n\n'
        '{"params": 2e7, "tokens": 4e8, "loss": 4.1, "seed": 3}\n'
    )
    expected = [Run(params=1e7, tokens=2e8, loss=4.5), Run(params=2e7, tokens=4e8, loss=4.1)]
    assert read_runs(table) == read_runs(lines) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("params,loss\n1,2\n", "lacks the column 'tokens'"),
        ("", "lacks the column 'params'"),
        ("params,tokens,loss\n1,2,3\n1,x,3\n", ":3: tokens is 'x'; it must be a number above 0"),
        ("params,tokens,loss\n1,2\n", ":2: loss is None"),
        ("params,tokens,loss\n1,2,nan\n", ":2: loss is 'nan'"),
        ('{"params": 1, "tokens": 2}\n', ":1: loss is None"),
        ('{"params": 1, "tokens": 2, "loss": 3}\n{"params"\n', ":2 is not JSON"),
        ('{"params": 1, "tokens": 2, "loss": 3}\n[1, 2]\n', ":2 must be an object"),
    ],
)
def test_a_table_that_is_none_names_the_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "runs"
    path.write_text(text)
    with pytest.raises(TrainingError) as caught:
        read_runs(path)
    assert message in str(caught.value)


def test_a_file_of_bytes_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "runs.csv"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(TrainingError, match="not text in UTF-8"):
        read_runs(path)


def test_a_law_is_read_back(tmp_path: Path) -> None:
    path = tmp_path / "law.json"
    constants = {"irreducible": 1.8, "A": 400, "B": 2000, "alpha": 0.35, "beta": 0.36}
    path.write_text(json.dumps({"name": "ours", **constants}))
    assert read_law(path) == ScalingLaw(name="ours", **constants)
    for text in ("[]", "{", '{"name": "x"}', json.dumps({"name": "x", **constants, "A": -1})):
        path.write_text(text)
        with pytest.raises(TrainingError, match="no scaling law"):
            read_law(path)


def rosenbrock(x: Array) -> tuple[float, Array]:
    a, b = x
    value = (1 - a) ** 2 + 100 * (b - a * a) ** 2
    return float(value), np.array([2 * (a - 1) - 400 * a * (b - a * a), 200 * (b - a * a)])


def test_the_search_finds_the_bottom_of_a_curved_valley() -> None:
    assert minimise(rosenbrock, np.array([-1.2, 1.0])) == pytest.approx([1, 1], abs=1e-6)
