"""Find valve regurgitation and name the view in frames, folders, videos, cameras and streams.

python detect.py --weights runs/train/exp/weights/best.pt --source frame.png
python detect.py --weights runs/train/exp/weights/best.pt --source clip.mp4 --save-csv
"""

from __future__ import annotations

import argparse
import csv
import itertools
import sys
import time
from pathlib import Path
from typing import Any, TextIO

import cv2
import numpy as np

from utils.checkpoint import one_checkpoint
from utils.config import find_file, from_root, load_dataset_config
from utils.draw import draw, save
from utils.files import new_run_folder, write_text
from utils.flags import COMMON, DOWNLOAD, IMGSZ, Flag, check_range, from_keywords, parse
from utils.letterbox import Image
from utils.log import InputError, progress, run_script
from utils.outputs import CSV_HEADER, UniqueNames, csv_rows, folder_name, has_screen, label_rows, view_row
from utils.pictures import view_text
from utils.predict import Prediction, Predictor, load
from utils.runtimes import described, open_weights
from utils.sources import Frame, open_source

FLAGS = (
    Flag("weights", "", "checkpoint of a training, also YOLOv5's own, or what export.py made of one", nargs="+"),
    DOWNLOAD,
    Flag("source", "data/images", "image, video, folder, glob, .txt list, camera number, or stream address"),
    Flag("data", "", "dataset yaml whose class and view names are shown instead of the checkpoint's"),
    Flag(IMGSZ, None, "pixels of the frames' longer side; the training's unless given", int),
    Flag("conf-thres", 0.25, "boxes of less confidence are dropped", float),
    Flag("iou-thres", 0.45, "of two boxes that overlap more, the less confident is dropped", float),
    Flag("max-det", 1000, "boxes kept a frame", int),
    Flag("view-img", False, "show frames in a window; q ends"),
    Flag("save-txt", False, "write boxes as label files"),
    Flag("save-view", False, "with or without --save-txt: add an empty line and the view row to each label file"),
    Flag("save-format", 0, "of --save-txt: 0 normalised centre form, 1 corners in pixels", int, choices=(0, 1)),
    Flag("save-csv", False, "write all boxes and views to predictions.csv"),
    Flag("save-conf", False, "with --save-txt: add the confidence to each row"),
    Flag("save-crop", False, "write each box as a picture of its own"),
    Flag("nosave", False, "write no drawn frames or videos"),
    Flag("classes", None, "keep these classes only, by number", int, nargs="+"),
    Flag("calibrate", False, "views' probabilities at the temperature that was fitted on validation"),
    Flag("agnostic-nms", False, "boxes of different classes suppress each other, too"),
    Flag("project", "runs/detect", "folder of the runs"),
    Flag("name", "exp", "folder of this run"),
    Flag("line-thickness", 3, "of boxes, in pixels", int),
    Flag("hide-labels", False, "draw boxes without names"),
    Flag("hide-conf", False, "draw names without confidences"),
    Flag("vid-stride", 1, "take every so many-th frame of a video", int),
    Flag("half", False, "mixed precision, as --amp"),
    *COMMON,
    Flag("augment", False, "", refused="its flips change anatomy; figures are of frames as they are"),
    Flag("visualize", False, "", refused="feature maps are not drawn"),
    Flag("update", False, "", refused="weights files are never changed"),
    Flag("dnn", False, "", refused="ONNX files run in ONNX Runtime, whose results are checked at export"),
)  # fmt: skip


def main(options: argparse.Namespace) -> Path:
    """Detect as the options say and return the run's folder."""
    weights = one_checkpoint(options.weights)
    check_range(options, "conf_thres iou_thres", 0, 1)
    check_range(options, "vid_stride max_det line_thickness", 1)
    if options.view_img and not has_screen():
        raise InputError("--view-img: expected a screen, but neither DISPLAY nor WAYLAND_DISPLAY is set")
    source = open_source(options.source, options.vid_stride)
    predictor = load(
        open_weights(weights, options.download), options.device, options.imgsz,
        True if options.half else options.amp, options.conf_thres, options.iou_thres, options.classes,
        options.agnostic_nms, options.max_det, options.calibrate,
    )  # fmt: skip
    names, view_names = shown_names(options, predictor)
    arriving = iter(source)
    first = next(arriving)  # a source that cannot be read ends here, before there is a folder
    folder = new_run_folder(from_root(options.project), options.name, options.exist_ok)
    seconds, frames, boxes = 0.0, 0, 0
    with Writer(folder, options, names, view_names) as writer:
        for frame in progress(itertools.chain([first], arriving), "detection", total=source.total, unit="frame"):
            start = time.perf_counter()
            prediction = predictor(frame.image)
            seconds += time.perf_counter() - start
            frames, boxes = frames + 1, boxes + len(prediction.boxes)
            if not writer.take(frame, prediction):
                break
    computes = described(predictor.network, predictor.compute)
    print(f"{boxes} boxes in {frames} frames, {seconds * 1000 / max(frames, 1):.1f} ms a frame ({computes})")
    print(f"Results in {folder}")
    return folder


def shown_names(options: argparse.Namespace, predictor: Predictor) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Class and view names: the checkpoint's, or those of ``--data`` where it has as many."""
    names, view_names = predictor.names, predictor.view_names
    unknown = [label for label in options.classes or () if not 0 <= label < len(names)]
    if unknown:
        raise InputError(f"--classes: expected numbers from 0 to {len(names) - 1}, got {unknown[0]}")
    if options.save_view and not view_names:
        raise InputError(f"--save-view: {' '.join(options.weights)} was trained on boxes alone; it knows no views")
    if options.data:
        config = load_dataset_config(find_file(options.data, "data", flag="--data"))
        if len(config.names) != len(names):
            raise InputError(f"{config.file}: names: expected {len(names)}, as the checkpoint has, got {config.names}")
        names = config.names
        view_names = config.view_names if len(config.view_names) == len(view_names) else view_names
    return names, view_names


