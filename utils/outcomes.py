"""What a network made of every frame of a split, in columns: all figures of an evaluation come from these.

They are kept beside a run's figures (``outcomes.npz``), so that folds can be pooled and methods compared by frame.
"""

from __future__ import annotations

import math
import tokenize
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from utils.config import name_fault
from utils.dataset import EchoDataset
from utils.evaluation import Evaluation
from utils.files import DAMAGED_ZIP, write_whole
from utils.groups import clips, patients
from utils.log import InputError, printable

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Names = tuple[str, ...]


@dataclass(frozen=True)
class Outcomes:
    """F frames with n detections and m labelled boxes.

    Attributes:
        names, view_names: of k box classes and nv views; ``view_names`` is empty where no view is learned.
        files: (F,) paths of the frames below the dataset's root; names, where they lie elsewhere.
        patients, clips: (F,) whose each frame is; None where the dataset does not say.
        frame, confidence, predicted: (n,) a detection's frame, confidence and class.
        correct: (n, 10) from :func:`utils.metrics.match`.
        label_frame, labelled: (m,) a labelled box's frame and class.
        views: (F, nv) probabilities.
        true_views: (F,) -1 where unlabelled.
        operating: (F,) the confidence from which on a frame's detections count in precision, recall and F1.
        confusion: (k + 1, k + 1) boxes, row predicted, column true, the last of each background.
    """

    names: Names
    view_names: Names
    files: Names
    patients: Names | None
    clips: Names | None
    frame: Integers
    confidence: Floats
    predicted: Integers
    correct: NDArray[np.bool_]
    label_frame: Integers
    labelled: Integers
    views: Floats
    true_views: Integers
    operating: Floats
    confusion: Integers

    def __len__(self) -> int:
        return len(self.files)

    @property
    def counts(self) -> NDArray[np.bool_]:
        """(n,) whether a detection is at or above its frame's operating confidence."""
        return self.confidence >= self.operating[self.frame]


def outcomes_of(evaluation: Evaluation, dataset: EchoDataset, view_names: Sequence[str]) -> Outcomes:
    """The columns of an evaluation on a dataset; its operating confidence is the one that its figures were taken at."""
    order = [found.index for found in evaluation.predictions]
    files = [dataset.files[index] for index in order]
    boxes = [found.boxes.double().numpy() for found in evaluation.predictions]
    labels = [dataset.labels[index].boxes[:, 0].astype(np.int64) for index in order]
    detections = np.concatenate(boxes).reshape(-1, 6)
    owners, own_clips = patients(dataset.config, files), clips(dataset.config, files)
    found_views = [found.view.double().numpy() for found in evaluation.predictions if found.view is not None]
    learned = bool(found_views)  # also where no frame of the split carries a view
    return Outcomes(
        names=tuple(dataset.names),
        view_names=tuple(view_names) if learned else (),
        files=tuple(_relative(path, dataset.config.root) for path in files),
        patients=None if owners is None else tuple(owners),
        clips=None if own_clips is None else tuple(own_clips),
        frame=_rows([len(of_frame) for of_frame in boxes]),
        confidence=detections[:, 4],
        predicted=detections[:, 5].astype(np.int64),
        correct=np.concatenate([found.correct for found in evaluation.predictions]),
        label_frame=_rows([len(of_frame) for of_frame in labels]),
        labelled=np.concatenate(labels),
        views=np.stack(found_views) if learned else np.zeros((len(files), 0)),
        true_views=np.array([dataset.labels[index].view for index in order], np.int64),
        operating=np.full(len(files), evaluation.detection.confidence),
        confusion=evaluation.confusion,
    )


