"""Detection in files with a ledger: by one process or many, at one start or several, with one result."""

from __future__ import annotations

import argparse
import csv
import hashlib
import io
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from utils.config import from_root
from utils.detection import Detection, with_first
from utils.files import check_name, new_run_folder, write_text, write_whole
from utils.interrupt import Interrupts
from utils.ledger import Ledger, absolute, forget
from utils.log import LOGGER, InputError, Interrupted
from utils.outputs import CSV_HEADER
from utils.processes import ALONE, Processes
from utils.reporting import WRITTEN, Report, digest_of_all
from utils.sources import Source
from utils.writer import asks_pictures, asks_report

# Options that results depend on, beside weights, source, image size and names.
MATTER = (
    "conf_thres", "iou_thres", "max_det", "classes", "agnostic_nms", "calibrate", "amp", "half", "vid_stride",
    "save_txt", "save_view", "save_format", "save_csv", "save_conf", "save_crop", "nosave", "line_thickness",
    "hide_labels", "hide_conf", "keep_overlay", "keep_identifiers",
)  # fmt: skip
PIECE = 1 << 20


def settings_of(options: argparse.Namespace, detection: Detection, weights: Sequence[Path]) -> dict[str, Any]:
    """What the results depend on, as plain data, by the names of the flags."""
    return {
        "--weights": f"sha256 {digest_of_all([digest(path) for path in weights])}",
        "--source": str(absolute(Path(options.source))),
        "--imgsz": detection.predictor.image_size,
        **{f"--{name.replace('_', '-')}": getattr(options, name) for name in MATTER},
        "--data": [detection.names, detection.view_names],
        "--save-study": asks_report(options),
        "--save-html": asks_pictures(options),
        # not of runs without one, so that those begun before there were windows can go on
        **({"--clip-window": window} if (window := detection.predictor.clip_window) else {}),
    }


def digest(path: Path) -> str:
    """SHA-256 of a file, or of all files of a folder and their names."""
    found = hashlib.sha256()
    for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
        if file.is_file():
            if file != path:
                found.update(f"{file.relative_to(path)} {file.stat().st_size}\n".encode("utf-8", "surrogateescape"))
            with file.open("rb") as opened:
                while piece := opened.read(PIECE):
                    found.update(piece)
    return found.hexdigest()


def _write_report(ledger: Ledger, detection: Detection, weights: Sequence[Path]) -> Report | None:
    """The report on a run whose files are finished, written; None where none is asked for."""
    if not asks_report(detection.options):
        return None
    report = Report(ledger, detection, [(path.name, digest(path)) for path in weights])
    report.write()
    return report


def detect_anew(source: Source, detection: Detection, weights: Sequence[Path], interrupts: Interrupts) -> Path:
    """Detect in files by this process alone, into a new folder; a ledger lies there until all are finished."""
    options = detection.options
    source = replace(source, files=list({absolute(path): path for path in source.files}.values()))
    with closing(iter(source)) as arriving:
        first = next(arriving)  # a source that cannot be read ends here, before there is a folder
        folder = new_run_folder(from_root(options.project), options.name, options.exist_ok)
        for name in [*(["predictions.csv"] if options.save_csv else []), *(WRITTEN if asks_report(options) else [])]:
            (folder / name).unlink(missing_ok=True)  # with --exist-ok, of an earlier run
        forget(folder)
        ledger = Ledger(folder, settings_of(options, detection, weights), True, detection.naming)
        ledger.add(source.files)
        try:
            writer = detection.writer(folder, ledger, source.failures)
            ended = detection.work(with_first(first, arriving), source.total, writer, interrupts)
            if ended:
                _record_failures(ledger, source)
        finally:
            Totals(ledger).write(options.save_csv)
    if not ended:
        _stop(ledger, detection, interrupts)
    report = _write_report(ledger, detection, weights)
    print(detection.summary())
    print(f"Results in {folder}")
    if report is not None and options.review and not interrupts.signal:
        report.review()
    forget(folder)
    return folder


def detect_shared(
    source: Source, detection: Detection, weights: Sequence[Path], processes: Processes, interrupts: Interrupts
) -> Path:
    """Detect in this process's share of what is not finished yet in ``project/name``; the last one puts all together.

    Raises:
        InputError: the run there was begun with other settings; none of its files could be read.
        Interrupted: a signal came; what was found is written.
    """
    options = detection.options
    check_name(options.name)
    folder = from_root(options.project) / options.name
    ledger = Ledger(folder, settings_of(options, detection, weights), options.exist_ok, detection.naming)
    ledger.add(source.files)
    worked = False
    while files := ledger.todo(processes):
        if not worked and processes.main and (before := len(ledger.finished())):
            LOGGER.info("%s: %d of %d files are finished, going on", folder, before, len(ledger.entries))
        worked = True
        part = replace(source, files=files, failures={}, several=True, share=True)
        with closing(iter(part)) as arriving:
            writer = detection.writer(folder, ledger, part.failures)
            ended = detection.work(arriving, part.total, writer, interrupts)
        if not ended:
            _stop(ledger, detection, interrupts, processes)
        _record_failures(ledger, part)
    done, count = len(ledger.finished() | ledger.skipped()), len(ledger.entries)
    if done < count:  # others are at the rest; the last of them will see all finished
        LOGGER.info("the share of process %d is finished; %d of %d files are not", processes.rank, count - done, count)
        return folder
    report = _put_together(ledger, detection, weights, source, processes, worked)
    if report is not None and options.review and not interrupts.signal:
        report.review()
    return folder


