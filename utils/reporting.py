"""From the finished files of a detection to its report: studies of clips, written as json, csv, page and DICOM."""

from __future__ import annotations

import argparse
import datetime
import hashlib
from bisect import bisect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from utils import dicom
from utils.clip_store import StoredFrames, StoredPictures, stored_frames, stored_pictures
from utils.clips import ClipRules, FrameFindings
from utils.detection import Detection
from utils.dicom import DicomHeader
from utils.echo_report import Clip, Naming, findings_csv, study_report
from utils.extras import require
from utils.files import write_json, write_text
from utils.ledger import Entry, Ledger
from utils.letterbox import Image
from utils.log import LOGGER, InputError
from utils.regions import Area
from utils.review import Review, serve
from utils.source_files import CLIP_FRAME, clip_name, is_dicom, is_video, places
from utils.sources import frame_of
from utils.structured_report import write_structured_report
from utils.study_page import write_page
from utils.writer import asks_pictures

MOST_PICTURES = 6000  # in a page, 100 MB or so; of more, every second, third, ... is shown
WRITTEN = ("study.json", "findings.csv", "study.html")
# Options that the report says; those that change no finding are left out.
SETTINGS = (
    "conf_thres", "iou_thres", "max_det", "classes", "agnostic_nms", "amp", "half", "vid_stride", "calibrate",
    "track_iou", "track_gap", "track_frames", "view_agreement", "keep_overlay", "keep_identifiers",
)  # fmt: skip


@dataclass
class ClipFiles:
    """A clip and the files that it is made of: one, or of a folder's frames several.

    Attributes:
        name: what its outputs are called.
        hidden: whether the files' own names are not to be written, and with them their numbers.
        entries, stored: of the files, in order.
        notes: why a file was not read to its end.
    """

    name: str
    hidden: bool = False
    entries: list[Entry] = field(default_factory=list)
    stored: list[StoredFrames] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    places: list[int] = field(default_factory=list)  # of the files of a folder among those that are named as its frames

    @property
    def path(self) -> Path:
        """Its file, or the first one."""
        return self.entries[0].path

    @cached_property
    def header(self) -> DicomHeader | None:
        """Of a DICOM file."""
        return dicom.read_header(self.path) if is_dicom(self.path) else None

    @property
    def kind(self) -> str:
        """As in the report."""
        if self.header is not None:
            return "dicom"
        if is_video(self.path):
            return "video"
        return "still" if clip_name(self.path) is None else "frames"

    @cached_property
    def numbers(self) -> list[list[int]]:
        """What the frames of each file are called in the clip: of a folder's, by their numbers, or by their places."""
        if self.kind != "frames":
            return [[frame.number for frame in stored.frames] for stored in self.stored]
        named = [CLIP_FRAME.fullmatch(entry.path.stem) for entry in self.entries]
        own = [int(match["number"]) for match in named if match is not None]
        unique = len(set(own)) == len(self.entries)  # 1 and 01 are two files
        return [[number] for number in (own if unique and not self.hidden else self.places)]

    @property
    def frames(self) -> list[FrameFindings]:
        """Of all files, under their numbers in the clip."""
        return [
            FrameFindings(number, frame.time, frame.boxes, frame.view)
            for numbers, stored in zip(self.numbers, self.stored, strict=True)
            for number, frame in zip(numbers, stored.frames, strict=True)
        ]

    def file_of(self, number: int) -> tuple[Path, int | None]:
        """The file of a frame, and its number there; None in a still."""
        for entry, numbers, stored in zip(self.entries, self.numbers, self.stored, strict=True):
            if number in numbers:
                return entry.path, stored.frames[numbers.index(number)].number
        raise KeyError(number)


def digest_of_all(digests: Sequence[str]) -> str:
    """The SHA-256 of one network's file as it is; of several, that of theirs, in hexadecimal, one after the other."""
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()


