"""A lab's folder through detect.py: clips and studies, boxes where they are, nothing that says whose it is."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import cv2
import jsonschema
import numpy as np
import pytest

import detect
from tests.dicoms import loop, write_dicom
from tests.labs import INSTANCE, MARK, PATIENT, REGION, SIZE, STUDY, lab, mark_seen, marked, reported
from utils import reporting
from utils.config import ROOT
from utils.corrections import Corrections, Review
from utils.draw import save
from utils.images import read_image
from utils.log import InputError
from utils.predict import Predictor
from utils.regions import COLOUR, FLAT, Region
from utils.sources import Source

__all__ = ["mark_seen"]
pytestmark = pytest.mark.usefixtures("mark_seen")
SCHEMA = json.loads((ROOT / "docs" / "study-report.schema.json").read_text())
NAMED = (PATIENT, "ID-4711", STUDY, INSTANCE, "20240131", "IMG1", "early.dcm", "Erika", "still.png")


@pytest.fixture
def study(tmp_path: Path) -> Path:
    return lab(tmp_path / "study")


def content(run: Path) -> dict[str, Any]:
    read = json.loads((run / "study.json").read_text())
    jsonschema.validate(read, SCHEMA)
    return dict(read)


def clips(run: Path, kind: str) -> list[dict[str, Any]]:
    return [clip for study in content(run)["studies"] for clip in study["clips"] if clip["kind"] == kind]


def test_clips_come_in_order_of_acquisition_and_studies_by_uid_or_folder(study: Path) -> None:
    first, second = content(reported(study))["studies"]
    assert [clip["kind"] for clip in first["clips"]] == ["dicom", "dicom", "video"]
    assert [clip["frames"] for clip in first["clips"]] == [6, 8, 5]  # the earlier one lies in a folder of its own
    assert [(clip["kind"], clip["frames"]) for clip in second["clips"]] == [("frames", 4), ("still", 1)]
    assert second["clips"][0]["timeline"]["frame"] == [0, 1, 2, 3]


def test_boxes_come_back_in_the_whole_frame_and_in_cm(study: Path) -> None:
    with_region = next(clip for clip in clips(reported(study), "dicom") if clip["frames"] == 8)
    (track,) = with_region["tracks"]
    assert track["name"] == "MR" and track["largest"]["box"] == list(map(float, MARK))
    assert track["largest"]["cm"] == [1.0, 2.0]  # 20 pixels of .05 and .1 cm
    assert track["onset"] == {"frame": 2, "time": 0.08} and track["frames"] == 5 and not track["uncertain"]
    assert with_region["area"] == list(REGION.rectangle) and with_region["cm_per_pixel"] == [0.05, 0.1]
    view = with_region["view"]
    assert view["name"] == "A4C" and view["agreement"] == pytest.approx(5 / 8, abs=1e-4) and view["uncertain"]


def test_what_is_seen_of_a_video_and_of_frames_is_their_sector(study: Path) -> None:
    run = reported(study)
    for kind in ("video", "frames"):
        (clip,) = clips(run, kind)
        assert clip["area"] is not None and clip["cm_per_pixel"] is None
        (track,) = clip["tracks"]
        assert np.abs(np.array(track["largest"]["box"]) - MARK).max() <= 3  # the video is coded with loss
    assert clips(run, "frames")[0]["tracks"][0]["boxes"][0][0] == 1


def test_rules_are_flags(study: Path) -> None:
    (track,) = next(clip for clip in clips(reported(study, track_frames=6), "dicom") if clip["frames"] == 8)["tracks"]
    assert track["uncertain"]
    run = reported(study, view_agreement=0.6, name="other")
    assert not next(clip for clip in clips(run, "dicom") if clip["frames"] == 8)["view"]["uncertain"]
    assert content(run)["settings"]["view_agreement"] == 0.6


def test_nothing_that_is_written_says_whose_it_is(study: Path) -> None:
    run = reported(study, save_html=True, save_dicom_sr=True, save_csv=True, save_txt=True, save_crop=True)
    files = [path for path in run.rglob("*") if path.is_file()]
    assert len([path for path in files if path.suffix == ".dcm"]) == 1 and (run / "study.html").stat().st_size > 50_000
    for name in NAMED:
        assert not [path for path in files if name.lower() in path.name.lower()], name
        assert not [path for path in files if name.encode() in path.read_bytes()], name
    assert (run / "unreadable.txt").read_text().startswith("file-")
    assert content(run)["studies"][0]["uid"] is None


def test_a_window_on_the_screen_writes_no_name_either(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("utils.writer.show", lambda *_: True)
    monkeypatch.setattr(cv2, "destroyAllWindows", lambda: None)
    monkeypatch.setattr(detect, "has_screen", lambda: True)
    run = reported(study, save_study=False, view_img=True, save_csv=True, save_txt=True)
    files = [path for path in run.rglob("*") if path.is_file()]
    assert len(list(run.glob("clip-*.mp4"))) == 1 and list((run / "labels").glob("clip-*_*.txt"))
    for name in ("IMG1", "ID-4711", INSTANCE):  # of the DICOM file; the others keep their names
        assert not [path for path in files if name.lower() in path.name.lower()], name
        assert not [path for path in files if name.encode() in path.read_bytes()], name


def test_valves_that_were_not_looked_for_are_not_reported_as_not_found(study: Path) -> None:
    found = content(reported(study, classes=[1], agnostic_nms=True))
    assert [valve["name"] for valve in found["studies"][0]["valves"]] == ["MR"]
    assert found["notice"].endswith(" Looked for MR alone.")
    assert (found["settings"]["classes"], found["settings"]["agnostic_nms"]) == ([1], True)


@pytest.mark.parametrize("source", ["study", ".", "study/**", "study/../study", "list.txt"])
def test_folders_of_files_that_cannot_be_read_are_not_said(
    study: Path, source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ward = study / "Ward Huber"
    write_dicom(ward / "short Meier.dcm", loop(6, *SIZE), NumberOfFrames=9)
    (ward / "bad\nMeier.png").write_bytes(b"nonsense")
    (study.parent / "list.txt").write_text("study/IMG1\nstudy/Ward Huber/short Meier.dcm\nstudy/Ward Huber/Meier.pdf\n")
    monkeypatch.chdir(study if source == "." else study.parent)
    run = reported(study, source=source, save_html=True, save_csv=True)
    assert len(content(run)["skipped"]) >= 2
    for name in ("Huber", "Meier"):
        assert not [path for path in run.rglob("*") if path.is_file() and name.encode() in path.read_bytes()], name


def test_asked_to_outputs_keep_their_names_and_reports_say_whose_they_are(study: Path) -> None:
    run = reported(study, keep_identifiers=True, save_csv=True)
    assert (run / "IMG1.mp4").is_file() and (run / "still.png").is_file() and (run / f"{PATIENT}.mp4").is_file()
    first = content(run)["studies"][0]
    assert (first["uid"], first["patient"], first["clips"][1]["uid"]) == (STUDY, "ID-4711", INSTANCE)
    assert clips(run, "frames")[0]["timeline"]["frame"] == [2, 9, 10, 11]
    assert (run / f"{PATIENT}-c1-f9.png").is_file()
    assert first["clips"][1]["file"] == "IMG1" and first["clips"][1]["acquired"].startswith("20240131 120000")
    assert content(run)["skipped"][0]["file"] == "broken.dcm" and not (study.parent / "runs/identifiers.key").exists()
    with (run / "predictions.csv").open(newline="") as file:
        assert {"IMG1", "still.png", f"{PATIENT}.avi"} <= {row[0] for row in csv.reader(file)}


def test_names_are_the_same_wherever_the_study_lies_and_another_key_gives_others(study: Path, tmp_path: Path) -> None:
    moved = shutil.copytree(study, tmp_path / "elsewhere" / "study")
    before = reported(study)
    same = reported(moved, project=str(before.parent))
    names = [{clip["id"] for study in content(run)["studies"] for clip in study["clips"]} for run in (before, same)]
    assert names[0] == names[1] and len(names[0]) == 5
    other = content(reported(moved))["studies"]
    assert not names[0] & {clip["id"] for study in other for clip in study["clips"]}


def drawn(run: Path) -> Any:
    """The first drawn frame of the loop with text, by its size."""
    (video,) = [path for path in run.glob("*.mp4") if frames(path) == 8]
    capture = cv2.VideoCapture(str(video))
    image = capture.read()[1]
    capture.release()
    return image


def frames(path: Path) -> int:
    capture = cv2.VideoCapture(str(path))
    count = round(capture.get(cv2.CAP_PROP_FRAME_COUNT))
    capture.release()
    return count


@pytest.mark.parametrize("options", [{"save_study": True}, {"save_study": False}], ids=["report", "no report"])
def test_burnt_in_text_is_black_unless_it_is_asked_for(study: Path, options: dict[str, Any]) -> None:
    text = (slice(1, 14), slice(80, 128))  # outside the region, and right of the view's plate
    hidden = drawn(reported(study, hide_labels=True, **options))
    shown = drawn(reported(study, hide_labels=True, keep_overlay=True, name="all", **options))
    assert hidden[text].max() < 40 < 100 < shown[text].max()


def test_where_nothing_says_what_is_ultrasound_the_picture_is_black(tmp_path: Path) -> None:
    dark = np.zeros((2, *SIZE, 3), np.uint8)
    dark[:, 1:12, 2:90] = 200  # text alone
    write_dicom(tmp_path / "study" / "a.dcm", dark)
    run = reported(tmp_path / "study", save_html=True)
    image = cv2.VideoCapture(str(next(run.glob("*.mp4")))).read()[1]
    assert image[1:12, 80:90].max() < 40


def test_without_a_report_a_dicom_file_is_a_video_like_others(tmp_path: Path) -> None:
    write_dicom(tmp_path / "study" / "a.dcm", marked(loop(4, *SIZE), [0, 1]), frame_time=50)
    write_dicom(tmp_path / "study" / "b.dcm", loop(1, *SIZE))
    run = reported(tmp_path / "study", save_study=False, save_csv=True)
    assert sorted(path.suffix for path in run.iterdir()) == [".csv", ".mp4", ".png"]
    capture = cv2.VideoCapture(str(next(run.glob("*.mp4"))))
    assert capture.get(cv2.CAP_PROP_FPS) == 20 and frames(next(run.glob("*.mp4"))) == 4
    assert not (run / "study.json").exists()


def test_files_that_break_off_are_reported_as_far_as_they_go(tmp_path: Path) -> None:
    path = write_dicom(tmp_path / "study" / "a.dcm", marked(loop(6, *SIZE), range(6)), NumberOfFrames=9)
    write_dicom(tmp_path / "study" / "b.dcm", loop(2, *SIZE))
    (clip, _) = clips(reported(path.parent), "dicom")
    assert clip["frames"] == 9 and len(clip["timeline"]["frame"]) == 6 and "6 came" in clip["note"]
    assert PATIENT not in clip["note"] and "a.dcm" not in clip["note"]


def test_so_is_the_only_file(tmp_path: Path) -> None:
    path = write_dicom(tmp_path / "a.dcm", marked(loop(6, *SIZE), range(6)), NumberOfFrames=9)
    run = reported(path, save_html=True)
    (clip,) = clips(run, "dicom")
    assert len(clip["timeline"]["frame"]) == 6 and "6 came" in clip["note"] and (run / "unreadable.txt").is_file()
    path.write_bytes(path.read_bytes()[:700])
    with pytest.raises(InputError, match="without pixels came"):
        reported(path, name="none")
    assert not (run.parent / "none").exists()


def stopped(*_: object) -> None:
    raise KeyboardInterrupt


def test_an_earlier_report_in_the_same_folder_is_not_taken_for_this_ones(
    study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = reported(study, save_html=True)
    monkeypatch.setattr(Predictor, "look", stopped)
    with pytest.raises(KeyboardInterrupt):
        reported(study, exist_ok=True)
    assert not [path.name for path in run.iterdir() if path.name in ("study.json", "findings.csv", "study.html")]


def test_a_clip_that_was_cut_off_goes_on_to_the_same_report(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = reported(study, save_html=True)
    monkeypatch.setattr(detect, "placed", lambda device, threads, processes, shared: (device, threads))
    cut = study.parent / "runs" / "cut"
    broken = study / "sub" / "early.dcm"
    data = broken.read_bytes()
    broken.unlink()
    reported(study, save_html=True, name="cut", resume=True)
    broken.write_bytes(data)
    assert reported(study, save_html=True, name="cut", resume=True) == cut
    one, two = content(whole), content(cut)
    one_clips, two_clips = ({clip["id"]: clip for s in made["studies"] for clip in s["clips"]} for made in (one, two))
    assert one_clips == two_clips
    assert (cut / "study.html").stat().st_size == pytest.approx((whole / "study.html").stat().st_size, rel=0.01)
    reported(study, save_html=True, name="cut", resume=True, track_frames=6)  # nothing to do but the report
    assert content(cut)["settings"]["track_frames"] == 6


@pytest.mark.parametrize("keep", [False, True])
def test_a_run_that_can_go_on_says_what_of_it_is_not_to_be_shared(
    study: Path, keep: bool, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO", "echo"):
        run = reported(study, resume=True, keep_identifiers=keep)
    assert (run / ".progress").is_dir() and (f"{run / '.progress'}: not to be shared" in caplog.text) is not keep


def test_frames_for_a_review_are_decoded_anew(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    handed: list[Review] = []
    monkeypatch.setattr(reporting, "serve", lambda review, port: handed.append(review))
    run = reported(study, review=True, save_study=False)
    (review,) = handed
    assert review.folder == run and (run / "study.html").is_file()
    found = {clip["kind"]: clip for study in review.report["studies"] for clip in study["clips"]}
    image, area = review.image_of(found["frames"]["id"], 2), review.area_of(found["frames"]["id"], 0)
    assert np.array_equal(image, read_image(study / "frames" / f"{PATIENT}-c1-f10.png"))
    assert area is not None and list(area.seen) == found["frames"]["area"]
    loop_id = next(clip["id"] for clip in clips(run, "dicom") if clip["frames"] == 8)
    assert review.image_of(loop_id, 3)[35, 50].tolist() == [0, 255, 0]
    assert review.area_of(loop_id, 3).seen == REGION.rectangle  # type: ignore[union-attr]


def test_a_correction_shows_of_a_frame_what_its_own_sector_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    handed: list[Review] = []
    monkeypatch.setattr(reporting, "serve", lambda review, port: handed.append(review))
    (tmp_path / "study").mkdir()
    whole = loop(1, *SIZE)[0]
    small = np.zeros_like(whole)
    small[24:72, 32:96] = whole[::2, ::2]
    text = (slice(74, 86), slice(40, 90))  # below the second frame's sector, within the first one's
    small[76:84:2, 40:90:2] = 255
    save(tmp_path / "study" / "c-1.png", whole)
    save(tmp_path / "study" / "c-2.png", small)
    dark = loop(7, *SIZE).copy()
    dark[:3] = 0  # of which the network sees all, and nothing may be shown
    write_dicom(tmp_path / "study" / "dark.dcm", dark)
    run = reported(tmp_path / "study", review=True, vid_stride=3)
    kept = Corrections(handed[0])
    for kind, number in (("frames", 1), ("dicom", 6)):
        (clip,) = clips(run, kind)
        kept.save({"clip": clip["id"], "frame": number, "reader": "R", "boxes": [], "view": None})
    (path,) = [path for path in (run / "corrections" / "images").iterdir() if path.stem.endswith("00001")]
    (seen,) = [read["seen"] for read in kept.all() if read["frame"] == 1]
    image = np.zeros_like(whole)
    image[seen[1] : seen[3], seen[0] : seen[2]] = read_image(path)
    assert image.any() and not image[text].any()


def test_a_finished_run_that_can_go_on_is_opened_again_for_a_review(
    study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(detect, "placed", lambda device, threads, processes, shared: (device, threads))
    handed: list[Review] = []
    monkeypatch.setattr(reporting, "serve", lambda review, port: handed.append(review))
    run = reported(study, save_html=True, name="kept", resume=True)
    before = content(run)
    assert not handed and reported(study, save_html=True, name="kept", resume=True, review=True) == run
    (review,) = handed
    assert {**review.report, "created": ""} == {**before, "created": ""}
    assert all(len(list(pictures)) == len(pictures.frames) for pictures in review.pictures.values())


def test_a_signal_while_the_report_is_written_ends_the_run_without_a_review(
    study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = reporting.write_page

    def interrupted(*given: Any) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        write(*given)

    monkeypatch.setattr(reporting, "write_page", interrupted)
    monkeypatch.setattr(reporting, "serve", lambda review, port: pytest.fail("served"))
    assert (reported(study, review=True) / "study.html").is_file()


def test_a_page_of_very_many_frames_shows_some(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reporting, "MOST_PICTURES", 12)
    run = reported(study, save_html=True)
    shown = (run / "study.html").read_text()
    assert 8 <= shown.count("/9j/") <= 16  # how the base64 of a JPEG begins; 24 frames in all


@pytest.mark.parametrize("keep", [False, True])
def test_frames_come_in_order_of_their_numbers_and_those_of_another_size_are_of_another_clip(
    tmp_path: Path, keep: bool
) -> None:
    (tmp_path / "study").mkdir()
    image = marked(loop(1, *SIZE), [0])[0]
    for number in (1, 2, 10, 11):
        save(tmp_path / "study" / f"c-f{number}.png", np.repeat(image, 2, 0) if number == 10 else image)
    (tmp_path / "study" / "c-f3.png").write_bytes(b"no picture")
    (tmp_path / "list.txt").write_text("".join(f"study/c-f{number}.png\n" for number in (11, 2, 3, 10, 1)))
    run = reported(tmp_path / "list.txt", keep_identifiers=keep, save_html=True)
    one, two = clips(run, "frames")
    assert one["timeline"]["frame"] == ([1, 2, 11] if keep else [0, 1, 4])
    assert two["timeline"]["frame"] == ([10] if keep else [3]) and two["height"] == 2 * SIZE[0]
    assert [box[0] for box in one["tracks"][0]["boxes"]] == one["timeline"]["frame"]
    drawn = {path.stem for path in run.glob("*.png")}
    assert drawn == ({f"c-f{n}" for n in (1, 2, 10, 11)} if keep else {f"{one['id']}-{n}" for n in (0, 1, 3, 4)})


def test_two_clips_of_one_name_are_told_apart(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        for number in (1, 2):
            write_dicom(tmp_path / "study" / folder / "x" / f"unused{number}.dcm", loop(1, *SIZE))
            cv2.imwrite(str(tmp_path / "study" / folder / f"c-{number}.png"), loop(1, *SIZE)[0])
    run = reported(tmp_path / "study", keep_identifiers=True)
    assert [clip["id"] for clip in clips(run, "frames")] == ["c", "c_2"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"source": "0"}, "--save-study: a source of files expected, .* got a camera or stream"),
        ({"source": "rtsp://host/x"}, "a camera or stream"),
        ({"track_iou": 1.5}, "--track-iou: expected"),
        ({"track_gap": -1}, "--track-gap: expected"),
        ({"track_frames": 0}, "--track-frames: expected"),
        ({"port": 70000}, "--port: expected"),
    ],
)
def test_what_cannot_be_reported_is_one_line(tmp_path: Path, options: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        reported(tmp_path, **options)
    assert "\n" not in str(caught.value)


def test_a_frame_that_is_gone_is_one_line(tmp_path: Path) -> None:
    path = write_dicom(tmp_path / "a.dcm", loop(2, *SIZE))
    assert reporting.frame_of(path, 1).number == 1
    with pytest.raises(InputError, match=r"a\.dcm: a frame 5 expected, none came"):
        reporting.frame_of(path, 5)


def test_the_network_is_given_the_region_alone(tmp_path: Path) -> None:
    region = Region((20, 16, 84, 80), FLAT, COLOUR)
    path = write_dicom(tmp_path / "a.dcm", loop(2, *SIZE), regions=[region])
    (first, _) = list(Source(str(path), 1, [path]))
    assert first.seen.shape == (64, 64, 3) and first.image.shape == (*SIZE, 3)
    assert np.shares_memory(first.seen, first.image)