def _put_together(
    ledger: Ledger, detection: Detection, weights: Sequence[Path], source: Source, processes: Processes, worked: bool
) -> Report | None:
    """Write what is made of all files together, and say so once; returns the report, if one is asked for."""
    count = len(ledger.entries)
    complete = ledger.place / f"complete-{count}"
    if complete.is_file() and not worked:
        if not ledger.skipped() and (processes.size == 1 or ledger.first(f"nothing to do {processes.start}")):
            print(f"All {count} files are finished already; results in {ledger.folder}")
        return _write_report(ledger, detection, weights)  # by other rules, perhaps
    totals = Totals(ledger)
    totals.write(detection.options.save_csv)
    report = _write_report(ledger, detection, weights)
    complete.touch()
    ledger.clear_drafts()
    if processes.size == 1 or ledger.first(f"{totals} {processes.start}"):
        if not totals.frames:
            raise InputError(f"{source.name}: none of its {count} files can be read; first {totals.failures[0]}")
        print(totals)
        print(f"Results in {ledger.folder}")
        if ledger.naming.hidden:
            LOGGER.info("%s: not to be shared: it says how the source's files are called", ledger.place)
    return report


class Totals:
    """What the markers of a ledger come to; reads them when it writes.

    Attributes:
        frames, boxes: of all files.
        failures: a line a file that could not be read, or not to its end.
    """

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.frames = self.boxes = 0
        self.failures: list[str] = []

    def __str__(self) -> str:
        return f"{self.boxes} boxes in {self.frames} frames of {len(self.ledger.entries)} files"

    def write(self, with_rows: bool) -> None:
        """Write unreadable.txt, and predictions.csv in the order of the plan, also with an unfinished video's rows.

        Two processes may do so at once.
        """
        folder = self.ledger.folder
        if with_rows:
            write_whole(folder / "predictions.csv", self._write_rows)
        else:
            for _ in self._rows():
                pass
        if self.failures:
            write_text(folder / "unreadable.txt", "".join(f"{line}\n" for line in self.failures))
            LOGGER.warning("%s lists %d files that could not be read", folder / "unreadable.txt", len(self.failures))
        else:
            (folder / "unreadable.txt").unlink(missing_ok=True)

    def _write_rows(self, file: BinaryIO) -> None:
        header = io.StringIO(newline="")
        csv.writer(header).writerow(CSV_HEADER)
        file.write(header.getvalue().encode())
        for rows in self._rows():
            file.write(rows)

    def _rows(self) -> Iterator[bytes]:
        """The csv rows of each file; counts meanwhile."""
        for entry, facts in self.ledger.facts():
            if facts is not None:
                self.frames, self.boxes = self.frames + facts["frames"], self.boxes + facts["boxes"]
                self.failures += [] if facts["failure"] is None else [facts["failure"]]
            if facts is not None and facts["rows"] is not None:
                yield facts["rows"].encode()
            elif entry.video and (place := self.ledger.rows_file(entry)).is_file():
                with place.open("rb") as opened:
                    while piece := opened.read(PIECE):
                        yield piece


def _record_failures(ledger: Ledger, source: Source) -> None:
    """Mark the files of which no frame came as skipped; the writer knows the others."""
    known = ledger.skipped()
    for path, failure in source.failures.items():
        entry = ledger.entry(path)
        if entry.index not in known:
            ledger.record(entry, 0, 0, None, ledger.naming.without(failure, path, entry.name))
    ledger.flush()


def _stop(ledger: Ledger, detection: Detection, interrupts: Interrupts, processes: Processes = ALONE) -> NoReturn:
    """Leave after a signal, and say what is finished and how to go on; of torchrun's processes one says it."""
    assert interrupts.signal
    if processes.launch and not ledger.first(f"stopped {processes.start}"):
        raise Interrupted(interrupts.signal, None)
    count = f"{len(ledger.finished())} of {len(ledger.entries)} files are finished"
    again = f": {going_on(detection.options, ledger.folder)}"
    again = ", start the same torchrun again" if processes.launch else again
    raise Interrupted(interrupts.signal, f"{count}; to go on{again}")


def going_on(options: argparse.Namespace, folder: Path) -> str:
    """What to type for a run in ``folder`` to go on."""
    if Path(sys.argv[0]).name != "detect.py":
        return f"run(..., name={folder.name!r}, resume=True)"
    added = [] if options.resume else ["--resume"]
    added += [] if folder.name == options.name else ["--name", folder.name]
    return shlex.join(["python", *sys.argv, *added])