class Writer:
    """Writes what the options ask for, frame by frame; a context manager that closes its files.

    Args:
        folder: of the run.
        options: of the script.
        names, view_names: to show.
    """

    def __init__(
        self, folder: Path, options: argparse.Namespace, names: tuple[str, ...], view_names: tuple[str, ...]
    ) -> None:
        self.folder, self.options, self.names, self.view_names = folder, options, names, view_names
        self._unique = UniqueNames()
        self._crops: dict[tuple[str, str], int] = {}
        self._video: tuple[Path, cv2.VideoWriter, tuple[int, int]] | None = None
        self._csv: TextIO | None = None
        if options.save_csv:
            self._csv = (folder / "predictions.csv").open("w", newline="", encoding="utf-8")
            csv.writer(self._csv).writerow(CSV_HEADER)

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, *_: object) -> None:
        if self._csv is not None:
            self._csv.close()
        self._close_video()
        if self.options.view_img:
            cv2.destroyAllWindows()

    def take(self, frame: Frame, prediction: Prediction) -> bool:
        """Write one frame's results; False when the user closed the window."""
        options, name = self.options, self._unique(frame.path)
        numbered = self._unique(frame.path, frame.number)
        if options.save_txt or options.save_view:
            self._write_label(numbered, frame, prediction)
        if self._csv is not None:
            rows = csv_rows(
                frame.path.name, frame.number, prediction.boxes, self.names, prediction.view, self.view_names
            )
            csv.writer(self._csv).writerows(rows)
        if options.save_crop:
            self._write_crops(numbered, frame.image, prediction)
        if options.nosave and not options.view_img:
            return True
        drawn = draw(
            frame.image, prediction.boxes, self.names, view_text(prediction.view, self.view_names),
            line_thickness=options.line_thickness, hide_labels=options.hide_labels, hide_conf=options.hide_conf,
        )  # fmt: skip
        if not options.nosave:
            if frame.number is None:
                save(self.folder / f"{name}{_picture_suffix(frame.path)}", drawn)
            else:
                self._write_video(self.folder / f"{name}.mp4", drawn, (frame.fps or 30.0) / options.vid_stride)
        return not options.view_img or show(drawn, frame.number is None)

    def _write_label(self, name: str, frame: Frame, prediction: Prediction) -> None:
        options, lines = self.options, []
        if options.save_txt:
            shape = (frame.image.shape[0], frame.image.shape[1])
            lines = label_rows(prediction.boxes, shape, options.save_conf, corners=options.save_format == 1)
        if options.save_view and prediction.view is not None:
            lines += ["", view_row(prediction.view)]
        if lines:  # as in YOLOv5, a frame in which nothing was found has no label file
            (self.folder / "labels").mkdir(exist_ok=True)
            write_text(self.folder / "labels" / f"{name}.txt", "\n".join(lines) + "\n")

    def _write_crops(self, name: str, image: Image, prediction: Prediction) -> None:
        height, width = image.shape[:2]
        for box in prediction.boxes:
            x1, y1 = np.floor(box[:2]).astype(int)
            x2, y2 = np.ceil(box[2:4]).astype(int)
            crop = image[max(y1, 0) : min(y2, height), max(x1, 0) : min(x2, width)]
            label = folder_name(self.names[int(box[5])])
            count = self._crops[label, name] = self._crops.get((label, name), 0) + 1
            folder = self.folder / "crops" / label
            folder.mkdir(parents=True, exist_ok=True)
            if crop.size:
                save(folder / f"{name}{count if count > 1 else ''}.jpg", crop)

    def _write_video(self, path: Path, image: Image, fps: float) -> None:
        if self._video is None or self._video[0] != path:
            self._close_video()
            size = (image.shape[1], image.shape[0])
            self._video = (path, cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), fps, size), size)
            if not self._video[1].isOpened():
                raise InputError(f"{path}: OpenCV cannot write a video here; --nosave leaves videos out")
        if (image.shape[1], image.shape[0]) != self._video[2]:  # OpenCV drops such a frame without a word
            image = np.asarray(cv2.resize(image, self._video[2]), np.uint8)
        self._video[1].write(cv2.cvtColor(image, cv2.COLOR_RGB2BGR))

    def _close_video(self) -> None:
        if self._video is not None:
            self._video[1].release()
            self._video = None


def show(image: Image, still: bool) -> bool:
    """Put a frame on the screen; False after the key q."""
    try:
        cv2.imshow("detect.py", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
        return cv2.waitKey(0 if still else 1) & 0xFF != ord("q")
    except cv2.error as error:
        raise InputError("--view-img: OpenCV cannot open a window here (no screen?)") from error


def _picture_suffix(path: Path) -> str:
    """The frame's own suffix where OpenCV writes that format, else .png."""
    return path.suffix if path.suffix.lower() in (".bmp", ".jpg", ".jpeg", ".png", ".tif", ".tiff", ".webp") else ".png"


def run(**keywords: Any) -> Path:
    """Detect from a notebook: ``run(weights="best.pt", source="frames")``; returns the run's folder."""
    return main(from_keywords(FLAGS, keywords))


if __name__ == "__main__":
    sys.exit(run_script(main, parse(FLAGS, __doc__ or "")))
