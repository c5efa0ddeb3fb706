"""detect.py's own parts: folders of everything, errors; test_main_job.py runs it as a user does."""

from __future__ import annotations

import csv
import os
import re
import threading
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

import detect
from tests.exported import saved
from tests.scripts import succeed
from utils import checkpoint
from utils.draw import save
from utils.log import InputError
from utils.writer import Writer


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Stills of two shapes, a damaged one and a video among them."""
    place = tmp_path / "frames"
    place.mkdir()
    random = np.random.default_rng(0)
    for number in range(7):
        save(place / f"f{number}.png", random.integers(0, 256, (40 if number % 3 else 80, 80, 3), np.uint8))
    (place / "f3b.png").write_bytes((place / "f3.png").read_bytes()[:500])
    video = cv2.VideoWriter(str(place / "f4b.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 25, (64, 48))
    for number in range(5):
        video.write(np.full((48, 64, 3), 40 * number, np.uint8))
    video.release()
    return place


def detected(folder: Path, **options: Any) -> Path:
    """A run with everything written, at a threshold that an untrained network passes."""
    return detect.run(
        weights=str(saved("rect")), source=str(folder), project=str(folder.parent / "runs"), device="cpu", amp=False,
        conf_thres=0.5, save_txt=True, save_view=True, save_csv=True, save_conf=True, **options,
    )  # fmt: skip


def rows(run: Path) -> list[list[str]]:
    with (run / "predictions.csv").open(newline="") as file:
        return list(csv.reader(file))[1:]


def test_a_relative_project_is_one_of_the_current_folder_also_for_a_run_that_goes_on(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder.parent)
    given = {"weights": str(saved("rect")), "source": str(folder), "project": "here", "nosave": True, "save_csv": True}
    runs = [detect.run(**given, **more) for more in ({}, {}, {"exist_ok": True}, {"name": "going", "resume": True})]
    assert runs == [folder.parent / "here" / name for name in ("exp", "exp2", "exp", "going")]
    before = (runs[-1] / "predictions.csv").read_bytes()
    monkeypatch.chdir(folder)
    assert detect.run(**{**given, "project": "../here"}, name="going", resume=True).samefile(runs[-1])
    assert (runs[-1] / "predictions.csv").read_bytes() == before and not (folder / "here").exists()


def test_batches_write_what_one_by_one_writes_and_skip_a_damaged_file(
    folder: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    runs = [detected(folder, batch_size=size) for size in (1, 3, 100, None)]
    assert caplog.text.count("skipped") == len(runs) and "f3b.png: truncated" in caplog.text
    assert capsys.readouterr().out.count(" in 12 frames, ") == len(runs)
    files = [{path.relative_to(run): path for path in run.rglob("*") if path.is_file()} for run in runs]
    expected = rows(runs[0])
    order = list(dict.fromkeys((row[0], row[3]) for row in expected))
    stills = [(f"f{n}.png", "") for n in range(7)]
    assert order == [*stills[:5], *(("f4b.avi", str(n)) for n in range(5)), *stills[5:]]
    for run, found in zip(runs[1:], files[1:], strict=True):
        assert found.keys() == files[0].keys()
        for one, other in zip(rows(run), expected, strict=True):
            assert (one[:2], one[3], one[8]) == (other[:2], other[3], other[8])
            for column in (2, 4, 5, 6, 7, 9):  # rounding may fall the other way
                assert one[column] == other[column] or abs(float(one[column]) - float(other[column])) < 0.11


def test_frames_of_a_video_are_averaged_with_their_neighbours_and_stills_are_not(folder: Path) -> None:
    alone, *together = [
        rows(detected(folder, batch_size=size, clip_window=window))
        for size, window in ((4, 0), (4, 2), (1, 2), (100, 2))
    ]

    def stills(found: list[list[str]]) -> list[list[str]]:
        return [row for row in found if row[3] == ""]

    def confidences(found: list[list[str]], number: int) -> list[float]:
        return [float(row[2]) for row in found if row[3] == str(number)]

    assert stills(alone) == stills(together[0])  # the batches are the same
    for found in together:
        assert list(dict.fromkeys((row[0], row[3]) for row in found)) == list(
            dict.fromkeys((row[0], row[3]) for row in together[0])
        )
        for number in range(5):
            assert confidences(found, number) == pytest.approx(confidences(together[0], number), abs=0.011)
    assert any(confidences(alone, number) != confidences(together[0], number) for number in range(5))


def test_frames_that_wait_for_neighbours_are_written_before_the_end(folder: Path) -> None:
    """The window is longer than the video, which is the last file."""
    video = next(folder.glob("*.avi"))
    assert {row[3] for row in rows(detected(video, clip_window=50))} == {"0", "1", "2", "3", "4"}


def test_a_window_has_no_negative_length(folder: Path) -> None:
    with pytest.raises(InputError, match="--clip-window: expected"):
        detected(folder, clip_window=-1)


def test_an_error_of_the_writer_ends_the_run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Writer, *_: object) -> bool:
        raise OSError(28, "No space left on device", "x.png")

    monkeypatch.setattr(Writer, "take", full)
    with pytest.raises(OSError, match="No space left"):
        detected(folder)


def test_with_a_window_frames_go_one_by_one_until_it_is_closed(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    shown: list[str] = []

    def show(image: np.ndarray, still: bool) -> bool:
        shown.append(threading.current_thread().name)
        return len(shown) < 3

    monkeypatch.setattr("utils.writer.show", show)
    monkeypatch.setattr(cv2, "destroyAllWindows", lambda: None)
    monkeypatch.setattr(detect, "has_screen", lambda: True)
    run = detected(folder, view_img=True, batch_size=4)
    assert shown == [threading.main_thread().name] * 3
    assert len(list(run.glob("*.png"))) == 3 and " in 3 frames, " in capsys.readouterr().out
    assert "--batch-size 4: frames of cameras, streams and windows go one by one" in caplog.text
    assert not [thread for thread in threading.enumerate() if thread.name.startswith(("prefetch", "decode", "writer"))]


def test_a_run_whose_folder_is_no_text_is_refused_before_it_is_made_where_videos_come(folder: Path) -> None:
    odd = os.fsdecode(b"x\xe9")
    with pytest.raises(InputError, match=r"runs/x.*: a path in UTF-8 expected, .*; --nosave leaves videos out"):
        detected(folder, name=odd)
    assert not (folder.parent / "runs").exists()
    asked = ("--weights", saved("rect"), "--project", folder.parent / "runs", "--name", odd, "--device", "cpu")
    assert "runs/x\\udce9" in succeed("detect.py", *asked, "--source", folder, "--nosave")
    assert "runs/x\\udce9" in succeed("detect.py", *asked, "--source", folder / "f0.png", "--exist-ok")
    assert (folder.parent / "runs" / odd / "f0.png").is_file()


@pytest.mark.parametrize("how", ["plain", "resume", "link to the folder", "link to a file", "list", "view_img"])
def test_a_run_does_not_draw_over_its_own_source(folder: Path, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    monkeypatch.setattr(detect, "has_screen", lambda: True)
    monkeypatch.setattr("utils.writer.show", lambda image, still: False)
    monkeypatch.setattr(cv2, "destroyAllWindows", lambda: None)
    before = {path: path.read_bytes() for path in folder.iterdir()}
    source, project, name = folder, folder.parent, folder.name
    if how == "link to the folder":
        name = "link"
        (project / name).symlink_to(folder)
    elif how == "link to a file":
        source = project / "links"
        source.mkdir()
        (source / "f0.png").symlink_to(folder / "f0.png")
    elif how == "list":
        source = project / "list.txt"
        source.write_text("gone/a.png\nframes/f0.png\n")
    options = {how: True} if how in ("resume", "view_img") else {}
    with pytest.raises(InputError) as caught:
        detect.run(weights=str(saved("rect")), source=str(source), project=str(project), name=name, device="cpu",
                   exist_ok=True, **options)  # fmt: skip
    said = "a folder without files of --source expected, as results could overwrite them; --name takes a new folder"
    assert str(caught.value) == f"{project / name}: {said}"
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


def test_a_run_may_have_its_sources_folder_where_it_overwrites_nothing(folder: Path) -> None:
    """Without pictures; or by another name, which is free."""
    before = {path: path.read_bytes() for path in folder.iterdir()}
    options = {"weights": str(saved("rect")), "source": str(folder), "project": str(folder.parent), "device": "cpu"}
    run = detect.run(**options, name="frames", exist_ok=True, nosave=True, save_csv=True)
    assert run == folder and rows(run)
    assert detect.run(**options, name="frames") == folder.parent / "frames2"
    assert {path: path.read_bytes() for path in before} == before


def test_crops_are_not_cut_over_the_crops_that_are_the_source(folder: Path) -> None:
    run = detected(folder / "f0.png", save_crop=True, max_det=2)
    crops = next((run / "crops").iterdir())
    before = {path: path.read_bytes() for path in crops.iterdir()}
    with pytest.raises(InputError, match=re.escape(f"{crops}: a folder without files of --source expected")):
        detect.run(weights=str(saved("rect")), source=str(crops), project=str(run.parent), device="cpu",
                   exist_ok=True, save_crop=True)  # fmt: skip
    assert {path: path.read_bytes() for path in crops.iterdir()} == before


def test_a_batch_has_at_least_one_frame(folder: Path) -> None:
    with pytest.raises(InputError, match="--batch-size"):
        detected(folder, batch_size=0)


def test_a_temperature_of_another_window_is_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    stills = tmp_path / "stills"
    stills.mkdir()
    save(stills / "a.png", np.zeros((48, 80, 3), np.uint8))
    detected(stills, calibrate=True, clip_window=2, nosave=True)  # stills are not averaged
    assert "fitted to views" not in caplog.text
    content = checkpoint.read(saved("joint")).content
    weights = str(tmp_path / "window.pt")
    checkpoint.save(tmp_path / "window.pt", {**content, "hyp": {**content["hyp"], "clip_window": 2}})
    detect.run(weights=weights, source=str(stills), project=str(tmp_path / "runs"), calibrate=True, nosave=True)
    assert "fitted to views averaged with 2 frames on either side, here with 0" in caplog.text
