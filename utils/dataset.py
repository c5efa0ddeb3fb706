"""Frames and labels of a split -> samples -> batches.

What a sample looks like depends on the seed and the sampler's :class:`utils.batches.Key` alone: epoch, index, and how
often the epoch has drawn it before. No worker has a random state of its own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from utils import frames, labels
from utils.augment import Augmenter, Sample
from utils.batches import EpochBatches, EpochSampler, Key
from utils.config import DatasetConfig, class_names
from utils.devices import cores
from utils.file_cache import Kind, collection_paused, file_states, remembered
from utils.frames import FrameStore
from utils.groups import clips, in_clip_order, patients
from utils.interrupt import stand_apart
from utils.labels import UNLABELLED, Label, Problem, label_path, read_label
from utils.letterbox import Geometry, Image, fit, pad, padded
from utils.log import LOGGER, InputError, progress
from utils.neighbours import BY_ITSELF, ClipWindow
from utils.phantom import PhantomConfig, ensure
from utils.preprocess import Preprocessor
from utils.processes import ALONE, Processes
from utils.split_files import list_images

PROBLEMS_SHOWN = 20


@dataclass(frozen=True)
class Batch:
    """A batch of B frames.

    Attributes:
        images: uint8 (B, 3, H, W), RGB; in memory a pixel's channels lie together, as in the frames.
        boxes: float32 (N, 6): frame in the batch, class, centre x, centre y, width, height, normalised to H and W.
        views: int64 (B,), -1 where unlabelled.
        geometries: how each frame was letterboxed.
        indices: each frame's place in the dataset.
    """

    images: Tensor
    boxes: Tensor
    views: Tensor
    geometries: tuple[Geometry, ...]
    indices: tuple[int, ...]

    def pin_memory(self) -> Batch:
        """The same batch in page-locked memory, from which copies to a GPU overlap with work; a loader asks for it."""
        pinned = {name: getattr(self, name).pin_memory() for name in ("images", "boxes", "views")}
        return replace(self, **pinned)


class EchoDataset(Dataset[tuple[Tensor, NDArray[np.float32], int, Geometry, int]]):
    """A split of a dataset.

    Args:
        config: of the dataset.
        split: "train", "val" or "test".
        size: pixels of the frames' longer side.
        cache: see :class:`utils.frames.FrameStore`.
        single_class: every box is of class 0.
        strict: any problem in a file is an error.
        preprocessor: filters frames.
        augmenter: changes samples; None leaves them as they are.
        seed: of the augmentation.
        label_of: for each file the one whose label it gets, where that is not its own; see :mod:`utils.permutation`.

    Attributes:
        names: box classes, one with ``single_class``.
        states: of each frame's file, before it was read; see :func:`utils.file_cache.file_states`.
        problems: what is wrong with the split's files, and what was done.

    Raises:
        InputError: the split is absent or empty; a problem, with ``strict``.
    """

    @collection_paused()
    def __init__(
        self,
        config: DatasetConfig,
        split: str,
        size: int,
        *,
        cache: str = "ram",
        single_class: bool = False,
        strict: bool = False,
        preprocessor: Preprocessor | None = None,
        augmenter: Augmenter | None = None,
        seed: int = 0,
        label_of: Mapping[Path, Path] | None = None,
    ) -> None:
        self.config, self.split, self.size, self.augmenter, self.seed = config, split, size, augmenter, seed
        self.names = class_names(config, single_class)
        files = list_images(config, split)
        store = FrameStore(files, size, cache, f"{split} frames", preprocessor)
        sources = label_of or {}
        found = _read_labels(config, split, [label_path(sources.get(path, path)) for path in files])
        self.problems = [*store.problems, *(problem for label in found for problem in label.problems)]
        _report(self.problems, config, split, strict)
        self._store, self.preprocessor = store, store.preprocessor
        self._rows = [row for row, original in enumerate(store.originals) if original is not None]
        if not self._rows:
            raise InputError(f"{config.file}: {split}: expected images, but none of {len(files)} can be decoded")
        self.labels: list[Label] = [found[row] for row in self._rows]
        self.files: list[Path] = [files[row] for row in self._rows]
        self.states = [store.states[row] for row in self._rows]
        self.originals: list[tuple[int, int]] = [shape for shape in store.originals if shape is not None]
        self.batch_shapes: list[tuple[int, int]] | None = None
        self._windows: dict[int, ClipWindow] = {}  # by their size
        if single_class:
            for label in self.labels:
                label.boxes[:, 0] = 0

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def in_memory(self) -> bool:
        """Whether frames come from a cache, rather than from their files each time."""
        return self._store.mode != "none"

    def arrange_by_shape(self, batch_size: int, stride: int) -> None:
        """Rectangular batches: order the frames by shape and give each batch the smallest shape that holds its frames.

        YOLOv5 adds half a stride to the batches it validates on. Here they are padded as little as in training: a
        view head that never saw such a margin names another view when it meets one.

        Args:
            batch_size: frames a batch.
            stride: pixels; sides become whole strides.
        """
        self._arrange(np.argsort([height / width for height, width in self.originals], kind="stable").tolist())
        self.batch_shapes = []
        for start in range(0, len(self), batch_size):
            shapes = [padded(fit(shape, self.size), stride) for shape in self.originals[start : start + batch_size]]
            height, width = (max(sides) for sides in zip(*shapes, strict=True))
            self.batch_shapes += [(height, width)] * len(shapes)

    def arrange_by_clip(self) -> None:
        """Order the frames clip by clip, each clip's as they were taken, if the dataset names clips.

        It comes before :meth:`arrange_by_shape`, if that comes at all.
        """
        self._arrange(in_clip_order(self.config, self.files))

    def window(self, frames: int) -> ClipWindow:
        """So many frames on either side, with which an evaluation averages each; :meth:`arrange_by_clip` came first."""
        if frames not in self._windows:
            clips = self.clips if frames else None
            if frames and clips is None:
                LOGGER.warning("%s: clip_window: names no clip or group, so each frame is by itself", self.config.file)
            self._windows[frames] = BY_ITSELF if clips is None else ClipWindow(frames, clips)
        return self._windows[frames]

    def _arrange(self, order: Sequence[int]) -> None:
        self._windows.clear()
        for attribute in ("_rows", "labels", "files", "states", "originals"):
            values = getattr(self, attribute)
            setattr(self, attribute, [values[i] for i in order])

    def frame(self, index: int) -> Sample:
        """A frame as it is in the cache, with its boxes in pixels; what sticks out of the frame is cut off."""
        image, label = self._store[self._rows[index]], self.labels[index]
        height, width = image.shape[:2]
        boxes = np.concatenate((label.boxes[:, :1], _to_corners(label.boxes[:, 1:], width, height)), 1)
        return Sample(image, boxes.astype(np.float32), label.view)

    def __getitem__(self, key: Key | int) -> tuple[Tensor, NDArray[np.float32], int, Geometry, int]:
        """Image (3, H, W) uint8, boxes (n, 5) normalised, view, geometry, index."""
        epoch, index, draw = key if isinstance(key, tuple) else (0, key, 0)
        sample = self.frame(index)
        target = self.batch_shapes[index] if self.batch_shapes else (self.size, self.size)
        if self.augmenter is not None:
            # a frame that an epoch draws again is another picture of it
            rng = np.random.default_rng((self.seed, epoch, index, *([draw] if draw else [])))
            mosaic_allowed = self.batch_shapes is None
            sample = self.augmenter(sample, target, rng, self.frame if mosaic_allowed else None, len(self))
        image, geometry = pad(sample.image, target, self.originals[index])
        boxes = _normalised(sample.boxes, geometry, image)
        return torch.from_numpy(image).permute(2, 0, 1), boxes, sample.view, geometry, index

    @property
    def groups(self) -> list[str] | None:
        """The group (patient) of each frame, or None where the dataset names no pattern."""
        return patients(self.config, self.files)

    @property
    def clips(self) -> list[str] | None:
        """The clip of each frame, or None where the dataset names no pattern."""
        return clips(self.config, self.files)

    def agree_on_views(self) -> int:
        """Label every frame of a clip with the view that most of its frames carry, of equally many the first of them.

        Frames that carry none get it, too. A clip shows one view; where its labels differ, some are wrong.

        Returns:
            The number of frames whose label that changes.

        Raises:
            InputError: the dataset names no clips.
        """
        clips = self.clips
        if clips is None:
            raise InputError(f"{self.config.file}: clip_views: expected a group or clip pattern in it, got neither")
        votes: dict[str, Counter[int]] = {}
        for clip, label in zip(clips, self.labels, strict=True):
            if label.view != UNLABELLED:
                votes.setdefault(clip, Counter())[label.view] += 1
        changed = 0
        for index, (clip, label) in enumerate(zip(clips, self.labels, strict=True)):
            view = votes[clip].most_common(1)[0][0] if clip in votes else UNLABELLED
            changed += view != label.view
            self.labels[index] = replace(label, view=view)
        return changed

    def class_counts(self) -> NDArray[np.int64]:
        """Boxes of each class."""
        classes = np.concatenate([label.boxes[:, 0] for label in self.labels]).astype(int)
        return np.bincount(classes, minlength=len(self.names)).astype(np.int64)

    def views(self) -> NDArray[np.int64]:
        """The view of each frame, -1 where unlabelled."""
        return np.array([label.view for label in self.labels], np.int64)


def collate(samples: Sequence[tuple[Tensor, NDArray[np.float32], int, Geometry, int]]) -> Batch:
    """Samples -> :class:`Batch`."""
    images, boxes, views, geometries, indices = zip(*samples, strict=True)
    rows = [np.insert(box, 0, position, axis=1) for position, box in enumerate(boxes)]
    frames_first = torch.stack([image.permute(1, 2, 0) for image in images])  # as they lie in memory: plain copies
    return Batch(
        frames_first.permute(0, 3, 1, 2),
        torch.from_numpy(np.concatenate(rows).astype(np.float32)),
        torch.tensor(views, dtype=torch.int64),
        geometries,
        indices,
    )


def build_loader(
    dataset: EchoDataset,
    batch_size: int,
    workers: int,
    seed: int = 0,
    shuffle: bool = False,
    pin: bool = False,
    processes: Processes = ALONE,
    divided: bool = False,
) -> DataLoader[Batch]:
    """A loader of :class:`Batch`; the epoch of its ``batch_sampler``'s keys is the caller's to set.

    Frames that are in memory and stay as they are cost less to stack than to send between processes: no workers then.

    Args:
        batch_size: frames a batch, in all processes.
        processes, divided: see :class:`EpochBatches`.
    """
    keys = EpochSampler(len(dataset), seed, shuffle)
    batches = EpochBatches(keys, batch_size, processes, divided)
    if dataset.batch_shapes and divided and len(dataset) > len(batches) * batch_size:
        raise InputError(
            f"--rect --batch-size {batch_size}: expected a last batch of {processes.size} frames or more, one a process"
        )
    share = max(cores() // processes.local_size, 1)
    workers = 0 if dataset.augmenter is None and dataset.in_memory else min(workers, share)
    return DataLoader(
        dataset,  # type: ignore[arg-type]
        batch_sampler=batches,
        num_workers=workers,
        collate_fn=collate,
        pin_memory=pin,
        persistent_workers=workers > 0,
        worker_init_fn=_begin_worker,  # whose death by a signal of the group's would end the main process in mid-step
        # workers are seeded from this, not from the global generator, whose state a resumed run must find again
        generator=torch.Generator().manual_seed(seed),
    )


def _begin_worker(_: int) -> None:
    stand_apart()


def prepare(config: DatasetConfig) -> None:
    """Make the data of a dataset that names a generator, if they are not there yet."""
    if config.generate is None:
        return
    parameters = {key: value for key, value in config.generate.items() if key != "name"}
    if config.generate["name"] != "phantom":
        raise InputError(f"{config.file}: generate: expected the name phantom, got {config.generate['name']!r}")
    try:
        phantom = PhantomConfig(**parameters)
    except TypeError as error:
        raise InputError(f"{config.file}: generate: {error}") from error
    if ensure(config.root, phantom):
        LOGGER.info("Phantom data made in %s", config.root)


def _read_labels(config: DatasetConfig, split: str, paths: Sequence[Path]) -> list[Label]:
    """The label of each file; those that have not changed since an earlier start are not read again."""
    nc, nv = len(config.names), len(config.view_names)

    def compute(missing: list[int]) -> Iterator[Label]:
        for index in progress(missing, f"{split} labels", unit="file", leave=False):
            yield read_label(paths[index], nc, nv)

    kind = Kind(f"labels of {nc} classes and {nv} views", (labels,))
    states = file_states(paths)
    return remembered(frames.CACHE_FOLDER, kind, paths, states, compute, Label.content, Label.from_content)


def _report(problems: Sequence[Problem], config: DatasetConfig, split: str, strict: bool) -> None:
    if not problems:
        return
    if strict:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise InputError(f"--strict-data: {problems[0]}{more}")
    LOGGER.warning("%s: %s: %d problems in its files:", config.file, split, len(problems))
    for problem in problems[:PROBLEMS_SHOWN]:
        LOGGER.warning("  %s", problem)
    if len(problems) > PROBLEMS_SHOWN:
        LOGGER.warning("  ... and %d more, all in the run folder's data_problems.txt", len(problems) - PROBLEMS_SHOWN)


def _to_corners(boxes: NDArray[np.float32], width: int, height: int) -> NDArray[np.float32]:
    """Normalised centre form (n, 4) -> corners in pixels, within the frame."""
    scale = np.array([width, height], np.float32)
    centre, half = boxes[:, :2] * scale, boxes[:, 2:] * scale / 2
    return np.concatenate((centre - half, centre + half), 1).clip(0, np.tile(scale, 2))


def _normalised(boxes: NDArray[np.float32], geometry: Geometry, image: Image) -> NDArray[np.float32]:
    """Boxes (n, 5) with corners in pixels of the frame -> centre form, normalised to the padded image."""
    size = np.array([image.shape[1], image.shape[0]], np.float32)
    shift = np.array([geometry.left, geometry.top], np.float32)
    low, high = (boxes[:, 1:3] + shift) / size, (boxes[:, 3:5] + shift) / size
    return np.concatenate((boxes[:, :1], (low + high) / 2, high - low), 1).astype(np.float32)