def _relative(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.name


def _rows(lengths: Sequence[int]) -> Integers:
    return np.repeat(np.arange(len(lengths)), lengths).astype(np.int64)


def pooled(parts: Sequence[Outcomes]) -> Outcomes:
    """Several splits as one, such as the folds of a cross-validation; each keeps its operating confidence.

    Raises:
        InputError: they differ in box classes or views.
    """
    first = parts[0]
    for part in parts:
        if (part.names, part.view_names) != (first.names, first.view_names):
            raise InputError(
                f"expected parts of the same classes and views, {[*first.names, *first.view_names]}, "
                f"got one of {[*part.names, *part.view_names]}"
            )
    starts = np.cumsum([0, *(len(part) for part in parts)])[:-1]

    def joined(column: str) -> Any:
        return np.concatenate([getattr(part, column) for part in parts])

    def joined_names(column: str) -> Names | None:
        columns = [getattr(part, column) for part in parts]
        return None if any(names is None for names in columns) else tuple(name for names in columns for name in names)

    plain = ("confidence", "predicted", "correct", "labelled", "views", "true_views", "operating")
    return Outcomes(
        names=first.names, view_names=first.view_names, files=joined_names("files") or (),
        patients=joined_names("patients"), clips=joined_names("clips"),
        frame=np.concatenate([part.frame + start for part, start in zip(parts, starts, strict=True)]),
        label_frame=np.concatenate([part.label_frame + start for part, start in zip(parts, starts, strict=True)]),
        confusion=np.sum([part.confusion for part in parts], 0),
        **{column: joined(column) for column in plain},
    )  # fmt: skip


_TEXT = ("names", "view_names", "files", "patients", "clips")
_ARRAYS = {
    "frame": np.int64, "confidence": np.float64, "predicted": np.int64, "correct": np.bool_, "label_frame": np.int64,
    "labelled": np.int64, "views": np.float64, "true_views": np.int64, "operating": np.float64, "confusion": np.int64,
}  # fmt: skip


def save(path: Path, outcomes: Outcomes) -> None:
    """Write the columns as a numpy archive, whole or not at all; read with :func:`load`."""
    arrays: dict[str, Any] = {name: getattr(outcomes, name) for name in _ARRAYS}
    for name in _TEXT:
        if getattr(outcomes, name) is not None:
            arrays[name] = np.array(getattr(outcomes, name), np.str_)
    write_whole(path, lambda file: np.savez_compressed(file, **arrays))


MOST_BYTES = 8 * 2**30  # of all columns: tens of millions of detections
MOST_UNPACKED = 100  # times as large as the file; the confidences alone, a fifth of a real one, hardly shrink
MOST_VIEWS = 2**31  # a number no dataset has; a detector alone does not know how many there are
ALWAYS_UNPACKED = 64 * 2**20  # bytes for which that ratio does not count
# what reading a damaged column ends in, too; numpy reads a header with Python's tokenizer
_DAMAGES = (*DAMAGED_ZIP, TypeError, SyntaxError, tokenize.TokenError)


def load(path: Path) -> Outcomes:
    """Read what :func:`save` wrote; what the columns take is known, and checked, before any of them is read.

    Raises:
        InputError: absent, or something else.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            _check_sizes(archive, path.stat().st_size)
            present = archive.namelist()
            text = {name: _words(archive, name) if f"{name}.npy" in present else None for name in _TEXT}
            arrays = {name: _column(archive, name, kind) for name, kind in _ARRAYS.items()}
        found = Outcomes(**text, **arrays)  # type: ignore[arg-type]
        _check(found)
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file; a finished run leaves it in its folder") from error
    except _DAMAGES as error:
        if isinstance(error, OSError) and error.filename is not None:
            raise  # the file itself: no permission to read it, for one
        reason = printable(str(error) or type(error).__name__, 200)
        raise InputError(f"{path}: expected the outcomes of an evaluation, got something else: {reason}") from error
    return found


def _check_sizes(archive: zipfile.ZipFile, size: int) -> None:
    claimed = sum(entry.file_size for entry in archive.infolist())
    most = min(MOST_BYTES, max(ALWAYS_UNPACKED, MOST_UNPACKED * size))
    if claimed > most:
        raise ValueError(f"its columns claim {claimed:,} bytes in a file of {size:,}, expected at most {most:,}")


def _words(archive: zipfile.ZipFile, name: str) -> Names:
    column = _column(archive, name, np.str_)
    if column.ndim != 1:
        raise ValueError(f"{name}: expected a row of words, got shape {column.shape}")
    return tuple(column.tolist())


def _column(archive: zipfile.ZipFile, name: str, kind: type[np.generic]) -> NDArray[Any]:
    """A column, of whatever width its numbers have; its header may ask for no more than there is."""
    entry = archive.getinfo(f"{name}.npy")
    with archive.open(entry) as file:
        version = np.lib.format.read_magic(file)
        if version not in ((1, 0), (2, 0)):
            raise ValueError(f"{name}: expected a numpy file of version 1 or 2, got {version}")
        header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, by_columns, dtype = header(file)
        expected = np.dtype(kind).kind
        if dtype.kind != expected:
            raise ValueError(f"{name}: expected numbers of kind {expected!r}, got {dtype.kind!r}")
        if not dtype.itemsize:
            raise ValueError(f"{name}: words without width, of which there may be any number in no bytes")
        needed = math.prod(shape) * dtype.itemsize
        if min(shape, default=0) < 0 or needed != entry.file_size - file.tell():
            raise ValueError(f"{name}: shape {shape} does not go with {entry.file_size:,} bytes")
        data = file.read(needed)
    if len(data) != needed:
        raise ValueError(f"{name}: cut off")
    column: NDArray[Any] = np.ndarray(shape, dtype, data, order="F" if by_columns else "C")
    return column.astype(dtype.newbyteorder("=") if expected == "U" else kind)  # a copy that can be written to


def _check(found: Outcomes) -> None:
    """Raise a ValueError for columns that do not go together."""
    if found.names is None or found.view_names is None or found.files is None:
        raise ValueError("names, view_names and files: expected all three")
    faults = [fault for name in (*found.names, *found.view_names) if (fault := name_fault(name))]
    if faults:
        raise ValueError(faults[0])
    frames, classes, views = len(found.files), len(found.names), len(found.view_names)
    detections, boxes = len(np.atleast_1d(found.frame)), len(np.atleast_1d(found.label_frame))
    shapes = {
        "frame": (detections,), "confidence": (detections,), "predicted": (detections,), "correct": (detections, 10),
        "label_frame": (boxes,), "labelled": (boxes,), "views": (frames, views), "true_views": (frames,),
        "operating": (frames,), "confusion": (classes + 1, classes + 1),
    }  # fmt: skip
    for name, shape in shapes.items():
        if getattr(found, name).shape != shape:
            raise ValueError(f"{name}: expected shape {shape}, got {getattr(found, name).shape}")
    for name, words in (("patients", found.patients), ("clips", found.clips)):
        if words is not None and len(words) != frames:
            raise ValueError(f"{name}: expected {frames}, one a frame, got {len(words)}")
    ranges = {  # the highest is in it
        "frame": (0, frames - 1), "label_frame": (0, frames - 1), "predicted": (0, classes - 1),
        "labelled": (0, classes - 1), "true_views": (-1, views - 1 if views else MOST_VIEWS), "confidence": (0, 1),
        "operating": (0, 1), "confusion": (0, 2**53),
    }  # fmt: skip
    for name, (low, high) in ranges.items():
        column = getattr(found, name)
        if not ((column >= low) & (column <= high)).all():  # NaN is outside, too
            raise ValueError(f"{name}: expected {low} to {high}, got {column.min()} to {column.max()}")
    if not np.isfinite(found.views).all():
        raise ValueError("views: expected probabilities")
