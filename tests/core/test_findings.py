import pytest

from pharos.core.findings import Grounding


@pytest.mark.parametrize(
    ("supported", "contradicted", "verdict"),
    [(0.6, 0.3, "yes"), (0.2, 0.7, "contradicts"), (0.3, 0.2, "no"), (0.4, 0.4, "yes")],
)
def test_the_likeliest_of_three_is_the_verdict(
    supported: float, contradicted: float, verdict: str
) -> None:
    assert Grounding(supported=supported, contradicted=contradicted).verdict == verdict
