"""study.json and findings.csv: what they say of clips, that they keep to their schema; no cell is a formula."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

import jsonschema
import numpy as np
import pytest

from utils.clips import ClipRules, FrameFindings
from utils.config import ROOT
from utils.echo_report import CSV_COLUMNS, NOTICE, Clip, Naming, findings_csv, study_report

NAMES = Naming(("AR", "MR", "PR", "TR"), ("PSAX", "PLAX", "A4C"))
SCHEMA = json.loads((ROOT / "docs" / "study-report.schema.json").read_text())
FACTS: dict[str, Any] = {
    "created": "2026-11-29T10:00:00+00:00",
    "weights": {"file": "best.pt", "sha256": "0" * 64},
    "settings": {
        "imgsz": 320, "clip_window": 0, "conf_thres": 0.25, "iou_thres": 0.45, "max_det": 1000, "vid_stride": 1,
        "calibrate": False, "track_iou": 0.3, "track_gap": 5, "track_frames": 3, "view_agreement": 0.7,
        "keep_overlay": False, "keep_identifiers": False,
    },
}  # fmt: skip


def frames(count: int, label: int, confidence: float, first: int = 0) -> list[FrameFindings]:
    """A box that stays, growing, in ``count`` frames from ``first`` on, in a clip of ten."""
    return [
        FrameFindings(
            n, n / 25,
            np.array([[10, 20, 30 + n, 60, confidence - abs(n - 4) / 100, label]] * (first <= n < first + count),
                     np.float32).reshape(-1, 6),
            np.array([0.1, 0.2, 0.7], np.float32),
        )
        for n in range(10)
    ]  # fmt: skip


def clip(name: str, found: list[FrameFindings], **more: Any) -> Clip:
    return Clip(name, "dicom", more.pop("study", "study-1"), found, 100, 120, 10, 25.0, **more)


def report(*clips: Clip, **more: Any) -> dict[str, Any]:
    made = study_report(
        clips, more.get("identities", {}), more.get("skipped", []), more.get("naming", NAMES), ClipRules(), FACTS
    )
    jsonschema.validate(json.loads(json.dumps(made, allow_nan=False)), SCHEMA)
    return made


def cells(made: dict[str, Any]) -> list[dict[str, str]]:
    rows = list(csv.reader(io.StringIO(findings_csv(made))))
    assert rows[0] == list(CSV_COLUMNS) and all(len(row) == len(CSV_COLUMNS) for row in rows)
    return [dict(zip(CSV_COLUMNS, row, strict=True)) for row in rows[1:]]


def test_a_track_says_when_how_sure_and_how_large() -> None:
    made = report(clip("a", frames(6, 1, 0.9, first=2), seen=(5, 5, 115, 95), cm_per_pixel=(0.1, 0.2)))
    (track,) = made["studies"][0]["clips"][0]["tracks"]
    assert track["name"] == "MR" and track["class"] == 1 and track["frames"] == 6 and not track["uncertain"]
    assert track["onset"] == {"frame": 2, "time": 0.08} and track["end"] == {"frame": 7, "time": 0.28}
    assert track["peak"] == {"frame": 4, "time": 0.16, "confidence": 0.9}
    assert track["largest"] == {"frame": 7, "box": [10, 20, 37, 60], "cm": [2.7, 8.0]}
    assert track["boxes"][0] == [2, 10, 20, 32, 60, 0.88] and len(track["boxes"]) == 6
    (row,) = cells(made)
    assert (row["valve"], row["onset_s"], row["width_cm"], row["uncertain"]) == ("MR", "0.08", "2.7", "False")


def test_without_calibration_there_are_no_centimetres() -> None:
    made = report(clip("a", frames(6, 1, 0.9)))
    assert made["studies"][0]["clips"][0]["tracks"][0]["largest"]["cm"] is None and cells(made)[0]["width_cm"] == ""


def test_the_table_has_each_valve_against_each_clip_and_certain_findings_first() -> None:
    short, long = clip("short", frames(2, 1, 0.95)), clip("long", frames(6, 1, 0.6))
    made = report(short, long, clip("other", frames(0, 0, 0.9)))
    valves = made["studies"][0]["valves"]
    assert [row["name"] for row in valves] == list(NAMES.classes)
    mr = valves[1]
    assert [None if cell is None else (cell["clip"], cell["uncertain"]) for cell in mr["cells"]] == [
        ("short", True), ("long", False), None,
    ]  # fmt: skip
    assert mr["clips"] == 2 and mr["certain"] == 1 and mr["peak"]["clip"] == "long"
    assert valves[0] == {"class": 0, "name": "AR", "clips": 0, "certain": 0, "peak": None, "cells": [None] * 3}


def test_a_clip_without_findings_has_a_row() -> None:
    (row,) = cells(report(clip("a", frames(0, 0, 0.5), note="ends after 10 of 60 frames")))
    assert row["clip"] == "a" and row["view"] == "A4C" and row["valve"] == row["uncertain"] == ""
    assert row["note"] == "ends after 10 of 60 frames"


def test_a_view_that_no_frame_shows_by_itself_keeps_to_the_schema() -> None:
    views = ([0.5, 0.1, 0.4], [0.1, 0.5, 0.4])
    found = [FrameFindings(n, None, np.zeros((0, 6), np.float32), np.array(v, np.float32)) for n, v in enumerate(views)]
    (study,) = report(clip("a", found))["studies"]
    seen = study["clips"][0]["view"]
    assert (seen["name"], seen["agreement"], seen["frames"], seen["uncertain"]) == ("A4C", 0, 0, True)


def test_a_network_without_views_and_a_still_without_time_keep_to_the_schema() -> None:
    found = [FrameFindings(0, None, np.array([[1, 2, 3, 4, 0.5, 0]], np.float32))]
    made = report(clip("a", found), naming=Naming(("AR",), ()))
    seen = made["studies"][0]["clips"][0]
    assert seen["view"] is None and seen["tracks"][0]["onset"]["time"] is None and seen["tracks"][0]["uncertain"]
    assert cells(made)[0]["view"] == ""


def test_studies_are_told_apart_and_say_whose_they_are_only_if_that_is_given() -> None:
    identity = {"file": "a.dcm", "uid": "1.2.3", "acquired": "20260101"}
    made = report(
        clip("a", frames(3, 0, 0.5), study="one", identity=identity), clip("b", frames(3, 0, 0.5), study="two"),
        identities={"one": {"uid": "1.2", "patient": "P1"}}, skipped=[("file-1", "file-1: no pictures")],
    )  # fmt: skip
    one, two = made["studies"]
    assert (one["uid"], one["patient"], one["clips"][0]["file"]) == ("1.2", "P1", "a.dcm")
    assert two["uid"] is two["patient"] is two["clips"][0]["file"] is None
    assert made["skipped"] == [{"file": "file-1", "reason": "file-1: no pictures"}]
    assert made["notice"] == NOTICE and "not a medical device" in NOTICE


def test_no_cell_is_a_formula_and_numbers_stay_numbers() -> None:
    made = report(clip("=1+1", frames(3, 0, 0.5), study="@x"), naming=Naming(("+A", "B", "C", "D"), NAMES.views))
    (row,) = cells(made)
    assert (row["clip"], row["study"], row["valve"]) == ("'=1+1", "'@x", "'+A") and row["onset_frame"] == "0"


def test_an_empty_source_is_a_report_all_the_same() -> None:
    assert report()["studies"] == [] and cells(report()) == []


@pytest.mark.parametrize("broken", ["version", "studies"])
def test_the_schema_refuses_what_is_none(broken: str) -> None:
    made = report(clip("a", frames(3, 0, 0.5)))
    made[broken] = 2
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(made, SCHEMA)
