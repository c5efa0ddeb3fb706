"""What a part of a dataset has in common with the frames a network was trained on: patients, and near-identical frames.

Figures on such a part flatter: they measure memory. :meth:`Fingerprint.of` keeps what it takes to find that out later.
"""

from __future__ import annotations

import hashlib
import math
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import PIL
import torch
from numpy.typing import NDArray

from utils import frames, images, letterbox, preprocess
from utils.dataset import EchoDataset
from utils.file_cache import Kind, remembered
from utils.letterbox import Image
from utils.log import InputError, progress, shown

# Hash, distance and limit were chosen on 1,282 real frames of 42 patients. All frames show a fan on black, so a short
# hash confuses patients: by imagehash's phash of 64 bits, the nearest two are as near as half of all neighbours. At
# the same share of neighbours found, the vertical difference hash of 24 x 24 bits confuses fewer patients than phash,
# whash, ahash and the horizontal one; longer ones gain little. Measured with it and the distance of `nearest`:
#   copies of a frame (96 to 640 pixels, JPEG quality 30 to 75, gain +-20%, mixed)   all within 0.16
#   next frame of the clip                                                           70% of 816 pairs within the limit
#   2 to 5 frames on; 6 and more frames on; other clip of the patient                19%, 9% and 0.5% within the limit
#   other patients                              none of 757,367 pairs within the limit, the nearest at 0.42; the rate,
#                                               drawn out from the 10,000 nearest pairs, is under 1 in 10^8
# By the Hamming distance the rate is higher, and dark frames, which have few bits, would all be near each other.
# The limit also keeps the drawn patients of utils.phantom apart, at any size (nearest: 0.35).
HASH = "dhash_vertical"
SIDE = 24  # bits a side of the hash
BYTES = SIDE * SIDE // 8  # whole words of 64 bits, as `nearest` needs them
NEAR_IDENTICAL = 0.34  # distance up to which two frames count as near-identical

ROWS = 8  # frames of a part compared at once: what they take stays within a processor's cache
DIGITS = 16  # hexadecimal digits kept of a patient's SHA-256
EXAMPLES = 5
Hashes = NDArray[np.uint8]  # (n, 72), a frame a row


@dataclass(frozen=True)
class Fingerprint:
    """What is remembered of a training part, so that a checkpoint can tell later which frames it has seen.

    Names stay out of checkpoints. A patient's hash hides the name from the eye, not from one who tries all names.

    Attributes:
        patients: shortened SHA-256 of each patient's name, sorted; None where the dataset names no group.
        hashes: (n, 72) uint8, perceptual hash of each frame.
        files: of the frames; None where they are not known, as after a checkpoint.
    """

    patients: tuple[str, ...] | None
    hashes: Hashes
    files: tuple[Path | None, ...]

    @classmethod
    def of(cls, dataset: EchoDataset) -> Fingerprint:
        """The fingerprint of a dataset's part, from its frames as they are cached: under a millisecond each.

        Hashes of frames whose files have not changed since an earlier start are not computed again.
        """
        owners = _owners(dataset)
        patients = None if owners is None else tuple(sorted(set(owners)))
        return cls(patients, _hashes(dataset), tuple(dataset.files))

    def content(self) -> dict[str, Any]:
        """What a checkpoint keeps, of types that ``torch.load(weights_only=True)`` reads; 72 bytes a frame."""
        return {
            "hash": f"{HASH} {SIDE}",
            "patients": None if self.patients is None else list(self.patients),
            "hashes": torch.from_numpy(self.hashes.copy()),
        }

    @classmethod
    def from_content(cls, content: Mapping[str, Any], source: Path) -> Fingerprint:
        """The fingerprint that ``source`` (named in errors) keeps as :meth:`content`.

        Raises:
            InputError: made with another hash, or no such content at all.
        """
        kind, patients, hashes = (content.get(key) for key in ("hash", "patients", "hashes"))
        if kind != f"{HASH} {SIDE}":
            raise InputError(f"{source}: expected a fingerprint of kind {HASH} {SIDE}, got {shown(kind)}")
        if patients is not None and not (isinstance(patients, list) and all(isinstance(p, str) for p in patients)):
            raise InputError(f"{source}: expected the fingerprint's patients as words, got {type(patients).__name__}")
        if not (isinstance(hashes, torch.Tensor) and hashes.dtype == torch.uint8 and hashes.ndim == 2):
            raise InputError(f"{source}: expected the fingerprint's hashes as bytes, got {type(hashes).__name__}")
        if len(hashes) == 0 or hashes.shape[1] != BYTES:
            raise InputError(f"{source}: expected a fingerprint of {BYTES} bytes a frame, got {tuple(hashes.shape)}")
        return cls(None if patients is None else tuple(patients), hashes.contiguous().numpy(), (None,) * len(hashes))

    def joined(self, earlier: Fingerprint) -> Fingerprint:
        """This part's and that of an earlier training, from whose weights this one starts; each frame once.

        Patients are None where either part names no group: then nobody can say who was seen.
        """
        seen = {row.tobytes() for row in self.hashes}
        other = [row for row, of_frame in enumerate(earlier.hashes) if of_frame.tobytes() not in seen]
        both_named = self.patients is not None and earlier.patients is not None
        patients = tuple(sorted({*(self.patients or ()), *(earlier.patients or ())})) if both_named else None
        files = (*self.files, *(earlier.files[row] for row in other))
        return Fingerprint(patients, np.concatenate((self.hashes, earlier.hashes[other])), files)


