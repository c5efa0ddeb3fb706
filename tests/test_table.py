"""The table on screen: every figure with its interval, and the warnings above."""

from __future__ import annotations

from dataclasses import replace

from tests.simulated import few
from utils.assessment import Assessment, assess
from utils.evaluation import Evaluation
from utils.report import metrics
from utils.table import table

WARNING = "2 of 3 patients of val are in the training part, too"


def test_the_table_shows_warnings_classes_patients_views_and_milliseconds(
    assessment: Assessment, evaluation: Evaluation
) -> None:
    text = table(metrics(assessment, {}, [WARNING], None, evaluation))
    assert text.startswith(f"! {WARNING}\n")
    rows = [line.split() for line in text.splitlines() if line.strip()]
    assert next(row for row in rows if row[0] == "all")[1:3] == ["4", "2"]
    assert next(row for row in rows if row[0] == "AR")[1:3] == ["3", "2"]
    assert next(row for row in rows if row[0] == "PLAX")[-3:] == ["1", "1", "0"]
    for words in (
        "view accuracy 0.750", "over 4 frames", "over 2 clips, 1 of them with frames of different views",
        "share of boxes found: 0.750", "95% intervals: bootstrap over 2 patients, 200 draws", "6.0 ms a frame",
        "calibration error 0.250", "Brier score 0.500",
    ):  # fmt: skip
        assert words in text
    assert all(line == line.rstrip() for line in text.splitlines())


def test_the_table_says_when_there_are_no_intervals_or_they_are_over_frames() -> None:
    assert "no intervals: --bootstrap 0" in table(metrics(assess(few(), draws=0), {}))
    alone = replace(few(), patients=("a",) * 4)
    assert "no intervals: they need 2 or more patients" in table(metrics(assess(alone, draws=50), {}))
    nameless = replace(few(), patients=None, clips=None)
    text = table(metrics(assess(nameless, draws=50), {}))
    assert "bootstrap over 4 frames, 50 draws; the dataset names no patients (group)" in text
    assert "sensitivity" not in text


def test_classes_can_be_left_out_of_the_table(assessment: Assessment) -> None:
    lines = table(metrics(assessment, {}), per_class=False).split("\n\n")[0].splitlines()
    assert [line.split()[0] for line in lines] == ["class", "all", "95%", "at", "share"]


def test_the_confidence_of_precision_and_recall_is_told_with_its_source(assessment: Assessment) -> None:
    assert "at confidence 0.501\n" in table(metrics(assessment, {}))
    told = table(metrics(assessment, {"confidence_from": "validation in training"}))
    assert "at confidence 0.501, found on validation in training\n" in told
