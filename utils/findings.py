"""What is wrong or doubtful in a dataset: rules and how they are found."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import Enum
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from utils.boxes import pair_iou
from utils.config import DatasetConfig
from utils.groups import clips, patients, unmatched
from utils.images import IMAGE_SUFFIXES, read_bytes, read_image
from utils.labels import UNLABELLED, Label, label_path, pixel_corners, read_label
from utils.log import InputError, progress
from utils.split_files import list_images

T = TypeVar("T")
TINY_PIXELS = 8  # of the frame's own; YOLOv5's finest stride, so that a smaller box fills no cell of any map
HUGE_SHARE = 0.95  # of the frame's area
SAME_IOU = 0.98  # from here on, two boxes are one that was written in two ways
NAMES_SHOWN = 3  # of files with the same bytes, and of reasons under a thumbnail


class Rule(Enum):
    """What a finding breaks: a title, what to do about it, and whether to look at the frames helps; gravest first."""

    UNDECODABLE = "image not decoded", "training leaves it out: save it anew, or delete it", False
    FAULTY = "faulty label", "training leaves the row out: mend it", True
    ORPHAN = "label without image", "nobody reads it: its image is missing or has another name", False
    CONTRADICTION = "identical, labels differ", "one picture, two truths: decide for one and keep one file", True
    ACROSS = "identical across parts", "val and test are to hold unseen frames: keep one file", True
    DUPLICATE = "identical in a part", "it counts several times: keep one file", True
    SHARED = "patient in several parts", "figures of val and test measure memory of patients: split by patient", False
    UNKNOWN = "no patient in name", "the yaml's group pattern does not match: change it, or the name", False
    VIEWS = "views differ in a clip", "a clip shows one view: look at the frames outside of its majority", True
    CLASSES = "classes differ in a clip", "a clip shows few valves: look at the frames outside of its majority", True
    TINY = "tiny box", f"under {TINY_PIXELS} pixels wide or high: a slip of the mouse, or hard to learn", True
    HUGE = "huge box", f"over {HUGE_SHARE:.0%} of the frame: a slip of the mouse, or a label of the whole frame", True
    NO_LABEL = "no label file", "it counts as a frame without boxes and view: is that meant?", True
    NO_VIEW = "no view", "it has no part in the view's training: add the view row", True

    def __init__(self, title: str, advice: str, pictured: bool) -> None:
        self.title, self.advice, self.pictured = title, advice, pictured


@dataclass(frozen=True, eq=False)
class Frame:
    """A frame of a part; one that two parts list is two of these.

    Attributes:
        shape: (height, width) in the file, or None where it cannot be decoded.
        fault: why it cannot be decoded, or empty.
        digest: of the file's bytes, or empty where there are none.
        has_label: whether there is a label file.
        classes: names of its boxes' classes, a box each.
        view: its name, or None.
        patient: read from the file's name, or None; ``clip`` likewise.
    """

    part: str
    path: Path
    shape: tuple[int, int] | None
    fault: str
    digest: str
    label: Label
    has_label: bool
    classes: tuple[str, ...]
    view: str | None
    patient: str | None = None
    clip: str | None = None

    @property
    def kinds(self) -> str | None:
        """The classes of its boxes, each once; None without boxes."""
        return "+".join(sorted(set(self.classes))) or None


@dataclass(frozen=True)
class Finding:
    """A rule that something breaks.

    Attributes:
        part: of the dataset; several are joined by ``+``.
        frames: those affected; of a clip, those outside of its majority.
        path: the file at fault, or None where it is several frames together.
    """

    rule: Rule
    part: str
    text: str
    frames: tuple[Frame, ...]
    path: Path | None = None
    line: int | None = None

    def reason(self, frame: Frame) -> str:
        """Why this frame is one of its frames; where those are several, with the frame's own labels."""
        if self.path is not None:
            return f"line {self.line}: {self.text}" if self.line else self.text
        return f"{self.text}; here {frame.kinds or 'no box'}, {frame.view or 'no view'}"


