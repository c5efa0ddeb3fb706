"""utils/report_document.py: measurement groups into highdicom's words and out of them again."""

from __future__ import annotations

import io
import re
from dataclasses import replace
from typing import Any

import pytest

from utils import report_codes as codes
from utils.config import ROOT
from utils.report_document import CLIP, RETIRED, SOFTWARE, STILL, VERSION, Group, Number, document, groups_in

REPORT = {"created": "2026-11-29T15:40:57+00:00", "notice": "n", "weights": {"sha256": "ab" * 32}, "settings": {"a": 1}}
SURE = Number(codes.CERTAIN_FINDING, 91.25, codes.PERCENT, 3)
TRACK = Group(
    "track", "1.2.3.4", (SURE, Number(codes.WIDTH, 2.5, codes.CM)), (codes.uncertain(True),), 2,
    (1.5, 2.0, 30.0, 40.25), codes.finding("MR", 1), codes.site("MR"),
)  # fmt: skip
WHOLE = Group(
    "clip", "1.2.3.4", (Number(codes.FRAMES, 60.0, codes.FRAMES_UNIT),), ((codes.IMAGE_VIEW, codes.view("A4C")),)
)


def header(kind: str = CLIP, **values: Any) -> Any:
    pydicom = pytest.importorskip("pydicom")
    pytest.importorskip("highdicom")
    dataset = pydicom.Dataset()
    patient = ["PatientID", "PatientName", "PatientBirthDate", "PatientSex"]
    empty = [*patient, "StudyDate", "StudyTime", "StudyID", "AccessionNumber"]
    uids = {
        "SOPClassUID": kind,
        "SOPInstanceUID": "1.2.3.4",
        "StudyInstanceUID": "1.2.3",
        "SeriesInstanceUID": "1.2.3.1",
    }
    for keyword, value in {**dict.fromkeys(empty, ""), **uids, "NumberOfFrames": 60, **values}.items():
        if value is not None:
            setattr(dataset, keyword, value)
    return dataset


def read(made: Any) -> Any:
    """A report as highdicom reads it from a file."""
    with io.BytesIO() as file:
        made.save_as(file, enforce_file_format=True)
        return pytest.importorskip("highdicom.sr").srread(io.BytesIO(file.getvalue()))


def test_groups_come_back_as_they_were() -> None:
    other = replace(TRACK, identifier="other", finding=codes.finding("leak", 1), site=None, numbers=(), answers=())
    groups = [WHOLE, TRACK, other]
    made = read(document(groups, [header()], REPORT))
    assert groups_in(made) == groups


def test_a_still_has_no_frame_numbers() -> None:
    still = replace(TRACK, frame=None, numbers=(replace(SURE, frame=None),))
    made = read(document([still], [header(STILL, NumberOfFrames=None)], REPORT))
    assert groups_in(made) == [still] and "ReferencedFrameNumber" not in str(made)


@pytest.mark.parametrize("kind", [*RETIRED, "1.2.9.9"])
def test_classes_that_highdicom_does_not_know_are_referred_to_by_their_own(kind: str) -> None:
    given = header(kind)
    made = document([WHOLE, TRACK], [given], REPORT)
    assert given.SOPClassUID == kind  # the caller's own stays
    assert {str(kind) for *_, kind in made.get_evidence()} == {kind}
    assert f"(0008,1150) Referenced SOP Class UID            UI: {CLIP}" not in str(made)


def test_reports_have_uids_of_their_own_and_the_networks_has_one() -> None:
    one, two = (document([TRACK], [header()], REPORT) for _ in range(2))
    assert one.SOPInstanceUID != two.SOPInstanceUID and one.SeriesInstanceUID != two.SeriesInstanceUID
    first, second, other = (
        read(made).content.get_observer_contexts()[0].observer_identifying_attributes.uid
        for made in (one, two, document([TRACK], [header()], {**REPORT, "weights": {"sha256": "cd" * 32}}))
    )
    assert first == second != other


def test_the_version_is_the_projects() -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    names = [re.search(rf'^{key} = "(.+)"$', text, re.MULTILINE) for key in ("name", "version")]
    assert [name and name[1] for name in names] == [SOFTWARE, VERSION]
