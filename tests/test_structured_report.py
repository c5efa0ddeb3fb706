"""utils/structured_report.py: what was found in DICOM clips, written and read back by pydicom and highdicom."""

from __future__ import annotations

import copy
import io
import json
import logging
import random
from pathlib import Path
from typing import Any

import pytest

from utils import structured_report
from utils.identifiers import Identifiers
from utils.log import InputError
from utils.structured_report import write_structured_report

pydicom = pytest.importorskip("pydicom")
sr = pytest.importorskip("highdicom.sr")
pytest.importorskip("dicognito")

OURS, KEPT = Identifiers(bytes(range(32))), Identifiers(b"", keep=True)
STILL, CLIP, RETIRED = (f"1.2.840.10008.5.1.4.1.1.{end}" for end in ("6.1", "3.1", "3"))
NATIVE, JPEG, MPEG = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.102"
PATIENT = {
    "PatientID": "MRN-551-X", "PatientName": "Fältskog^Åsa", "PatientBirthDate": "19510203", "PatientSex": "F",
    "StudyDate": "20240229", "StudyTime": "071839", "AccessionNumber": "ACC-9917", "StudyID": "STUDY-7",
    "ReferringPhysicianName": "Zauberer^Oz",
}  # fmt: skip
EXTRA = {
    "InstitutionName": "Spital Hintertupf", "StationName": "KELLER-3", "OperatorsName": "Hand^Ruhige",
    "ImageComments": "see Frau Fältskog", "StudyDescription": "TTE Fältskog", "DeviceSerialNumber": "SN-4711",
}  # fmt: skip
NOTICE = "Research software, not a medical device: prüfen."
REPORT = {
    "created": "2026-11-29T15:40:57+00:00", "notice": NOTICE, "weights": {"file": "best.pt", "sha256": "ab" * 32},
    "settings": {"conf_thres": 0.25, "track_frames": 3},
}  # fmt: skip


def write_clip(path: Path, instance: str = "1.2.3.4", kind: str = CLIP, syntax: str = NATIVE, **values: Any) -> Path:
    """An ultrasound file of 4x6 pixels; a value of None leaves the attribute out."""
    dataset = pydicom.Dataset()
    given = {
        "SpecificCharacterSet": "ISO_IR 100", "SOPClassUID": kind, "SOPInstanceUID": instance,
        "StudyInstanceUID": "1.2.3", "SeriesInstanceUID": "1.2.3.1", "Modality": "US", **PATIENT, **EXTRA,
        "NumberOfFrames": 60, "Rows": 4, "Columns": 6, "SamplesPerPixel": 1, "BitsAllocated": 8, "BitsStored": 8,
        "HighBit": 7, "PixelRepresentation": 0, "PhotometricInterpretation": "MONOCHROME2", **values,
    }  # fmt: skip
    for keyword, value in given.items():
        if value is not None:
            setattr(dataset, keyword, value)
    if syntax == NATIVE:
        dataset.PixelData = bytes(24 * int(given["NumberOfFrames"] or 1))
    else:  # a video is one piece, whatever its frames
        dataset.PixelData = pydicom.encaps.encapsulate([b"\0" * 64] * (1 if syntax == MPEG else 60))
    dataset["PixelData"].VR = "OB"
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.file_meta.MediaStorageSOPClassUID, dataset.file_meta.MediaStorageSOPInstanceUID = kind, instance
    pydicom.dcmwrite(path, dataset, enforce_file_format=True)
    return path


def track(number: int = 1, name: str = "MR", frame: int = 22, **values: Any) -> dict[str, Any]:
    given = {
        "id": number, "class": 1, "name": name, "frames": 25, "uncertain": False, "boxes": [],
        "onset": {"frame": 12, "time": 0.4}, "end": {"frame": 40, "time": 1.333},
        "peak": {"frame": 20, "time": 0.667, "confidence": 0.91},
        "largest": {"frame": frame, "box": [200.5, 150.0, 260.1, 230.0], "cm": [2.1, 2.8]},
    }  # fmt: skip
    return {**given, **values}


def found(name: str = "clip-1", tracks: list[dict[str, Any]] | None = None, **values: Any) -> dict[str, Any]:
    view = {"name": "A4C", "confidence": 0.83, "agreement": 0.91, "frames": 55, "uncertain": True}
    return {"id": name, "frames": 60, "view": view, "tracks": [track()] if tracks is None else tracks, **values}


