"""Find valve regurgitation and name the view in frames, folders, videos, cameras and streams.

python detect.py --weights runs/train/exp/weights/best.pt --source frame.png
python detect.py --weights runs/train/exp/weights/best.pt --source clip.mp4 --save-csv
torchrun --nproc_per_node 4 detect.py --weights best.pt --source archive --name archive --save-csv
"""

from __future__ import annotations

import argparse
import logging
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from utils.archive_run import detect_anew, detect_shared
from utils.checkpoint import checkpoints
from utils.config import find_file, from_here, from_root, load_dataset_config
from utils.detection import Detection, with_first
from utils.devices import keep_memory
from utils.ensembles import open_all
from utils.files import is_utf8, new_run_folder
from utils.flags import CLIP_WINDOW, COMMON, DOWNLOAD, IMGSZ, Flag, check_range, from_keywords, parse
from utils.identifiers import Identifiers
from utils.interrupt import Interrupts
from utils.launch import placed, quiet_unless_main
from utils.ledger import absolute
from utils.log import LOGGER, InputError, Interrupted, run_script
from utils.operating import warn_of_window
from utils.output_names import KEY_FILE, OutputNames
from utils.outputs import has_screen
from utils.predict import Predictor, load
from utils.processes import here
from utils.reporting import check_report
from utils.runtimes import BATCH_SIZES, usual_batch
from utils.source_files import holds_any, is_dicom, is_video
from utils.sources import FRAMES_AHEAD, Source, open_source
from utils.writer import asks_report, not_for_videos