@dataclass
class Report:
    """The report on a run's finished files.

    Args:
        ledger: of the run, complete.
        detection: that found it all.
        weights: the files' names, and the SHA-256 of each in hexadecimal; several are one network.
    """

    ledger: Ledger
    detection: Detection
    weights: Sequence[tuple[str, str]]

    def write(self) -> None:
        """Write what the options ask for: study.json and findings.csv in any case."""
        options, folder = self.detection.options, self.ledger.folder
        write_json(folder / "study.json", self.content)
        write_text(folder / "findings.csv", findings_csv(self.content))
        if asks_pictures(options):
            write_page(folder / "study.html", self.content, self.pictures)
        if options.save_dicom_sr:
            identifiers = self.ledger.naming.identifiers
            assert identifiers is not None  # it is there whenever a report is asked for
            sources = {clip.name: clip.path for clip in self.clips if clip.header is not None}
            for study in self.content["studies"]:
                try:
                    write_structured_report(folder, study, self.content, sources, identifiers)
                except InputError as error:  # of a source that pixels were read from, but that is not whole
                    LOGGER.warning("%s: no structured report: %s", study["id"], error)

    def review(self) -> None:
        """Serve the page on the port asked for until a signal comes."""
        serve(
            Review(
                self.ledger.folder, self.content, self.pictures, self._image, self._area,
                self.detection.names, self.detection.view_names,
            ),
            self.detection.options.port,
        )  # fmt: skip

    @cached_property
    def clips(self) -> list[ClipFiles]:
        """In the order of their first files."""
        found: dict[tuple[Any, ...], ClipFiles] = {}
        naming, where = self.ledger.naming, places(entry.path for entry in self.ledger.entries)
        for entry, facts in self.ledger.facts():
            stored = stored_frames(self.ledger, entry)
            if stored is None or facts is None:
                continue
            name = naming.clip(entry.path, entry.name)
            # frames of another size are of another clip: no box of theirs goes on in these
            key = (clip_name(entry.path), stored.size) if entry.path in where else (entry.path,)
            clip = found.setdefault(key, ClipFiles(name, naming.hides(entry.path)))
            place = where.get(entry.path, 0)
            at = bisect(clip.places, place)  # a list names its files in any order
            clip.places.insert(at, place)
            clip.entries.insert(at, entry)
            clip.stored.insert(at, stored)
            if facts["failure"] is not None:
                clip.notes.append(facts["failure"])
        return _distinct(list(found.values()))

    @cached_property
    def content(self) -> dict[str, Any]:
        """Of study.json."""
        options, naming, detection = self.detection.options, self.ledger.naming, self.detection
        keep = options.keep_identifiers
        skipped = [
            (naming.file(entry.path, entry.name), facts["failure"])
            for entry, facts in self.ledger.facts()
            if facts is not None and facts["failure"] is not None
        ]
        studies = self._studies()
        identities: dict[str, dict[str, str]] = {}
        clips: list[Clip] = []
        for clip, study in zip(self.clips, studies, strict=True):
            header, first = clip.header, clip.stored[0]
            if keep and header is not None:
                identities.setdefault(study, {"uid": header.study, "patient": header.patient})
            frames = clip.frames
            total = first.total if is_video(clip.path) and first.total is not None else len(frames)
            clips.append(
                Clip(
                    clip.name, clip.kind, study, frames, first.height, first.width, max(total, len(frames)),
                    first.fps, first.seen, first.cm_per_pixel, _identity(clip) if keep else {},
                    "; ".join(clip.notes) or None,
                )
            )  # fmt: skip
        names, digests = zip(*self.weights, strict=True)
        members = [{"file": name, "sha256": digest} for name, digest in self.weights]
        facts = {
            "created": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
            "weights": {
                "file": " + ".join(names), "sha256": digest_of_all(digests),
                **({"members": members} if len(members) > 1 else {}),
            },
            "settings": {
                "imgsz": detection.predictor.image_size, "clip_window": detection.predictor.clip_window,
                **{name: getattr(options, name) for name in SETTINGS},
            },
        }  # fmt: skip
        rules = ClipRules(options.track_iou, options.track_gap, options.track_frames, options.view_agreement)
        return study_report(clips, identities, skipped, Naming(detection.names, detection.view_names), rules, facts)

    @cached_property
    def pictures(self) -> dict[str, StoredPictures]:
        """Of each clip, by its name; thinned where there are more than a page can hold."""
        found = {clip.name: stored_pictures(self.ledger, clip.entries, clip.numbers) for clip in self.clips}
        count = sum(len(pictures.frames) for pictures in found.values())
        stride = -(-count // MOST_PICTURES)
        if stride > 1:
            LOGGER.warning("study.html: %d frames are more than a page holds; every %d. one is shown", count, stride)
        for pictures in found.values():
            pictures.stride = max(stride, 1)
        return found

    def _studies(self) -> Iterator[str]:
        """The study of each clip: by its UID, or by its folder, where that holds not the files of one study."""
        naming = self.ledger.naming
        known: dict[Path, set[str]] = {}
        for clip in self.clips:
            if clip.header is not None:
                known.setdefault(clip.path.parent, set()).add(clip.header.study)
        for clip in self.clips:
            beside = known.get(clip.path.parent, set())
            if clip.header is not None and clip.header.study:
                yield naming.study(clip.header.study)
            else:
                yield naming.study(next(iter(beside)) if len(beside) == 1 else naming.folder(clip.path))

    def _clip(self, name: str) -> ClipFiles:
        return next(clip for clip in self.clips if clip.name == name)

    def _image(self, name: str, number: int) -> Image:
        """A whole frame, decoded anew."""
        return frame_of(*self._clip(name).file_of(number)).image

    def _area(self, name: str, number: int) -> Area | None:
        """Where the ultrasound is in a frame: stills of a clip need not be alike."""
        path, own = self._clip(name).file_of(number)
        return frame_of(path, own, study=True, stride=self.detection.options.vid_stride).area


def _identity(clip: ClipFiles) -> dict[str, str]:
    header = clip.header
    known = {} if header is None else {"uid": header.instance, "acquired": header.acquired}
    return {"file": clip.path.name, **known}


def _distinct(clips: Sequence[ClipFiles]) -> list[ClipFiles]:
    """Clips of which no two have one name; those of two folders may."""
    taken: set[str] = set()
    for clip in clips:
        name, number = clip.name, 2
        while clip.name in taken:
            clip.name, number = f"{name}_{number}", number + 1
        taken.add(clip.name)
    return list(clips)


def check_report(options: argparse.Namespace, live: bool, processes: int) -> None:
    """Refuse reports of what has no end, and reviews by many."""
    if live or options.view_img:
        got = "a camera or stream" if live else "--view-img"
        raise InputError(f"--save-study: a source of files expected, as a report is of whole clips, got {got}")
    if options.save_dicom_sr:
        require(("pydicom", "highdicom"), "--save-dicom-sr")
    if options.review and processes > 1:
        raise InputError("--review: one process expected, torchrun started several")