def read_frames(config: DatasetConfig) -> list[Frame]:
    """Every frame of every part, in the order of the parts; images are decoded, but not kept."""
    listed = [(part, path) for part in config.splits for path in list_images(config, part)]
    files = [path for _, path in listed]
    strangers = set(unmatched(config, files))
    nobody: list[str | None] = [None] * len(files)
    owners, origins = patients(config, files) or nobody, clips(config, files) or nobody
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # decoding and hashing run beside each other
        read = pool.map(partial(_read_frame, config), listed)
        bar = progress(read, "Frames", total=len(listed), unit="frame", leave=False)
        return [
            dataclasses.replace(frame, patient=None if frame.path in strangers else owner, clip=clip)
            for frame, owner, clip in zip(bar, owners, origins, strict=True)
        ]


def _read_frame(config: DatasetConfig, listed: tuple[str, Path]) -> Frame:
    part, path = listed
    shape, fault, digest = None, "", ""
    try:
        digest = hashlib.blake2b(read_bytes(path), digest_size=16).hexdigest()
        image = read_image(path)
        shape = image.shape[0], image.shape[1]
    except InputError as error:
        fault = str(error).removeprefix(f"{path}: ")
    place = label_path(path)
    label = read_label(place, len(config.names), len(config.view_names))
    classes = tuple(config.names[int(row[0])] for row in label.boxes)
    view = None if label.view == UNLABELLED else config.view_names[label.view]
    return Frame(part, path, shape, fault, digest, label, place.exists(), classes, view)


def find_all(frames: Sequence[Frame], config: DatasetConfig) -> list[Finding]:
    """Everything that breaks a rule, the gravest rule first."""
    found = [finding for find in FINDERS for finding in find(frames, config)]
    return sorted(found, key=lambda finding: list(Rule).index(finding.rule))


def find_faulty_frames(frames: Sequence[Frame], config: DatasetConfig) -> Iterator[Finding]:
    """What single frames lack: an image that can be decoded, a label, one without fault, a view, a patient.

    Views and patients are missed only where the dataset's yaml has names, or a pattern, for them.
    """
    for frame in frames:
        if frame.fault:
            yield _alone(Rule.UNDECODABLE, frame, frame.fault)
        for problem in frame.label.problems:
            yield Finding(Rule.FAULTY, frame.part, problem.rule, (frame,), problem.path, problem.line)
        if not frame.has_label:
            yield _alone(Rule.NO_LABEL, frame, "no label file: background")
        elif config.view_names and frame.view is None:
            yield _alone(Rule.NO_VIEW, frame, "no valid view row")
        if config.group is not None and frame.patient is None:
            yield _alone(Rule.UNKNOWN, frame, f"the group pattern {config.group} does not match")


def find_orphans(frames: Sequence[Frame], config: DatasetConfig) -> Iterator[Finding]:
    """Label files whose image is missing, in the folders of the frames' labels; images need not be in a part."""
    lists = {entry for entries in config.splits.values() for entry in entries}  # may lie beside the labels
    for folder, own in grouped(frames, lambda frame: label_path(frame.path).parent).items():
        places = sorted({frame.path.parent for frame in own})
        beside = [path for place in places if place.is_dir() for path in place.iterdir()]
        stems = {path.stem for path in beside if path.suffix[1:].lower() in IMAGE_SUFFIXES}
        text = f"no image of that name in {', '.join(map(str, places))}"
        for path in sorted(folder.glob("*.txt")):
            if path.stem not in stems and path.resolve() not in lists:
                yield Finding(Rule.ORPHAN, joined_parts(own), text, (), path)


def find_odd_boxes(frames: Sequence[Frame], config: DatasetConfig) -> Iterator[Finding]:
    """Boxes that are tiny or huge; what sticks out of the frame does not count."""
    for frame in frames:
        if frame.shape is None:
            continue
        area = frame.shape[0] * frame.shape[1]
        corners = pixel_corners(frame.label.boxes, frame.shape)
        sizes = np.round(corners[:, 2:] - corners[:, :2], 2).tolist()  # 6 decimals of a label file tell no more
        for name, (width, height) in zip(frame.classes, sizes, strict=True):
            share = width * height / area
            text = f"{name} of {width:.1f} x {height:.1f} pixels, {share:.1%} of the frame"
            if min(width, height) < TINY_PIXELS:
                yield _alone(Rule.TINY, frame, text)
            if share > HUGE_SHARE:
                yield _alone(Rule.HUGE, frame, text)


