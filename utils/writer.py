"""What detect.py writes of frames: pictures, videos, label files, csv, crops, a window; in a thread if asked."""

from __future__ import annotations

import argparse
import csv
import io
import queue
import re
import threading
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TextIO

import cv2
import numpy as np

from utils.clip_store import ClipStore
from utils.draw import draw, save
from utils.files import as_text, is_utf8
from utils.ledger import Ledger
from utils.letterbox import Image
from utils.log import LOGGER, InputError, one_line
from utils.output_names import OutputNames
from utils.outputs import CSV_HEADER, UniqueNames, csv_rows, cut_out, folder_name, frame_name, label_rows, view_row
from utils.pictures import view_text
from utils.predict import Prediction
from utils.sources import Frame

MOST_PARTS, SLOWEST = 65535, 0.01  # of a second in MPEG-4; frames a second
_CALLED_AS_CROP = re.compile(r"_box\d+$")


class Writer:
    """Writes what the options ask for, frame by frame; a context manager that closes its files.

    Args:
        folder: of the run.
        options: of the script.
        names, view_names: to show.
        ledger: is told which files are finished, and keeps the rows of predictions.csv; without one they are written
            there as they come, as of a camera, which never ends.
        failures: why files could not be read to their end, complete for a file when the next one's first frame comes.
        naming: of what is written; the ledger's where there is one.
    """

    def __init__(
        self, folder: Path, options: argparse.Namespace, names: tuple[str, ...], view_names: tuple[str, ...],
        ledger: Ledger | None = None, failures: Mapping[Path, str] | None = None, naming: OutputNames | None = None,
    ) -> None:  # fmt: skip
        self.folder, self.options, self.names, self.view_names = folder, options, names, view_names
        self._ledger, self._failures = ledger, {} if failures is None else failures  # an empty one fills later
        self._unique = UniqueNames()
        self._naming = ledger.naming if ledger is not None else naming or OutputNames()
        self._file: Path | None = None  # the file in hand, of which these are:
        self._name = ""
        self._frames = self._boxes = 0
        self._video: Video | None = None
        self._rows: TextIO | None = None
        self._rows_draft: Path | None = None
        self._clips = None if ledger is None or not asks_report(options) else ClipStore(ledger, asks_pictures(options))
        if options.save_csv and ledger is None:
            self._rows = (folder / "predictions.csv").open("w", newline="", encoding="utf-8")
            csv.writer(self._rows).writerow(CSV_HEADER)

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, *_: object) -> None:
        self._close_file(whole=False)
        if self._rows is not None:
            self._rows.close()
        if self._ledger is not None:
            self._ledger.flush()
        if self.options.view_img:
            cv2.destroyAllWindows()

    def complete(self) -> None:
        """Say that no further frame comes: the file in hand is whole."""
        self._close_file(whole=True)

    def take(self, frame: Frame, prediction: Prediction) -> bool:
        """Write one frame's results; False when the user closed the window."""
        options = self.options
        if frame.path != self._file:
            self._close_file(whole=True)
            self._open_file(frame)
        name = self._name
        numbered = frame_name(name, frame.number)
        if options.save_txt or options.save_view:
            self._write_label(numbered, frame, prediction)
        shown = frame.image if frame.area is None or options.keep_overlay else frame.area.masked(frame.image)
        if self._rows is not None:
            called = self._naming.file(frame.path, name)
            rows = csv_rows(called, frame.number, prediction.boxes, self.names, prediction.view, self.view_names)
            csv.writer(self._rows).writerows(rows)
        if options.save_crop:
            self._write_crops(numbered, shown, prediction)
        if self._clips is not None:
            self._clips.take(frame, prediction, shown)
        going_on = self._write_drawn(name, frame, shown, prediction)
        self._frames, self._boxes = self._frames + 1, self._boxes + len(prediction)
        if frame.number is None:  # a still is whole at once, also if the next frame never comes
            self._close_file(whole=True)
        return going_on

    def _open_file(self, frame: Frame) -> None:
        self._file, self._frames, self._boxes = frame.path, 0, 0
        if self._ledger is None:
            self._name = self._unique(frame.path, frame.number is not None, self._naming.stem(frame.path))
        else:
            self._name = self._ledger.entry(frame.path).name
        if self._ledger is None or not self.options.save_csv:
            return
        if frame.number is None:
            self._rows = io.StringIO(newline="")
        else:  # of any length
            self._rows_draft = self._ledger.draft(".csv")
            self._rows = self._rows_draft.open("w", newline="", encoding="utf-8")

    def _close_file(self, whole: bool) -> None:
        """End the file in hand; what there is of one that is not whole stays, but it is not marked as finished."""
        file, self._file = self._file, None
        self._close_video()
        if file is None or self._ledger is None:
            return
        entry, rows = self._ledger.entry(file), None
        if isinstance(self._rows, io.StringIO):
            rows = self._rows.getvalue()
        elif self._rows is not None and self._rows_draft is not None:
            self._rows.close()
            self._rows_draft.replace(self._ledger.rows_file(entry))
        if self._clips is not None:
            self._clips.end(entry, whole)
        self._rows = self._rows_draft = None
        if whole:
            failure = self._failures.get(file)
            said = None if failure is None else self._naming.without(failure, file, entry.name)
            self._ledger.record(entry, self._frames, self._boxes, rows, said)

    def _write_drawn(self, name: str, frame: Frame, shown: Image, prediction: Prediction) -> bool:
        options = self.options
        if options.nosave and not options.view_img:
            return True
        drawn = draw(
            shown, prediction.boxes, self.names, view_text(prediction.view, self.view_names),
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
            path, text = self.folder / "labels" / f"{name}.txt", "\n".join(lines) + "\n"
            path.write_text(text, encoding="utf-8", newline="\n")  # the ledger sees to the disk, for many at once

    def _write_crops(self, name: str, image: Image, prediction: Prediction) -> None:
        counts: Counter[str] = Counter()
        for box in prediction.boxes:
            crop = cut_out(image, box)
            label = folder_name(self.names[int(box[5])])
            counts[label] += 1
            # a file may be called as another's second crop is
            number = f"_box{counts[label]}" if counts[label] > 1 or _CALLED_AS_CROP.search(name) else ""
            folder = self.folder / "crops" / label
            folder.mkdir(parents=True, exist_ok=True)
            if crop.size:
                save(folder / f"{name}{number}.jpg", crop)

    def _write_video(self, path: Path, image: Image, fps: float) -> None:
        if self._video is None:
            draft = path if self._ledger is None else self._ledger.draft(path.suffix)
            self._video = Video(path, draft, (image.shape[1], image.shape[0]), fps)
        self._video.write(image)

    def _close_video(self) -> None:
        if self._video is not None:
            self._video.close()
            self._video = None


class Video:
    """A drawn video; it gets its name when it is closed.

    Args:
        path: of the video.
        draft: under which it is written, of the same suffix.
        size: (width, height) of its frames; others are resized.
        fps: frames a second.

    Raises:
        InputError: OpenCV cannot write it.
    """

    def __init__(self, path: Path, draft: Path, size: tuple[int, int], fps: float) -> None:
        self._path, self._draft, self._size = path, draft, size
        if not is_utf8(draft):
            raise not_for_videos(path)
        self._writer = cv2.VideoWriter(str(draft), cv2.VideoWriter.fourcc(*"mp4v"), writable_rate(fps), size)
        if not self._writer.isOpened():
            raise InputError(f"{path}: OpenCV cannot write a video here; --nosave leaves videos out")

    def write(self, image: Image) -> None:
        """Add a frame (H, W, 3) RGB."""
        if (image.shape[1], image.shape[0]) != self._size:  # OpenCV drops such a frame without a word
            image = np.asarray(cv2.resize(image, self._size), np.uint8)
        self._writer.write(cv2.cvtColor(image, cv2.COLOR_RGB2BGR))

    def close(self) -> None:
        """End the file."""
        self._writer.release()
        if self._draft != self._path:
            self._draft.replace(self._path)


def not_for_videos(path: Path) -> InputError:
    """The error of a path that OpenCV cannot write a video to, as it is no text."""
    text = "a path in UTF-8 expected, as OpenCV writes to no other; --nosave leaves videos out"
    return InputError(f"{as_text(path)}: {text}")


def writable_rate(fps: float) -> float:
    """The rate nearest to ``fps`` that a video can have.

    MPEG-4 (ISO/IEC 14496-2, vop_time_increment_resolution) divides a second into at most 65,535 parts, and OpenCV asks
    for as many decimals as tell the rate to a thousandth, or for none.
    """
    for decimals in (3, 2, 1):
        if fps * 10**decimals <= MOST_PARTS:
            return max(round(fps, decimals), SLOWEST)
    return float(min(round(fps), MOST_PARTS))


class BackgroundWriter:
    """Has a writer work in a thread of its own, in order; a context manager that closes the writer, too.

    What was taken is written before it closes, also after an error or Ctrl-C outside; a second Ctrl-C gives it up.

    Args:
        writer: not yet entered.
        depth: frames that may wait; :meth:`take` blocks where there are more, so that memory is bounded.

    Raises:
        Exception: what the writer raised, at the next :meth:`take` or at the end; nothing is written after it.
    """

    def __init__(self, writer: Writer, depth: int) -> None:
        self._writer = writer
        self._waiting: queue.Queue[tuple[Frame, Prediction] | None] = queue.Queue(depth)
        self._error: BaseException | None = None
        self._given_up = threading.Event()
        self._thread = threading.Thread(target=self._work, name="writer", daemon=True)

    def __enter__(self) -> BackgroundWriter:
        self._writer.__enter__()
        self._thread.start()
        return self

    def take(self, frame: Frame, prediction: Prediction) -> bool:
        """Have one frame's results written; True, as nobody closes a window here."""
        if self._error is not None:
            raise self._error
        self._waiting.put((frame, prediction))
        return True

    def complete(self) -> None:
        """Wait until all that was taken is written, and say that no further frame comes."""
        self._finish()
        if self._error is not None:
            raise self._error
        self._writer.complete()

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        try:
            self._finish()
        except BaseException:
            self._given_up.set()
            self._finish()
            raise
        finally:
            self._writer.__exit__()
        if self._error is not None and error is None:
            raise self._error
        if self._error is not None and self._error is not error:  # the first error is the one to end with
            LOGGER.warning("writing failed, too: %s", one_line(self._error))

    def _finish(self) -> None:
        if self._thread.is_alive():
            self._waiting.put(None)  # there is room soon: the thread takes to the end, whatever happens
            self._thread.join()

    def _work(self) -> None:
        while (item := self._waiting.get()) is not None:
            if self._error is None and not self._given_up.is_set():
                try:
                    self._writer.take(*item)
                except BaseException as error:
                    self._error = error


def asks_report(options: argparse.Namespace) -> bool:
    """Whether files are to be reported on clip by clip."""
    return bool(options.save_study or options.save_dicom_sr or asks_pictures(options))


def asks_pictures(options: argparse.Namespace) -> bool:
    """Whether the report is to be looked at."""
    return bool(options.save_html or options.review)


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