def study(*clips: dict[str, Any]) -> dict[str, Any]:
    return {"id": "study-1", "uid": None, "patient": None, "clips": list(clips or (found(),)), "valves": []}


def report_of(folder: Path, made: dict[str, Any], sources: dict[str, Path], by: Identifiers = OURS) -> Any:
    """The report as highdicom reads it."""
    path = write_structured_report(folder, made, REPORT, sources, by)
    assert path == folder / "study-1.dcm"
    return sr.srread(path)


def values_of(group: Any) -> dict[str, tuple[float, str]]:
    return {item.name.meaning: (item.value, item.unit.value) for item in group.get_measurements()}


def answers_of(group: Any) -> dict[str, str]:
    return {item.name.meaning: item.value.meaning for item in group.get_qualitative_evaluations()}


@pytest.mark.parametrize(("kind", "syntax"), [(CLIP, JPEG), (CLIP, MPEG), (RETIRED, NATIVE), ("1.2.9", NATIVE)])
@pytest.mark.parametrize("by", [OURS, KEPT], ids=["names", "kept"])
def test_a_track_reads_back_as_it_was_found(tmp_path: Path, kind: str, syntax: str, by: Identifiers) -> None:
    source = write_clip(tmp_path / "a.dcm", kind=kind, syntax=syntax)
    report = report_of(tmp_path, study(), {"clip-1": source}, by)
    (group,) = report.content.get_planar_roi_measurement_groups()
    assert group.finding_type == sr.CodedConcept("48724000", "SCT", "Mitral regurgitation")
    assert group.finding_category.value == "404684003" and group.finding_sites[0].value.value == "91134007"
    assert group.tracking_identifier == "clip-1 track 1" and group.tracking_uid.is_valid
    assert values_of(group) == {
        "Certainty of Finding": (91.0, "%"), "Number of Frames": (25, "{frames}"), "Width": (2.1, "cm"),
        "Onset, from the first frame": (0.4, "s"), "Height": (2.8, "cm"),
    }  # fmt: skip
    assert answers_of(group)["Uncertain result"] == "No"
    region = group.roi
    assert region.graphic_type.value == "POLYLINE" and region.value.shape == (5, 2)
    corners = [(200.5, 150.0), (260.1, 150.0), (260.1, 230.0), (200.5, 230.0), (200.5, 150.0)]
    assert region.value.tolist() == [pytest.approx(corner, rel=1e-6) for corner in corners]
    image = region.ContentSequence[0]
    assert (image.referenced_sop_class_uid, image.referenced_sop_instance_uid) == (kind, by.uid("1.2.3.4"))
    frames = {item.name.meaning: item.referenced_images for item in group.get_measurements()}
    assert image.referenced_frame_numbers == [23]  # DICOM counts from 1
    assert frames["Certainty of Finding"][0].referenced_frame_numbers == [21]
    assert frames["Onset, from the first frame"][0].referenced_frame_numbers == [13]
    assert report.get_evidence() == [(by.uid("1.2.3"), by.uid("1.2.3.1"), by.uid("1.2.3.4"), kind)]
    (whole,) = report.content.get_image_measurement_groups()
    assert answers_of(whole) == {"Image View": "Apical four chamber", "Uncertain result": "Yes"}
    assert values_of(whole) == {
        "Number of Frames": (60, "{frames}"), "Certainty of Feature": (83.0, "%"),
        "Frames that agree with the view": (91.0, "%"),
    }  # fmt: skip
    assert whole.source_images[0].referenced_frame_numbers is None


def items(report: Any) -> list[Any]:
    """All datasets in a report, itself first."""
    inside = [inner for element in report if element.VR == "SQ" for item in element.value for inner in items(item)]
    return [report, *inside]


def texts(report: Any) -> dict[str, list[str]]:
    given: dict[str, list[str]] = {}
    for item in items(report):
        if item.get("ValueType") == "TEXT":
            given.setdefault(item.ConceptNameCodeSequence[0].CodeMeaning, []).append(item.TextValue)
    return given


