import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lxml import etree

from pharos.train.charts import Series, axis, chart, log_axis, number, thinned

SVG = "{http://www.w3.org/2000/svg}"


def drawn(*series: Series, **settings: bool) -> etree._Element:
    return etree.fromstring(chart(series, title="a title", **settings))


def line(*points: tuple[float, float], has_dots: bool = False) -> Series:
    return Series(label="train", points=points, style="train", has_dots=has_dots)


def places(picture: etree._Element) -> list[tuple[float, float]]:
    (curve,) = picture.findall("polyline")
    pairs = (pair.split(",") for pair in curve.get("points").split())
    return [(float(x), float(y)) for x, y in pairs]


@given(values=st.lists(st.floats(-1e9, 1e9), min_size=1, max_size=20))
def test_an_axis_holds_its_values_and_has_a_few_ticks_among_them(values: list[float]) -> None:
    found = axis(values)
    assert found.low <= min(values)
    assert found.high >= max(values)
    assert 1 <= len(found.ticks) <= 8
    assert all(found.share(value) == pytest.approx(0.5, abs=0.5 + 1e-6) for value in values)


@given(values=st.lists(st.floats(1e-12, 1e12), min_size=1, max_size=20))
def test_an_axis_of_powers_holds_its_values(values: list[float]) -> None:
    found = log_axis(values)
    assert all(0 <= found.share(value) <= 1 for value in values)
    assert len(found.ticks) <= 8


def test_ticks_are_round() -> None:
    assert axis([0.0, 2000.0]).ticks == (0.0, 500.0, 1000.0, 1500.0, 2000.0)
    assert axis([1.61, 4.2]).ticks == pytest.approx((2.0, 2.5, 3.0, 3.5, 4.0))
    assert log_axis([0.01, 100.0]).ticks == pytest.approx((0.01, 0.1, 1.0, 10.0, 100.0))
    assert log_axis([0.3, 3.0]).ticks == pytest.approx((0.5, 1.0, 2.0))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (1500.0, "1,500"),
        (0.25, "0.25"),
        (3e-4, "3e-4"),
        (0.00012345, "1.23e-4"),
        (1_536_000.0, "1.536M"),
        (2.5e9, "2,500M"),
        (-0.5, "-0.5"),
    ],
)
def test_numbers_are_written_as_one_would(value: float, text: str) -> None:
    assert number(value) == text


def test_a_curve_goes_from_left_to_right_and_higher_is_up() -> None:
    (x0, y0), (x1, y1), (x2, y2) = places(drawn(line((0, 1.0), (10, 3.0), (20, 2.0))))
    assert x0 < x1 < x2
    assert y1 < y2 < y0


def test_an_axis_from_zero_shows_zero() -> None:
    texts = [text.text for text in drawn(line((0, 90), (1, 100)), from_zero=True).iter("text")]
    assert "0" in texts


def test_dots_say_their_value() -> None:
    picture = drawn(line((250, 1.875), has_dots=True))
    assert [title.text for title in picture.iter("title")] == ["train 1.8750 at step 250"]


def test_what_is_not_finite_is_left_out() -> None:
    points = (0, 1.0), (1, math.nan), (2, math.inf), (3, 2.0)
    assert len(places(drawn(line(*points)))) == 2


def test_by_powers_what_is_not_positive_is_left_out() -> None:
    assert len(places(drawn(line((0, 1.0), (1, 0.0), (2, -1.0), (3, 2.0)), is_log=True))) == 2


def test_without_points_there_is_no_picture() -> None:
    assert chart([line(), line((0, math.nan))], title="nothing") == ""


def test_many_points_become_means_of_neighbours() -> None:
    points = [(float(i), float(i % 2)) for i in range(10_000)]
    few = thinned(points, most=100)
    assert len(few) == 100
    assert {value for _, value in few} == {0.5}


def test_labels_are_escaped() -> None:
    hostile = '"><script>alert(1)</script>'
    series = Series(label=hostile, points=[(0, 1.0)], style=hostile, has_dots=True)
    picture = chart([series], title=hostile)
    assert not re.search(r"<script", picture)
    etree.fromstring(picture)