class Example(NamedTuple):
    """A frame of a part and the training frame that it resembles most; None where that one's file is not known."""

    file: Path
    trained: Path | None
    distance: float


@dataclass(frozen=True)
class Leakage:
    """What a part has in common with a training part.

    Attributes:
        part: "train", "val" or "test".
        frames: in the part.
        patients: in the part; None where its dataset names no group.
        shared_patients: of them, those that are in the training part; None where either side names no group.
        shared_patient_frames: frames of the part that belong to them; None likewise.
        near_identical_frames: frames of the part that look nearly identical to a training frame.
        examples: the nearest few of them, nearest first.
    """

    part: str
    frames: int
    patients: int | None
    shared_patients: int | None
    shared_patient_frames: int | None
    near_identical_frames: int
    examples: tuple[Example, ...]

    @property
    def found(self) -> bool:
        """Whether the part's figures flatter, as far as could be compared."""
        return bool(self.shared_patients) or self.near_identical_frames > 0

    def content(self) -> dict[str, int | float | None]:
        """Counts, and shares of the part's frames, for a json file."""
        shared = self.shared_patient_frames
        return {
            "frames": self.frames,
            "patients": self.patients,
            "shared_patients": self.shared_patients,
            "shared_patient_frames": shared,
            "shared_patient_share": None if shared is None else shared / self.frames,
            "near_identical_frames": self.near_identical_frames,
            "near_identical_share": self.near_identical_frames / self.frames,
        }

    def columns(self) -> dict[str, float]:
        """Shares of the part's frames, for the log of a training; NaN where patients could not be compared."""
        shared = self.shared_patient_frames
        return {
            "leakage/patients": math.nan if shared is None else shared / self.frames,
            "leakage/near_identical": self.near_identical_frames / self.frames,
        }

    def lines(self) -> list[str]:
        """For the user: a line on patients, a line on near-identical frames with an example."""
        nearest = "".join(
            f"; the nearest: {file.name}" + (f" to {trained.name}" if trained is not None else "")
            for file, trained, _ in self.examples[:1]
        )
        return [self._patients_line(), self._frames_line() + nearest]

    @property
    def warnings(self) -> list[str]:
        """What a reader of the part's figures must know: what is shared, and what could not be compared."""
        patients = [self._patients_line()] if self.shared_patients != 0 else []
        return patients + ([self._frames_line()] if self.near_identical_frames else [])

    def _patients_line(self) -> str:
        if self.shared_patients is None or self.shared_patient_frames is None:
            whose = self.part if self.patients is None else "the training part"
            return f"patients of {self.part} could not be compared: the dataset of {whose} names no group"
        if self.shared_patients == 0:
            return f"none of {self.patients} patients of {self.part} is in the training part"
        verb = "is" if self.shared_patients == 1 else "are"
        return (
            f"{self.shared_patients} of {self.patients} patients of {self.part} {verb} in the training part, too "
            f"({self._share(self.shared_patient_frames)} of its frames): its figures flatter"
        )

    def _frames_line(self) -> str:
        if self.near_identical_frames == 0:
            return f"none of {self.frames} frames of {self.part} looks nearly identical to a training frame"
        verb = "looks" if self.near_identical_frames == 1 else "look"
        return (
            f"{self.near_identical_frames} of {self.frames} frames of {self.part} "
            f"({self._share(self.near_identical_frames)}) {verb} nearly identical to training frames: "
            "its figures flatter"
        )

    def _share(self, frames: int) -> str:
        return f"{100 * frames / self.frames:.3g}%"