FLAGS = (
    Flag("weights", "", "checkpoint of a training, also YOLOv5's own, or an export; of several, the mean", nargs="+"),
    DOWNLOAD,
    Flag(
        "source", "data/images", "image, video, DICOM file, folder (data/images is yours to make), glob, .txt list, "
        "camera number, stream address",
    ),
    Flag("data", "", "dataset yaml whose class and view names are shown instead of the checkpoint's"),
    Flag(IMGSZ, None, "pixels of the frames' longer side; the training's unless given", int),
    Flag(
        "batch-size", None, f"frames that the network takes at once: {BATCH_SIZES['cpu']} on a CPU, "
        f"{BATCH_SIZES['cuda']} on a GPU, unless given; one by one from cameras and streams and with --view-img", int,
    ),
    Flag("conf-thres", 0.25, "boxes of less confidence are dropped", float),
    Flag("iou-thres", 0.45, "of two boxes that overlap more, the less confident is dropped", float),
    Flag("max-det", 1000, "boxes kept a frame", int),
    # as --cl below: --view, --no and --p mean these in YOLOv5, and go on meaning them
    Flag("view-img view vie view-", False, "show frames in a window; q ends"),
    Flag("save-txt", False, "write boxes as label files"),
    Flag("save-view", False, "with or without --save-txt: add an empty line and the view row to each label file"),
    Flag("save-format", 0, "of --save-txt: 0 normalised centre form, 1 corners in pixels", int, choices=(0, 1)),
    Flag("save-csv", False, "write all boxes and views to predictions.csv"),
    Flag("save-conf", False, "with --save-txt: add the confidence to each row"),
    Flag("save-crop", False, "write each box as a picture of its own"),
    Flag("nosave no", False, "write no drawn frames or videos"),
    Flag(
        "save-study", False, "report on whole clips: study.json and findings.csv; the source is searched with all "
        "folders in it, and outputs get names that say nobody's",
    ),
    Flag("save-html", False, "with --save-study or without: the report as a page to look at, study.html"),
    Flag("save-dicom-sr", False, "with --save-study or without: a DICOM structured report for each study"),
    Flag("review", False, "as --save-html, and then serve the page on this machine to correct frames and save labels"),
    Flag("port", 0, "of --review; any free one unless given", int),
    Flag("keep-overlay", False, "show also what lies outside the ultrasound, such as names burnt into frames"),
    Flag("keep-identifiers", False, "name outputs after their files, and let reports say whose they are, and when"),
    Flag("track-iou", 0.3, "boxes of following frames are one finding where they overlap more", float),
    Flag("track-gap", 5, "frames that a finding may miss in between", int),
    Flag("track-frames", 3, "a finding in fewer frames is called uncertain", int),
    Flag("view-agreement", 0.7, "a view on which a smaller share of a clip's frames agrees is called uncertain", float),
    CLIP_WINDOW,
    # --cl means them in YOLOv5, and goes on meaning them beside --clip-window
    Flag("classes cl", None, "keep these classes only, by number", int, nargs="+"),
    Flag("calibrate", False, "views' probabilities at the temperature that was fitted on validation"),
    Flag("agnostic-nms", False, "boxes of different classes suppress each other, too"),
    Flag("project p", "runs/detect", "folder of the runs", from_here),
    Flag("name", "exp", "folder of this run"),
    Flag(
        "resume", False, "go on in project/name with the files that an earlier start did not finish, or begin there; "
        "under torchrun that is always so",
    ),
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
    weights = checkpoints(options.weights)
    check_range(options, "conf_thres iou_thres track_iou view_agreement", 0, 1)
    check_range(options, "vid_stride max_det line_thickness track_frames", 1)
    check_range(options, "track_gap", 0)
    check_range(options, "port", 0, 65535)
    if options.batch_size is not None:
        check_range(options, "batch_size", 1)
    if options.view_img and not has_screen():
        raise InputError("--view-img: expected a screen, but neither DISPLAY nor WAYLAND_DISPLAY is set")
    keep_memory()
    processes = here()
    report = asks_report(options)
    source = open_source(options.source, options.vid_stride, study=report)
    one_start = source.live or options.view_img
    if one_start and (processes.size > 1 or options.resume):
        asked = "torchrun: one process" if processes.size > 1 else "--resume: a source of files without --view-img"
        raise InputError(f"{asked} expected, got {'a camera or stream' if source.live else '--view-img'}")
    if report:
        check_report(options, source.live, processes.size)
    check_folder(options, source, new=not (options.exist_ok or options.resume or processes.launch))
    quiet_unless_main(processes, heard=logging.WARNING)
    device, threads = placed(options.device, 0, processes, shared=True)
    found = open_all(weights, options.download)
    predictor = load(
        found, device, options.imgsz,
        True if options.half else options.amp, options.conf_thres, options.iou_thres, options.classes,
        options.agnostic_nms, options.max_det, options.calibrate, threads, options.clip_window,
    )  # fmt: skip
    if source.live and predictor.clip_window:
        LOGGER.warning("clip window %d: not of a camera or stream, as the frames after one are still to come",
                       predictor.clip_window)  # fmt: skip
        predictor = replace(predictor, clip_window=0)
    if options.calibrate:  # stills are not averaged
        moving = any(is_video(path) or is_dicom(path) for path in source.files)
        warn_of_window(found.hyp.clip_window, predictor.clip_window if moving else 0)
    names, view_names = shown_names(options, predictor)
    size = batch_size(options, source, predictor)
    source.ahead = max(size, FRAMES_AHEAD)
    detection = Detection(options, predictor, names, view_names, size, output_names(options, source, report))
    with Interrupts() as interrupts:
        if one_start:
            return watch(source, detection, interrupts)
        if options.resume or processes.launch:
            return detect_shared(source, detection, found.files, processes, interrupts)
        return detect_anew(source, detection, found.files, interrupts)


def watch(source: Source, detection: Detection, interrupts: Interrupts) -> Path:
    """Detect in a camera, a stream or a window until it ends."""
    options = detection.options
    with closing(iter(source)) as arriving:
        first = next(arriving)  # a source that cannot be read ends here, before there is a folder
        folder = new_run_folder(from_root(options.project), options.name, options.exist_ok)
        detection.work(with_first(first, arriving), source.total, detection.writer(folder), interrupts)
    if interrupts.signal:
        raise Interrupted(interrupts.signal, f"{detection.frames} frames are in {folder}")
    print(detection.summary())
    print(f"Results in {folder}")
    return folder


def batch_size(options: argparse.Namespace, source: Source, predictor: Predictor) -> int:
    """Frames that the network takes at once."""
    if not source.live and not options.view_img:
        return options.batch_size or usual_batch(predictor.network, predictor.compute)
    if (options.batch_size or 1) > 1:
        LOGGER.warning("--batch-size %d: frames of cameras, streams and windows go one by one", options.batch_size)
    return 1


def output_names(options: argparse.Namespace, source: Source, report: bool) -> OutputNames:
    """What outputs are called: of DICOM files, and of all in a report, so that the names say nobody's."""
    if source.live or not (report or any(map(is_dicom, source.files))):
        return OutputNames()
    identifiers = Identifiers.open(from_root(options.project) / KEY_FILE, options.keep_identifiers)
    root = Path(options.source)
    return OutputNames(identifiers, absolute(root if root.is_dir() else root.parent), report)


def check_folder(options: argparse.Namespace, source: Source, new: bool) -> None:
    """Refuse a folder of the run in which no video can be written, where one may come, and one of the source's own.

    Args:
        new: whether the folder will be made, by a name that is free: it holds nobody's files.

    Raises:
        InputError: it is refused.
    """
    folder = from_root(options.project) / options.name
    videos = source.live or any(map(is_video, source.files))
    if videos and not options.nosave and not is_utf8(folder):
        raise not_for_videos(folder)
    if new:
        return
    written = [] if options.nosave and not options.save_dicom_sr else [folder]
    written += (folder / "crops").glob("*") if options.save_crop else []
    for place in written:
        if holds_any(place, source.files):
            raise InputError(
                f"{place}: a folder without files of --source expected, as results could overwrite them; --name takes "
                "a new folder"
            )


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


def run(**keywords: Any) -> Path:
    """Detect from a notebook: ``run(weights="best.pt", source="frames")``; returns the run's folder."""
    return main(from_keywords(FLAGS, keywords))


if __name__ == "__main__":
    sys.exit(run_script(main, parse(FLAGS, __doc__ or "")))