def find_duplicates(frames: Sequence[Frame], config: DatasetConfig) -> Iterator[Finding]:
    """Image files of the same bytes; those whose labels differ are a second finding, as that is a fault of its own."""
    for own in grouped(frames, lambda frame: frame.digest or None).values():
        if len(own) > 1:
            names = first_few([f"{frame.part} {frame.path.name}" for frame in own], ", ")
            rule = Rule.ACROSS if len({frame.part for frame in own}) > 1 else Rule.DUPLICATE
            yield _together(rule, own, f"the same bytes: {names}")
            if differ := _differences(own):
                yield _together(Rule.CONTRADICTION, own, f"the same bytes, but {differ} differ: {names}")


def _differences(frames: Sequence[Frame]) -> str:
    """In what the labels of some frames differ; empty where they are the same. Overlaps are with the first frame's."""
    differ = ["box classes"] if len({tuple(sorted(frame.classes)) for frame in frames}) > 1 else []
    if not differ and frames[0].classes:
        # in thousandths of the frame: in shares, pair_iou's guard against empty boxes would weigh in the smallest
        boxes = [torch.tensor(sorted(frame.label.boxes.tolist()))[:, 1:] * 1000 for frame in frames]
        lowest = min(float(pair_iou(boxes[0], others).min()) for others in boxes)
        differ = [f"box corners (IoU {lowest:.2f})"] if lowest < SAME_IOU else []
    return " and ".join(differ + (["views"] if len({frame.view for frame in frames}) > 1 else []))


def find_shared_patients(frames: Sequence[Frame], config: DatasetConfig) -> Iterator[Finding]:
    """Patients with frames in more than one part."""
    sizes = Counter(frame.part for frame in frames)
    for patient, own in sorted(grouped(frames, lambda frame: frame.patient).items()):
        counts = Counter(frame.part for frame in own)
        if len(counts) > 1:
            text = ", ".join(f"{part} {count} ({count / sizes[part]:.1%} of it)" for part, count in counts.items())
            yield _together(Rule.SHARED, own, f"patient {patient} has frames in {text}")


def find_mixed_clips(frames: Sequence[Frame], config: DatasetConfig) -> Iterator[Finding]:
    """Clips whose frames carry different views, or different sets of box classes.

    Frames without a view are no other view; nor are those without boxes, as a valve leaks for a part of the beat only.
    Where no label is commoner than all others, nobody knows which is right: all frames are listed.
    """
    for clip, own in sorted(grouped(frames, lambda frame: frame.clip).items()):
        for rule, name_of in ((Rule.VIEWS, attrgetter("view")), (Rule.CLASSES, attrgetter("kinds"))):
            counts = Counter(name for frame in own if (name := name_of(frame)) is not None).most_common()
            if len(counts) > 1:
                majority = counts[0][0] if counts[0][1] > counts[1][1] else None
                minority = tuple(frame for frame in own if name_of(frame) not in (None, majority))
                text = f"clip {clip} has {', '.join(f'{name} {count}' for name, count in counts)}"
                yield Finding(rule, joined_parts(own), text, minority)


FINDERS: tuple[Callable[[Sequence[Frame], DatasetConfig], Iterator[Finding]], ...] = (
    find_faulty_frames, find_orphans, find_odd_boxes, find_duplicates, find_shared_patients, find_mixed_clips,
)  # fmt: skip


def grouped(items: Iterable[T], key: Callable[[T], Any]) -> dict[Any, list[T]]:
    """Items by a key; those whose key is None are left out."""
    groups: dict[Any, list[T]] = defaultdict(list)
    for item in items:
        if (name := key(item)) is not None:
            groups[name].append(item)
    return groups


def joined_parts(frames: Iterable[Frame]) -> str:
    """The parts that frames come from, such as train+val."""
    return "+".join(dict.fromkeys(frame.part for frame in frames))


def first_few(texts: Sequence[str], joint: str) -> str:
    """The first texts and how many more there are."""
    more = [f"{len(texts) - NAMES_SHOWN} more"] if len(texts) > NAMES_SHOWN else []
    return joint.join([*texts[:NAMES_SHOWN], *more])


def _alone(rule: Rule, frame: Frame, text: str) -> Finding:
    return Finding(rule, frame.part, text, (frame,), frame.path)


def _together(rule: Rule, frames: Sequence[Frame], text: str) -> Finding:
    return Finding(rule, joined_parts(frames), text, tuple(frames))