def test_a_machine_found_it_and_nobody_has_looked_at_it(tmp_path: Path) -> None:
    report = report_of(tmp_path, study(), {"clip-1": write_clip(tmp_path / "a.dcm")})
    assert report.SOPClassUID == "1.2.840.10008.5.1.4.1.1.88.33" and report.Modality == "SR"
    flags = report.CompletionFlag, report.VerificationFlag, report.PreliminaryFlag
    assert flags == ("PARTIAL", "UNVERIFIED", "PRELIMINARY")
    (observer,) = report.content.get_observer_contexts()
    assert observer.observer_type.meaning == "Device"
    assert not [item for item in items(report) if item.get("ValueType") == "PNAME"]
    said = texts(report)
    assert said["Comment"] == [NOTICE] and "not a medical device" in said["Device Observer Model Name"][0]
    assert "not a medical device" in report.SeriesDescription
    assert said["Algorithm Name"] == ["echo-joint"] * 2 and len(set(said["Algorithm Version"])) == 1
    assert {f"weights sha256={'ab' * 32}", "conf_thres=0.25 track_frames=3"} == set(said["Algorithm Parameters"])


def test_no_coded_term_is_empty_and_private_ones_are_explained(tmp_path: Path) -> None:
    names = ["MR", "AR", "TR", "PR", "paravalvular leak", "逆流", "a\\b", ""]
    tracks = [track(i, name) for i, name in enumerate(names)]
    report = report_of(tmp_path, study(found(tracks=tracks)), {"clip-1": write_clip(tmp_path / "a.dcm")})
    terms = [item for item in items(report) if "CodeMeaning" in item]
    assert len(terms) > 50
    for term in terms:
        assert term.CodeValue and term.CodeMeaning and term.CodingSchemeDesignator
        assert len(term.CodeValue) <= 16 and len(term.CodeMeaning) <= 64
    (scheme,) = {term.CodingSchemeDesignator for term in terms} - {"SCT", "DCM", "UCUM", "UMLS", "RFC5646"}
    assert [item.CodingSchemeDesignator for item in report.CodingSchemeIdentificationSequence] == [scheme]
    groups = report.content.get_planar_roi_measurement_groups()
    kinds = [group.finding_type for group in groups]
    assert [kind.value for kind in kinds[:4]] == ["48724000", "60234000", "111287006", "91434003"]
    assert [kind.meaning for kind in kinds[4:]] == ["paravalvular leak", "逆流", "a b", "class 1"]


def test_without_the_key_nobody_learns_whose_it_is(tmp_path: Path) -> None:
    source = write_clip(tmp_path / "a.dcm")
    path = write_structured_report(tmp_path, study(), REPORT, {"clip-1": source}, OURS)
    assert path
    content = path.read_bytes()
    secret = [part for value in (PATIENT | EXTRA).values() for part in (value, *value.split("^"), *value.split())]
    secret = [text for text in secret if len(text) > 3] + ["1.2.3.4", "1.2.3.1", "a.dcm", "best.pt"]
    for text in secret:
        assert text.encode("latin-1") not in content and text.encode() not in content, text
    report = pydicom.dcmread(path)
    assert report.PatientID == OURS.name("patient", PATIENT["PatientID"])
    assert report.StudyInstanceUID == OURS.uid("1.2.3") and report.PatientIdentityRemoved == "YES"
    assert (report.PatientBirthDate, report.PatientSex, report.StudyTime) == ("", "", "")
    twin = OURS.anonymised(pydicom.dcmread(source))  # as the clip itself would leave
    for keyword in PATIENT:
        assert report[keyword].value == twin[keyword].value, keyword


def test_what_is_kept_is_the_patients_own(tmp_path: Path) -> None:
    report = report_of(tmp_path, study(), {"clip-1": write_clip(tmp_path / "a.dcm")}, KEPT)
    assert {keyword: str(report[keyword].value) for keyword in PATIENT} == PATIENT
    assert report.StudyInstanceUID == "1.2.3" and "PatientIdentityRemoved" not in report


def test_several_clips_and_a_still_are_one_report(tmp_path: Path) -> None:
    sources = {
        "clip-1": write_clip(tmp_path / "a.dcm"),
        "clip-2": write_clip(tmp_path / "b.dcm", "1.2.3.5", syntax=MPEG, SeriesInstanceUID="1.2.3.2"),
        "clip-4": write_clip(tmp_path / "d.dcm", "1.2.3.6", STILL, NumberOfFrames=None),
    }
    one = {"frame": 0, "time": None}
    still = track(1, "AR", 0, onset=one, peak={**one, "confidence": 0.5}, frames=1)
    clips = found(), found("clip-2", [track(1), track(2, "TR")], view=None), found("clip-3"), found("clip-4", [still])
    report = report_of(tmp_path, study(*clips), sources)  # clip-3 is no DICOM
    assert {instance for *_, instance, _ in report.get_evidence()} == {OURS.uid(f"1.2.3.{i}") for i in (4, 5, 6)}
    groups = report.content.get_planar_roi_measurement_groups()
    names = [f"clip-{clip} track {number}" for clip, number in ((1, 1), (2, 1), (2, 2), (4, 1))]
    assert [group.tracking_identifier for group in groups] == names
    assert [group.roi.ContentSequence[0].referenced_frame_numbers for group in groups] == [[23], [23], [23], None]
    assert "Onset, from the first frame" not in values_of(groups[-1])
    wholes = report.content.get_image_measurement_groups()
    assert [group.tracking_identifier for group in wholes] == ["clip-1", "clip-2", "clip-4"]
    assert answers_of(wholes[1]) == {}
    assert len({group.tracking_uid for group in [*groups, *wholes]}) == 7


