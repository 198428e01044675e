import base64
import hashlib
import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
from lxml import html

from pharos.train.report import TEMPLATE, duration, report_page, summary, write_report

HOSTILE = "<script>alert(1)</script> {{sections}} & \u2028"
RECIPE = "output: runs/a\nmodel:\n  config:\n    n_layer: 4\nsample:\n  prompts:\n  - 'ROMEO: a'\n"


def line(step: int, **more: Any) -> dict[str, Any]:
    usual = {
        "step": step,
        "train_loss": 4.0 / step,
        "learning_rate": 1e-3,
        "gradient_norm": 1.0,
        "tokens": 100 * step,
        "tokens_per_second": 5000.0,
        "seconds": 0.5,
        "waited_seconds": 0.05,
        "mfu": 0.25,
        "memory_bytes": 3 << 29,
        "train/next_token": 4.0 / step,
    }
    return usual | more


def evaluated(step: int, val_loss: float, **more: Any) -> dict[str, Any]:
    return line(step, val_loss=val_loss, **{"val/next_token": val_loss, "samples": [], **more})


LINES = [
    line(1),
    line(10),
    evaluated(20, 2.5, samples=["early"]),
    evaluated(30, 1.875, samples=[HOSTILE]),
    evaluated(40, 2.0, samples=["late"]),
]


def parsed(lines: list[dict[str, Any]], recipe: str = RECIPE, name: str = "a run") -> Any:
    return html.document_fromstring(report_page(lines, recipe, name=name))


def texts(page: Any, path: str) -> list[str]:
    return [element.text_content() for element in page.xpath(path)]


def test_the_run_is_told_in_a_sentence() -> None:
    told = "40 steps over 4,000 tokens in 20.0 s; the best validation loss is 1.8750, at step 30."
    assert summary(LINES) == told


def test_the_figures_are_those_of_the_log() -> None:
    page = parsed(LINES)
    figures = dict(zip(texts(page, "//dt"), texts(page, "//dd"), strict=True))
    assert figures == {
        "Train loss": "0.1000 step 40",
        "Validation loss": "1.8750 step 30",
        "Speed": "5,000 tokens/s",
        "MFU": "25.0% of the peak",
        "Memory": "1.50 GiB at most",
        "Waited for data": "10.0% of the time",
    }


def test_there_are_curves_of_losses_rate_norm_and_speed() -> None:
    labels = [svg.get("aria-label") for svg in parsed(LINES).xpath("//svg")]
    assert labels == [
        "Loss by step",
        "Learning rate by step",
        "Gradient norm by step",
        "Tokens per second by step",
    ]


def test_each_evaluation_is_a_row_and_the_best_one_is_marked() -> None:
    page = parsed(LINES)
    rows = [[cell.text for cell in row] for row in page.xpath("//tbody/tr")]
    assert rows[1] == ["30", "3,000", "0.1333", "1.8750"]
    assert [row.get("class") for row in page.xpath("//tbody/tr")] == [None, "best", None]


def test_terms_that_are_not_the_loss_itself_have_columns() -> None:
    page = parsed([evaluated(10, 2.0, **{"val/correct": 0.5})])
    columns = ["Step", "Tokens", "Train loss", "Validation loss", "correct"]
    assert texts(page, "//th") == columns


def test_samples_stand_as_they_were_written_the_last_first() -> None:
    page = parsed(LINES)
    assert texts(page, "//details/pre") == ["late", HOSTILE, "early"]
    assert [element.get("open") for element in page.xpath("//details")] == ["", None, None]


def test_the_recipe_stands_as_it_was_run_with_its_keys_marked() -> None:
    page = parsed(LINES)
    assert texts(page, "//section[last()]/pre") == [RECIPE.strip()]
    keys = ["output", "model", "config", "n_layer", "sample", "prompts"]
    assert texts(page, "//span[@class='key']") == keys


def test_a_run_without_evaluations_has_a_report() -> None:
    page = parsed([line(1), line(2)], recipe="")
    assert texts(page, "//h2") == ["Loss"]


def test_a_run_of_which_nothing_is_logged_has_a_report() -> None:
    page = parsed([], recipe="")
    assert "No step has been logged yet." in page.text_content()


def test_losses_that_are_no_numbers_do_not_stop_the_report() -> None:
    page = parsed([line(1), evaluated(2, math.nan, gradient_norm=math.inf, mfu=None)])
    assert "nan" in texts(page, "//tbody/tr/td")
    assert "Validation loss" not in texts(page, "//dt")


def test_the_page_needs_nothing_and_runs_nothing() -> None:
    page = parsed(LINES, name=HOSTILE)
    assert page.xpath("//script | //link | //img | //@src | //@href | //@style") == []
    (policy,) = page.xpath("//meta[@http-equiv='Content-Security-Policy']/@content")
    assert policy.startswith("default-src 'none'")
    (style,) = texts(page, "//style")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert f"style-src 'sha256-{digest}'" in policy


def test_the_template_has_colours_for_light_and_dark() -> None:
    template = TEMPLATE.read_text()
    light, dark = re.findall(r":root \{(.*?)\}", template, flags=re.S)
    colours = [set(re.findall(r"(--\w+): #", part)) for part in (light, dark)]
    assert colours[0] == colours[1]


@pytest.mark.parametrize(
    ("seconds", "said"), [(0.5, "20.0 s"), (4.0, "2 min 40 s"), (100.0, "1 h 6 min")]
)
def test_durations_are_said_as_one_would(seconds: float, said: str) -> None:
    assert duration([line(30, seconds=seconds), line(40, seconds=seconds)]) == said


def test_the_report_is_written_from_the_files_of_a_run(tmp_path: Path) -> None:
    log = "".join(json.dumps(each) + "\n" for each in LINES)
    (tmp_path / "metrics.jsonl").write_text(log)
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    path = write_report(tmp_path)
    assert path == tmp_path / "report.html"
    assert path.read_text() == report_page(LINES, RECIPE, name=tmp_path.name)