def compare(trained: Fingerprint, dataset: EchoDataset) -> Leakage:
    """What a dataset's part has in common with the part that a fingerprint is of.

    The dataset's frames should be filtered as those of the fingerprint were; their size may differ.
    """
    owners = _owners(dataset)
    shared = None if owners is None or trained.patients is None else set(owners) & set(trained.patients)
    distances, partners = nearest(_hashes(dataset), trained.hashes)
    order = np.argsort(distances, kind="stable")[:EXAMPLES]
    return Leakage(
        part=dataset.split,
        frames=len(dataset),
        patients=None if owners is None else len(set(owners)),
        shared_patients=None if shared is None else len(shared),
        shared_patient_frames=None if shared is None else sum(owner in shared for owner in owners or ()),
        near_identical_frames=int((distances <= NEAR_IDENTICAL).sum()),
        examples=tuple(
            Example(dataset.files[i], trained.files[partners[i]], float(distances[i]))
            for i in order
            if distances[i] <= NEAR_IDENTICAL
        ),
    )


def nearest(hashes: Hashes, others: Hashes) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """For each of n hashes the nearest of m others, all pairs compared.

    The distance is Jaccard's: of the bits set in either hash, the share that is not set in both; 0 where neither has
    any. Needs memory for n + m hashes and a few rows of m numbers, whatever n is.

    Returns:
        Distance (n,), from 0 to 1, and index among the others (n,), the first of several as near.
    """
    rows, columns = hashes.view(np.uint64), np.ascontiguousarray(others.view(np.uint64).T)
    set_here, set_there = _bits_set(rows.T), _bits_set(columns)
    distances, partners = np.empty(len(rows), np.float32), np.empty(len(rows), np.int64)
    for start in range(0, len(rows), ROWS):
        block = slice(start, start + ROWS)
        both = np.zeros((len(rows[block]), len(others)), np.uint16)
        for word, column in enumerate(columns):
            both += np.bitwise_count(rows[block, word, None] & column)
        either = set_here[block, None] + set_there - both
        distance = np.subtract(either, both, dtype=np.float32) / np.maximum(either, 1, dtype=np.float32)
        partners[block] = distance.argmin(1)
        distances[block] = distance.min(1)
    return distances, partners


def _bits_set(words: NDArray[np.uint64]) -> NDArray[np.uint16]:
    """Bits set in each column of words (w, n)."""
    return np.bitwise_count(words).sum(0, dtype=np.uint16)


def _hashes(dataset: EchoDataset) -> Hashes:
    """(n, 72): the hash of each frame of a dataset."""

    def compute(missing: list[int]) -> Iterator[NDArray[np.uint8]]:
        results = frames.in_threads(lambda index: hash_frame(dataset.frame(index).image), missing)
        description = f"{dataset.split} fingerprint"
        return iter(progress(results, description, total=len(missing), unit="frame", leave=False))

    made_with = f"OpenCV {cv2.__version__} Pillow {PIL.__version__} ImageHash {version('ImageHash')}"
    kind = Kind(
        f"{HASH} {SIDE} of frames of {dataset.size} {dataset.preprocessor} {made_with}",
        (images, preprocess, letterbox, sys.modules[__name__]),
    )
    hashes = remembered(
        frames.CACHE_FOLDER, kind, dataset.files, dataset.states, compute, lambda row: row.tobytes().hex(), _from_hex
    )
    return np.stack(hashes)


def _from_hex(_: Path, content: Any) -> NDArray[np.uint8]:
    """A hash (72,) out of a table; ValueError or TypeError where it is none."""
    return np.frombuffer(bytes.fromhex(content), np.uint8).reshape(BYTES)


def hash_frame(image: Image) -> NDArray[np.uint8]:
    """The perceptual hash of a frame (H, W, 3): for 24 x 24 cells, whether the next one below is brighter; (72,)."""
    import imagehash
    from PIL import Image as PillowImage

    bits = imagehash.dhash_vertical(PillowImage.fromarray(image), SIDE).hash
    return np.packbits(np.asarray(bits, np.bool_))


def _owners(dataset: EchoDataset) -> list[str] | None:
    """The shortened SHA-256 of each frame's patient, or None where the dataset names no group.

    Patients of generated data are nobody: p01 of the phantom is not a hospital's p01.
    """
    groups, generate = dataset.groups, dataset.config.generate
    if groups is None:
        return None
    whose = "" if generate is None else f"{generate['name']}: "
    return [hashlib.sha256((whose + g).encode("utf-8", "surrogateescape")).hexdigest()[:DIGITS] for g in groups]