def test_what_is_not_known_is_not_said(tmp_path: Path) -> None:
    largest = {"frame": 3, "box": [1, 2, 3, 4], "cm": None}
    bare = track(onset={"frame": 3, "time": None}, largest=largest, peak={"frame": 3, "time": None, "confidence": 1.0})
    report = report_of(tmp_path, study(found(tracks=[bare])), {"clip-1": write_clip(tmp_path / "a.dcm")})
    (group,) = report.content.get_planar_roi_measurement_groups()
    assert values_of(group) == {"Certainty of Finding": (100.0, "%"), "Number of Frames": (25, "{frames}")}
    report = report_of(tmp_path, study(found(tracks=[], view=None)), {"clip-1": tmp_path / "a.dcm"})
    assert report.content.get_planar_roi_measurement_groups() == [] and len(report.get_evidence()) == 1


def test_a_study_without_dicom_has_no_report(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        assert write_structured_report(tmp_path, study(), REPORT, {"clip-9": tmp_path / "x"}, OURS) is None
    assert "study-1: no structured report, as none of its clips is DICOM" in caplog.text
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "lacking",
    [
        dict.fromkeys(PATIENT, ""),
        dict.fromkeys(PATIENT),
        {"PatientBirthDate": "1951", "StudyDate": "20241340", "StudyTime": "morning", "PatientSex": "X"},
        {"PatientName": "Fältskog^Åsa\n" * 9, "PatientID": "x" * 99, "StudyID": "7" * 40, "SpecificCharacterSet": None},
        {"SpecificCharacterSet": "NONSENSE"},
        {"PatientID": ["1", "2"], "AccessionNumber": ["1", "2"], "StudyDate": ["20240101", "20240102"]},
    ],
    ids=["empty", "absent", "malformed", "long", "charset", "several"],
)
@pytest.mark.filterwarnings("ignore:")
def test_what_a_file_lacks_is_left_empty(tmp_path: Path, lacking: dict[str, Any]) -> None:
    with pydicom.config.disable_value_validation():
        source = write_clip(tmp_path / "a.dcm", **lacking)
    report = report_of(tmp_path, study(), {"clip-1": source}, KEPT)
    for keyword in ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyID"):
        assert keyword in report  # type 2: there, if empty
    assert len(report.content.get_planar_roi_measurement_groups()) == 1


@pytest.mark.parametrize("keyword", ["SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"])
@pytest.mark.parametrize("value", [None, "", "abc", "1.2.03", "1." * 40 + "1"])
@pytest.mark.filterwarnings("ignore:")
def test_a_file_without_its_uids_is_refused_in_one_line(tmp_path: Path, keyword: str, value: Any) -> None:
    with pydicom.config.disable_value_validation():
        source = write_clip(tmp_path / "a.dcm", **dict[str, Any]({keyword: value}))
    with pytest.raises(InputError, match=rf"a\.dcm: expected DICOM with a {keyword}, got ") as caught:
        write_structured_report(tmp_path, study(), REPORT, {"clip-1": source}, OURS)
    assert "\n" not in str(caught.value) and [path.name for path in tmp_path.iterdir()] == ["a.dcm"]


