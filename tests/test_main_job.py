"""The main job as a user does it: train, validate and detect, in processes of their own, on small phantom data."""

from __future__ import annotations

import csv
import json
import re
import signal
import urllib.request
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from tests.labs import lab
from tests.scripts import SMALL, phantom_yaml, run, succeed, tiny_cfg
from tests.torchrun import kill, launched, started, wait_for
from utils.images import read_image
from utils.labels import read_label
from utils.loggers import read_results

RUN_FILES = (
    *("hyp.yaml", "opt.yaml", "labels.jpg", "train_batch0.jpg", "train_batch1.jpg", "train_batch2.jpg"),
    *("results.csv", "training_history.json", "metrics.json", "results.png", "confusion_matrix.png"),
    *("weights/last.pt", "weights/best.pt", "weights/epoch1.pt", "view_confusion_matrix.png"),
    *("P_curve.png", "R_curve.png", "F1_curve.png", "PR_curve.png", "val_batch0_labels.jpg", "val_batch0_pred.jpg"),
    *("FROC_curve.png", "view_reliability.png", "outcomes.npz"),
)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with small.yaml, its frames, and a run ``runs/exp`` of two epochs."""
    folder = tmp_path_factory.mktemp("a user's folder ü")
    data, cfg = phantom_yaml(folder), tiny_cfg(folder)
    out = succeed("train.py", *SMALL, cfg, "--data", data, "--project", folder / "runs", "--save-period", "1")
    (folder / "train.out").write_text(out)
    return folder


@pytest.fixture(scope="module")
def weights(place: Path) -> Path:
    return place / "runs" / "exp" / "weights" / "last.pt"


def test_training_leaves_every_file_and_says_where(place: Path) -> None:
    folder = place / "runs" / "exp"
    missing = [name for name in RUN_FILES if not (folder / name).is_file()]
    assert not missing
    out = (place / "train.out").read_text()
    assert out.rstrip().endswith(f"Results in {folder}")
    assert "mAP50-95" in out and "view accuracy" in out


def test_results_csv_has_a_row_an_epoch_and_finite_figures(place: Path) -> None:
    rows = read_results(place / "runs" / "exp" / "results.csv")
    assert [row["epoch"] for row in rows] == [0, 1]
    assert all(np.isfinite(value) for row in rows for value in row.values())
    assert rows[1]["train/view_loss"] < rows[0]["train/view_loss"] + 0.5
    history = json.loads((place / "runs" / "exp" / "training_history.json").read_text())
    assert [{k: pytest.approx(v, rel=1e-8) for k, v in row.items()} for row in history] == rows


def test_checkpoints_are_plain_data_and_best_is_stripped(place: Path, weights: Path) -> None:
    last = torch.load(weights, weights_only=True)
    best = torch.load(weights.with_name("best.pt"), weights_only=True)
    assert {"optimizer", "network", "random"} <= set(last)
    assert not {"optimizer", "network", "random"} & set(best)
    assert last["view_names"] == ["PLAX", "PSAX", "A4C"]


def test_val_gives_the_last_row_of_results_csv_again(place: Path, weights: Path) -> None:
    arguments = ("--weights", weights, "--data", place / "small.yaml", "--batch-size", "16", "--project", place / "val")
    out = succeed("val.py", *arguments, "--save-json", "--save-txt", "--save-conf")
    content = json.loads((place / "val" / "exp" / "metrics.json").read_text())
    row = read_results(place / "runs" / "exp" / "results.csv")[-1]
    pairs = {
        "metrics/precision": content["precision"], "metrics/recall": content["recall"],
        "metrics/mAP_0.5": content["map50"], "metrics/mAP_0.5:0.95": content["map"], "metrics/F1": content["f1"],
        "metrics/view_accuracy": content["view"]["accuracy"], "metrics/view_macro_f1": content["view"]["macro_f1"],
        "val/box_loss": content["loss"]["box"], "val/obj_loss": content["loss"]["obj"],
        "val/cls_loss": content["loss"]["cls"], "val/view_loss": content["loss"]["view"],
    }  # fmt: skip
    for column, value in pairs.items():
        assert value == pytest.approx(row[column], abs=1e-6), column
    assert set(content["per_class"]) <= {"AR", "MR", "PR", "TR"}
    assert {"preprocess", "inference", "nms"} == set(content["speed_ms"])
    assert "ms a frame" in out
    assert set(json.loads((place / "val" / "exp" / "predictions.json").read_text())[0]) == {
        "image_id", "category_id", "bbox", "score",
    }  # fmt: skip
    assert all(
        len(line.split()) == 6 for f in (place / "val" / "exp" / "labels").glob("*.txt") for line in f.open() if line
    )


def test_val_on_the_test_part_and_at_another_size(place: Path, weights: Path) -> None:
    common = ("--weights", weights, "--data", place / "small.yaml", "--project", place / "val2")
    succeed("val.py", *common, "--task", "test", "--img", "96")
    settings = json.loads((place / "val2" / "exp" / "metrics.json").read_text())["settings"]
    assert (settings["split"], settings["imgsz"]) == ("test", 96)


def test_detect_on_a_folder_writes_pictures_labels_and_a_csv(place: Path, weights: Path) -> None:
    frames = place / "phantom" / "images" / "test"
    succeed(
        "detect.py", "--weights", weights, "--source", frames, "--project", place / "detect", "--conf-thres", "0.001",
        "--max-det", "3", "--save-txt", "--save-view", "--save-csv", "--save-crop",
    )  # fmt: skip
    folder = place / "detect" / "exp"
    names = sorted(path.stem for path in frames.iterdir())
    assert sorted(path.stem for path in folder.glob("*.jpg")) == names
    assert sorted(path.stem for path in (folder / "labels").iterdir()) == names
    for path in (folder / "labels").iterdir():
        label = read_label(path, 4, 3)
        assert not label.problems and label.view >= 0
        assert path.read_text().split("\n")[-3] == ""  # the empty line before the view row
    with (folder / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0])[:3] == ["Image Name", "Prediction", "Confidence"]
    assert {row["Image Name"] for row in rows} == {f"{name}.jpg" for name in names}
    assert {row["View"] for row in rows} <= {"PLAX", "PSAX", "A4C"}
    assert any((folder / "crops").rglob("*.jpg"))


def test_detect_keeps_a_csv_row_for_a_frame_without_boxes(place: Path, weights: Path) -> None:
    frame = next((place / "phantom" / "images" / "test").iterdir())
    succeed(
        "detect.py", "--weights", weights, "--source", frame, "--project", place / "none", "--conf-thres", "1",
        "--save-txt", "--save-csv", "--nosave",
    )  # fmt: skip
    with (place / "none" / "exp" / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["Prediction"] for row in rows] == [""]
    assert rows[0]["View"] in ("PLAX", "PSAX", "A4C")
    assert [path.name for path in (place / "none" / "exp").iterdir()] == ["predictions.csv"]


def test_detect_on_a_video_writes_a_video_and_numbers_its_frames(place: Path, weights: Path) -> None:
    clip = place / "clip.avi"
    video = cv2.VideoWriter(str(clip), cv2.VideoWriter.fourcc(*"MJPG"), 10, (128, 96))
    for path in sorted((place / "phantom" / "images" / "test").iterdir()):
        video.write(cv2.cvtColor(read_image(path), cv2.COLOR_RGB2BGR))
    video.release()
    succeed(
        "detect.py", "--weights", weights, "--source", clip, "--project", place / "video", "--vid-stride", "2",
        "--save-view", "--save-csv",
    )  # fmt: skip
    folder = place / "video" / "exp"
    count = len(list((place / "phantom" / "images" / "test").iterdir()))
    assert {path.name for path in (folder / "labels").iterdir()} == {f"clip_{n}.txt" for n in range(0, count, 2)}
    drawn = cv2.VideoCapture(str(folder / "clip.mp4"))
    assert drawn.get(cv2.CAP_PROP_FRAME_COUNT) == -(-count // 2)
    assert drawn.get(cv2.CAP_PROP_FPS) == pytest.approx(5, abs=0.1)


def test_detect_on_a_study_leaves_its_report(place: Path, weights: Path) -> None:
    source = lab(place / "study")
    given = ("--save-html", "--save-dicom-sr", "--conf-thres", "0.001", "--max-det", "2")
    out = succeed("detect.py", "--weights", weights, "--source", source, *given, "--project", place / "studies")
    run = place / "studies" / "exp"
    assert f"Results in {run}" in out
    report = json.loads((run / "study.json").read_text())
    kinds = [clip["kind"] for study in report["studies"] for clip in study["clips"]]
    assert kinds == ["dicom", "dicom", "video", "frames", "still"] and len(report["skipped"]) == 1
    page = (run / "study.html").read_text()
    assert all(clip["id"] in page for study in report["studies"] for clip in study["clips"])
    assert len(list(run.glob("*.dcm"))) == 1 and (run / "findings.csv").read_text().startswith("study,clip,")


def test_a_study_by_two_processes_is_reported_as_by_one(place: Path, weights: Path) -> None:
    source = lab(place / "shared study")
    given = [f"--weights={weights}", f"--source={source}", f"--project={place / 'shared'}"]
    given += ["--save-html", "--conf-thres=0.001", "--max-det=2", "--batch-size=1"]
    succeed("detect.py", *given, "--name=one")
    done = launched("--nproc_per_node", "2", script="detect.py", arguments=(*given, "--name=two"))
    assert done.returncode == 0, done.stderr[-3000:]
    one, two = (json.loads((place / "shared" / name / "study.json").read_text()) for name in ("one", "two"))
    assert {**one, "created": ""} == {**two, "created": ""}
    sizes = [(place / "shared" / name / "study.html").stat().st_size for name in ("one", "two")]
    assert sizes[0] == sizes[1]


def test_a_review_is_served_until_it_is_ended(place: Path, weights: Path) -> None:
    source = lab(place / "reviewed study")
    log = place / "review.txt"
    given = [f"--weights={weights}", f"--source={source}", f"--project={place / 'reviews'}"]
    process = started("detect.py", *given, "--review", log=log)
    wait_for(lambda: "http://127.0.0.1:" in log.read_text(), process)
    address = re.search(r"http://127\.0\.0\.1:\S+", log.read_text())
    assert address is not None
    with urllib.request.urlopen(address[0], timeout=60) as answer:
        assert b"Echo study report" in answer.read()
    assert kill(process, signal.SIGTERM) == 0, log.read_text()[-2000:]
    assert (place / "reviews" / "exp" / "study.html").is_file() and not (
        place / "reviews" / "exp" / ".progress"
    ).exists()


def test_a_second_run_gets_a_folder_of_its_own_and_starts_from_weights(place: Path, weights: Path) -> None:
    before = (place / "runs" / "exp" / "results.csv").read_bytes()
    out = run(
        "train.py", *SMALL, place / "tiny-yolov5n.yaml", "--epochs", "1", "--data", place / "small.yaml",
        "--project", place / "runs", "--weights", weights, "--noplots",
    )  # fmt: skip
    assert out.returncode == 0, out.stderr
    assert "368 of 368 tensors matched" in out.stderr or "tensors matched" in out.stderr
    assert (place / "runs" / "exp2" / "weights" / "best.pt").is_file()
    assert not list((place / "runs" / "exp2").glob("*.jpg"))
    assert (place / "runs" / "exp" / "results.csv").read_bytes() == before


def test_stock_hyp_and_network_train_boxes_alone(place: Path) -> None:
    values = json.loads((Path(__file__).parent / "golden" / "hyp_no_augmentation_values.json").read_text())
    hyp = place / "stock.yaml"
    hyp.write_text("".join(f"{key}: {value}\n" for key, value in values.items()))
    cfg = tiny_cfg(place, "models/hub/yolov5n.yaml")
    succeed(
        "train.py", *SMALL, cfg, "--epochs", "1", "--data", place / "small.yaml", "--hyp", hyp,
        "--project", place / "stock", "--noplots",
    )  # fmt: skip
    content = json.loads((place / "stock" / "exp" / "metrics.json").read_text())
    assert "view" not in content
    weights = place / "stock" / "exp" / "weights" / "best.pt"
    assert torch.load(weights, weights_only=True)["view_names"] == []
    succeed("val.py", "--weights", weights, "--data", place / "small.yaml", "--project", place / "stockval")
    frames = place / "phantom" / "images" / "test"
    succeed("detect.py", "--weights", weights, "--source", frames, "--project", place / "stockdetect", "--save-csv")
