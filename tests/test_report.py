"""utils.report: metrics.json and the table hold the figures of an assessment, its intervals."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from tests.simulated import few
from utils import report
from utils.assessment import Assessment, assess
from utils.evaluation import Evaluation
from utils.log import InputError
from utils.report import figure_of, interval_of, metrics, read_metrics, write_figures
from utils.table import table

WARNING = "2 of 3 patients of val are in the training part, too"


def test_metrics_json_has_the_keys_and_the_figures(assessment: Assessment, evaluation: Evaluation) -> None:
    content = metrics(assessment, {"imgsz": 64}, [WARNING], {"frames": 4}, evaluation)
    assert set(content["per_class"]) == {"AR", "TR"}
    ar = content["per_class"]["AR"]
    assert (ar["labels"], ar["patients"]) == (3, 2) and ar["recall"] == pytest.approx(2 / 3, abs=1e-3)
    assert ar["froc"] == {"0.25": pytest.approx(2 / 3), "0.5": pytest.approx(2 / 3), "1": pytest.approx(2 / 3)}
    assert content["per_class"]["TR"]["map50"] == pytest.approx(0.995, abs=1e-6)
    assert content["froc"] == {"0.25": 0.75, "0.5": 0.75, "1": 0.75}  # one false box in four frames
    assert content["view"]["accuracy"] == 0.75
    assert content["view"]["balanced_accuracy"] == pytest.approx((1 / 2 + 1 + 1) / 3)
    assert content["view"]["per_class"]["PLAX"] == {
        "frames": 2, "precision": 1.0, "recall": 0.5, "f1": pytest.approx(2 / 3),
    }  # fmt: skip
    assert content["view"]["brier"] == pytest.approx(0.5) and content["view"]["ece"] == pytest.approx(0.25)
    p, r = content["precision"], content["recall"]
    assert content["f1"] == pytest.approx(2 * p * r / (p + r))
    assert content["loss"] == {"box": 0.1, "obj": 0.2, "cls": 0.3, "view": 0.4}
    assert content["warnings"] == [WARNING] and content["leakage"] == {"frames": 4}
    assert content["patients"]["per_class"]["AR"] == {
        "positive": 2, "negative": 0, "sensitivity": 0.5, "specificity": pytest.approx(np.nan, nan_ok=True),
    }  # fmt: skip
    assert content["clips"]["view"]["clips"] == 2 and content["clips"]["mixed_views"] == 1
    assert json.loads(json.dumps(content))["settings"] == {"imgsz": 64}


def test_intervals_stand_under_the_keys_of_their_figures(assessment: Assessment) -> None:
    content = metrics(assessment, {})
    interval = content["interval"]
    assert (interval["unit"], interval["units"], interval["draws"], interval["level"]) == ("patients", 2, 200, 0.95)
    low, high = interval["per_class"]["AR"]["recall"]
    assert (
        (low, high) == interval_of(content, "per_class", "AR", "recall") == (0.0, 1.0)
    )  # one patient has all found, the other none
    assert interval_of(content, "per_class", "MR", "recall") is None


def test_calibrated_views_stand_beside_the_plain_ones() -> None:
    content = metrics(assess(few(), draws=0, temperature=3.0), {})
    calibrated = content["view"]["calibrated"]
    assert calibrated["temperature"] == 3 and calibrated["brier"] < content["view"]["brier"]
    assert "view at temperature 3.00" in table(content)
    assert "calibrated" not in metrics(assess(few(), draws=0), {})["view"]


def test_a_detector_alone_has_no_view_in_its_metrics() -> None:
    content = metrics(assess(few(views=False), draws=0), {})
    assert not {"view", "loss", "speed_ms"} & set(content) and "view" not in content["clips"]
    assert "view" not in table(content)


def test_figures_are_written_and_each_carries_the_warning(
    assessment: Assessment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    titles: dict[str, str] = {}

    def recorded(figure: Figure, path: Path) -> None:
        titles[path.name] = " ".join(figure.get_suptitle().split())

    monkeypatch.setattr(report, "save", recorded)
    write_figures(assessment, tmp_path, [WARNING])
    assert set(titles) == {
        "confusion_matrix.png", "view_confusion_matrix.png", "P_curve.png", "R_curve.png", "F1_curve.png",
        "PR_curve.png", "FROC_curve.png", "view_reliability.png",
    }  # fmt: skip
    assert all(WARNING in title for title in titles.values()), titles
    titles.clear()
    write_figures(assess(replace(few(views=False), patients=None, clips=None), draws=0), tmp_path)
    assert "view_reliability.png" not in titles and WARNING not in titles["PR_curve.png"]


@pytest.mark.parametrize(
    "text",
    ["", "[]", "1", "[" * 100_000, '{"warnings": 3}', '{"warnings": [1]}', '{"a": ' + "9" * 5000 + "}", "\ud800"],
)
def test_a_metrics_json_of_something_else_is_one_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "metrics.json"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(InputError, match=r"metrics\.json: .*expected") as caught:
        read_metrics(path)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500
    with pytest.raises(InputError, match="no such file"):
        read_metrics(tmp_path / "absent.json")


@pytest.mark.parametrize("value", ["0.5", True, [1], {}, 10**400, float("inf")])
def test_a_figure_is_a_number_or_is_not_there(tmp_path: Path, value: object) -> None:
    path = tmp_path / "metrics.json"
    with pytest.raises(InputError, match=r"metrics\.json: view.accuracy: expected a number"):
        figure_of({"view": {"accuracy": value}}, path, "view", "accuracy")
    with pytest.raises(InputError, match=r"metrics\.json: view.accuracy: expected it in a mapping"):
        figure_of({"view": [value]}, path, "view", "accuracy")
    for content in ({}, {"view": None}, {"view": {"accuracy": None}}):
        assert np.isnan(figure_of(content, path, "view", "accuracy"))
    assert figure_of({"map50": 1}, path, "map50") == 1.0