def test_files_that_do_not_fit_what_was_found_are_refused(tmp_path: Path) -> None:
    sources = {
        "clip-1": write_clip(tmp_path / "a.dcm"),
        "clip-2": write_clip(tmp_path / "b.dcm", "1.2.5", StudyInstanceUID="9.9"),
    }
    with pytest.raises(InputError, match=r"b\.dcm: expected a clip of the same study as .*a\.dcm, got one of another"):
        write_structured_report(tmp_path, study(found(), found("clip-2")), REPORT, sources, OURS)
    short = {"clip-1": write_clip(tmp_path / "a.dcm", NumberOfFrames=22)}
    with pytest.raises(InputError, match=r"a\.dcm: expected a frame 22 \(from 0\), got 22 frames"):
        write_structured_report(tmp_path, study(), REPORT, short, OURS)
    with pytest.raises(InputError, match=r"gone\.dcm: expected a DICOM file, got FileNotFoundError"):
        write_structured_report(tmp_path, study(), REPORT, {"clip-1": tmp_path / "gone.dcm"}, OURS)
    assert not (tmp_path / "study-1.dcm").exists()


@pytest.mark.filterwarnings("ignore:")
def test_broken_files_are_refused_in_one_line_or_do(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    whole, rng, refused = write_clip(tmp_path / "a.dcm").read_bytes()[:900], random.Random(0), 0
    for trial in range(20):
        content = bytearray(whole)
        if trial < 5:
            del content[rng.randrange(len(content)) :]
        for _ in range(trial % 5):
            content[rng.randrange(len(content))] = rng.choice((0, 255, rng.randrange(256)))
        (tmp_path / "b.dcm").write_bytes(content)
        try:
            write_structured_report(tmp_path, study(), REPORT, {"clip-1": tmp_path / "b.dcm"}, (OURS, KEPT)[trial % 2])
        except InputError as error:
            refused += 1
            assert "\n" not in str(error)
    assert 2 < refused < 20
    assert capfd.readouterr() == ("", "")  # the packages repeat what is in a file


def drop_group(report: Any) -> None:
    inside = next(item for item in report.ContentSequence if item.ConceptNameCodeSequence[0].CodeValue == "126010")
    del inside.ContentSequence[0]


def other_frame(report: Any) -> None:
    (item,) = (item for item in items(report) if item.get("ReferencedFrameNumber") == 23)
    item.ReferencedFrameNumber = 22


def other_value(report: Any) -> None:
    item = next(item for item in items(report) if item.get("FloatingPointValue") == 91.0)
    item.FloatingPointValue, item.NumericValue = 19.0, 19


def other_box(report: Any) -> None:
    item = next(item for item in items(report) if "GraphicData" in item)
    item.GraphicData = [value + 1 for value in item.GraphicData]


def other_code(report: Any) -> None:
    next(item for item in items(report) if item.get("CodeValue") == "48724000").CodeValue = "60234000"


def other_patient(report: Any) -> None:
    report.PatientID = "somebody else"


def verified(report: Any) -> None:
    report.VerificationFlag = "VERIFIED"


def other_evidence(report: Any) -> None:
    del report.CurrentRequestedProcedureEvidenceSequence[0]


@pytest.mark.parametrize(
    "change", [drop_group, other_frame, other_value, other_box, other_code, other_patient, verified, other_evidence]
)
def test_a_report_that_reads_back_otherwise_is_not_written(
    tmp_path: Path, change: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = structured_report.document

    def changed(*given: Any) -> Any:
        report = made(*given)
        change(report)
        return report

    source = {"clip-1": write_clip(tmp_path / "a.dcm")}
    before = write_structured_report(tmp_path, study(), REPORT, source, OURS)
    assert before
    content = before.read_bytes()
    monkeypatch.setattr(structured_report, "document", changed)
    with pytest.raises(InputError, match=r"study-1\.dcm: expected a structured report that reads back as it was meant"):
        write_structured_report(tmp_path, study(), REPORT, source, OURS)
    assert before.read_bytes() == content and len(list(tmp_path.iterdir())) == 2  # the one before stays


def test_a_study_that_cannot_be_said_in_dicom_is_one_line(tmp_path: Path) -> None:
    source = {"clip-1": write_clip(tmp_path / "a.dcm")}
    with pytest.raises(InputError, match=r"study-1\.dcm: expected what a structured report can hold, got: "):
        write_structured_report(tmp_path, study(), {**REPORT, "created": "yesterday"}, source, OURS)


def test_nothing_that_was_handed_in_is_changed(tmp_path: Path) -> None:
    made, source = study(), write_clip(tmp_path / "a.dcm")
    before, content = json.dumps([made, REPORT]), source.read_bytes()
    write_structured_report(tmp_path, copy.deepcopy(made), REPORT, {"clip-1": source}, OURS)
    assert json.dumps([made, REPORT]) == before and source.read_bytes() == content
    assert io.BytesIO(content).read(132)[128:] == b"DICM"
