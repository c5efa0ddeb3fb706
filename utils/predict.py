"""A checkpoint loaded for use: frames in, boxes and view out, as in ``load("best.pt")("frame.png")``."""

from __future__ import annotations

import itertools
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from utils.boxes import non_max_suppression, scale_boxes
from utils.checkpoint import Trained, check_boxes
from utils.devices import Compute, select_compute, to_float
from utils.draw import draw
from utils.images import read_image
from utils.letterbox import Geometry, Image, fit, letterbox, padded
from utils.log import InputError, one_line
from utils.neighbours import FrameOutput
from utils.operating import OperatingPoint
from utils.pictures import view_text
from utils.preprocess import Preprocessor
from utils.runtimes import Runner, check_precision, image_size, open_weights, start, usual_batch, window_size
from utils.view_metrics import tempered

if TYPE_CHECKING:
    from pandas import DataFrame
    from PIL.Image import Image as Picture

    Source = NDArray[Any] | str | Path | Picture

_LISTED = 10  # boxes that a prediction's text names


@dataclass(frozen=True, eq=False, repr=False)
class Prediction:
    """What a network sees in one frame; its length is the number of boxes.

    Attributes:
        boxes: (n, 6) x1, y1, x2, y2 in pixels of the frame, confidence, class; most confident first.
        view: (nv,) probabilities, or None for a detector alone.
        names, view_names: of box classes and views.
        image: the frame (H, W, 3) RGB, of an RGB array the caller's own pixels, not a copy; empty if none is kept.
        milliseconds: for filters and padding, the network, suppression, of frames that went through together an equal
            share; decoding a file is not counted.
    """

    boxes: NDArray[np.float32]
    view: NDArray[np.float32] | None
    names: tuple[str, ...] = ()
    view_names: tuple[str, ...] = ()
    image: Image = field(default_factory=lambda: np.zeros((0, 0, 3), np.uint8))
    milliseconds: tuple[float, ...] = ()

    @property
    def view_name(self) -> str | None:
        """The likeliest view; None for a detector alone."""
        return None if self.view is None else _name(int(self.view.argmax()), self.view_names)

    @property
    def view_confidence(self) -> float | None:
        """The probability of the likeliest view; None for a detector alone."""
        return None if self.view is None else float(self.view.max())

    def plot(self, **options: Any) -> Image:
        """A copy of the frame with boxes and view drawn; the options are :func:`utils.draw.draw`'s."""
        if not self.image.size:
            raise ValueError("plot: expected a prediction that keeps its frame, got one without")
        return draw(self.image, self.boxes, self.names, view_text(self.view, self.view_names), **options)

    def to_pandas(self) -> DataFrame:
        """A row a box: YOLOv5's columns, then ``view`` and ``view_confidence``, alike in each row."""
        import pandas  # not above: it takes most of a second, and few need it

        numbers, labels = self.boxes[:, :5].astype(np.float64), self.boxes[:, 5].astype(int)
        frame = pandas.DataFrame(numbers, columns=["xmin", "ymin", "xmax", "ymax", "confidence"])
        names = np.array([_name(label, self.names) for label in labels], object)
        return frame.assign(**{"class": labels}, name=names, view=self.view_name, view_confidence=self.view_confidence)

    def __len__(self) -> int:
        return len(self.boxes)

    def __str__(self) -> str:
        """Such as ``2 boxes: MR 0.81, TR 0.40; view A4C 0.97``."""
        listed = [f"{_name(int(row[5]), self.names)} {row[4]:.2f}" for row in self.boxes[:_LISTED]]
        count = {0: "no boxes", 1: "1 box: "}.get(len(self), f"{len(self)} boxes: ")
        view = "" if self.view is None else f"; view {self.view_name} {self.view_confidence:.2f}"
        return count + ", ".join(listed) + (", ..." if len(self) > _LISTED else "") + view

    def __repr__(self) -> str:
        return f"Prediction({self})"


def _name(index: int, names: Sequence[str]) -> str:
    return names[index] if 0 <= index < len(names) else str(index)


def to_frame(source: Source, called: str = "image") -> Image:
    """What a user calls an image -> (H, W, 3) RGB; of an RGB uint8 array the same pixels, not a copy.

    Args:
        source: RGB, RGBA or grey uint8 array, image file or PIL image (both turned as EXIF says); alpha is dropped.
        called: its name in errors.

    Raises:
        InputError: anything else.
    """
    if isinstance(source, (str, Path)):
        if "://" in str(source):
            raise InputError(f"{called} {source}: expected a file on disk, got an address; nothing is fetched")
        return read_image(Path(source).expanduser())
    array = _pixels(source, called)
    got = f"got {array.dtype} {array.shape}"
    if array.dtype != np.uint8:
        hint = "; values in [0, 1] become such by (255 * image).astype('uint8')" if array.dtype.kind == "f" else ""
        raise InputError(f"{called}: expected uint8 values, 0 to 255, {got}{hint}")
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 3, 4)) or not array.size:
        raise InputError(f"{called}: expected an array (H, W, 3) RGB, (H, W, 4) or (H, W) with pixels in it, {got}")
    if array.ndim == 2 or array.shape[2] == 1:
        return np.asarray(cv2.cvtColor(np.ascontiguousarray(array), cv2.COLOR_GRAY2RGB), np.uint8)
    return np.ascontiguousarray(array[..., :3])  # OpenCV takes no reversed channels, as of image[..., ::-1]


def _pixels(source: Any, called: str) -> NDArray[Any]:
    """An array as it is, a PIL image decoded."""
    if isinstance(source, np.ndarray):
        return source
    from PIL import Image as pillow
    from PIL import ImageOps

    if not isinstance(source, pillow.Image):
        raise InputError(f"{called}: expected an RGB array, a path or a PIL image, got {type(source).__name__}")
    try:
        upright = ImageOps.exif_transpose(source)
        # 32 bits, 16 bits, floats: PIL would clip them to bytes without a word
        return np.asarray(upright if upright.mode[0] in "IF" else upright.convert("RGB"))
    except OSError as error:
        raise InputError(f"{called}: expected a whole PIL image, it cannot be decoded: {one_line(error)}") from error


@dataclass(frozen=True, eq=False)
class Looked:
    """A frame that the network has seen: its pixels, where it was letterboxed, and what that took so far."""

    image: Image
    geometry: Geometry
    milliseconds: tuple[float, ...]


def _cells(output: FrameOutput[Looked]) -> int:
    return 0 if output.boxes is None else len(output.boxes)


@dataclass(frozen=True)
class Predictor:
    """A network ready for frames of any size.

    Attributes:
        network: ready to be called, on its device.
        names, view_names: of box classes and views.
        image_size: pixels to which a frame's longer side is scaled.
        rect: whether frames are then padded to whole strides only, rather than to a square.
        preprocessor: the training's filters.
        temperature: of the view's probabilities, once a frame's are averaged with its neighbours', as it was fitted;
            see :mod:`utils.operating`.
        conf_thres, iou_thres, classes, agnostic, multi_label, max_det: of :func:`utils.boxes.non_max_suppression`.
        clip_window: frames on either side with which :mod:`utils.detection` averages those of a clip; a call looks at
            each image by itself.
    """

    network: Runner
    compute: Compute
    names: tuple[str, ...]
    view_names: tuple[str, ...]
    image_size: int
    rect: bool
    preprocessor: Preprocessor
    temperature: float = 1.0
    conf_thres: float = 0.25
    iou_thres: float = 0.45
    classes: Sequence[int] | None = None
    agnostic: bool = False
    multi_label: bool = False
    max_det: int = 1000
    clip_window: int = 0

    def __call__(self, image: Source) -> Prediction:
        """Find boxes and view in a frame: an RGB array (H, W, 3), or what else :func:`to_frame` takes."""
        return self.many([image])[0]

    def many(self, images: Sequence[Source], batch_size: int = 0) -> list[Prediction]:
        """Find boxes and views in several frames, which come in the order of the images.

        Each frame is padded as it would be by itself. Those that then have one shape go through the network together,
        which changes no result by more than the rounding of sums.

        Args:
            images: each as :meth:`__call__` takes it.
            batch_size: frames that the network takes at once, at most; 0 for :func:`utils.runtimes.usual_batch`.

        Raises:
            InputError: an image that is none.
        """
        alone = len(images) == 1
        frames = [to_frame(image, "image" if alone else f"image {index}") for index, image in enumerate(images)]
        found: dict[int, Prediction] = {}
        for batch in self._batches(frames, batch_size):  # one after the other: raw maps are large
            outputs = self._look([frames[index] for index in batch], [None] * len(batch))
            found.update(zip(batch, self.settle(outputs), strict=True))
        return [found[index] for index in range(len(frames))]

    def look(
        self, images: Sequence[Image], clips: Sequence[Hashable], batch_size: int = 0
    ) -> list[FrameOutput[Looked]]:
        """What the network says of frames, before suppression; :meth:`settle` does the rest.

        Args:
            images: (H, W, 3) RGB.
            clips: which clip each belongs to; None for a frame by itself.
            batch_size: see :meth:`many`.
        """
        found: dict[int, FrameOutput[Looked]] = {}
        for batch in self._batches(images, batch_size):
            outputs = self._look([images[index] for index in batch], [clips[index] for index in batch])
            found.update(zip(batch, outputs, strict=True))
        return [found[index] for index in range(len(images))]

    def _batches(self, images: Sequence[Image], batch_size: int) -> Iterator[list[int]]:
        """Indices of images of one :meth:`input_shape`, at most so many at once."""
        together: dict[tuple[int, int], list[int]] = {}
        for index, image in enumerate(images):
            together.setdefault(self.input_shape(image), []).append(index)
        size = batch_size or usual_batch(self.network, self.compute)
        for alike in together.values():
            for first in range(0, len(alike), size):
                yield alike[first : first + size]

    def input_shape(self, frame: Image) -> tuple[int, int]:
        """(height, width) in which the network sees a frame."""
        if not self.rect:
            return self.image_size, self.image_size
        return padded(fit((frame.shape[0], frame.shape[1]), self.image_size), self.network.max_stride)

    @torch.inference_mode()
    def _look(self, images: Sequence[Image], clips: Sequence[Hashable]) -> list[FrameOutput[Looked]]:
        """Frames of one :meth:`input_shape`."""
        clock = [self.compute.now()]
        fitted = [
            letterbox(self.preprocessor(image), self.image_size, self.network.max_stride, square=not self.rect)
            for image in images
        ]
        pixels = [image for image, _ in fitted]
        stacked = torch.from_numpy(np.stack(pixels) if len(pixels) > 1 else pixels[0][None])
        batch = to_float(stacked.permute(0, 3, 1, 2), self.compute)
        clock.append(self.compute.now())
        with self.compute.autocast():
            output = self.network(batch)
        assert output.boxes is not None  # weights without boxes are refused when they are loaded
        views: Sequence[Tensor | None] = [None] * len(images)
        if output.view is not None:
            views = list(output.view.float().softmax(1).cpu())
        clock.append(self.compute.now())
        times = tuple(1000 * (end - begin) / len(images) for begin, end in itertools.pairwise(clock))
        return [
            FrameOutput(Looked(image, place, times), None if clip is None else (clip, place), boxes, view)
            for image, (_, place), clip, boxes, view in zip(images, fitted, clips, output.boxes, views, strict=True)
        ]

    @torch.inference_mode()
    def settle(self, outputs: Sequence[FrameOutput[Looked]]) -> list[Prediction]:
        """What is left after suppression, boxes in pixels of each frame."""
        found = []
        for _, group in itertools.groupby(outputs, key=_cells):
            alike = list(group)
            start = self.compute.now()
            kept = non_max_suppression(
                torch.stack([output.boxes for output in alike if output.boxes is not None]), self.conf_thres,
                self.iou_thres, self.classes, self.agnostic, self.multi_label, self.max_det,
            )  # fmt: skip
            boxes = []
            for rows, output in zip(kept, alike, strict=True):
                at = output.frame.geometry
                boxes.append(scale_boxes(rows, (at.gain_x, at.gain_y), (at.left, at.top), at.original).cpu().numpy())
            spent = 1000 * (self.compute.now() - start) / len(alike)
            found += [
                Prediction(
                    rows, None if output.view is None else self._tempered(output.view), self.names, self.view_names,
                    output.frame.image, (*output.frame.milliseconds, spent),
                )
                for rows, output in zip(boxes, alike, strict=True)
            ]  # fmt: skip
        return found

    def _tempered(self, view: Tensor) -> NDArray[np.float32]:
        """(nv,) probabilities at :attr:`temperature`."""
        return tempered(view.double().numpy()[None], self.temperature)[0].astype(np.float32)


def load(
    weights: str | Path | Trained,
    device: str = "",
    imgsz: int | None = None,
    amp: bool | None = None,
    conf_thres: float = 0.25,
    iou_thres: float = 0.45,
    classes: Sequence[int] | None = None,
    agnostic: bool = False,
    max_det: int = 1000,
    calibrate: bool = False,
    threads: int = 0,
    clip_window: int | None = None,
) -> Predictor:
    """Load a checkpoint of a training; the image size is the training's unless given.

    Args:
        weights: the file, or what :func:`utils.runtimes.open_weights` has read of it.
        calibrate: divide the view's logits by the temperature that was fitted on validation.
        threads: see :func:`utils.devices.select_compute`.
        clip_window: see :class:`Predictor`; the training's unless given.

    Raises:
        InputError: no such checkpoint or device; no temperature in it; a threshold out of its range.
    """
    for name, value in (("conf_thres", conf_thres), ("iou_thres", iou_thres)):
        if not 0 <= value <= 1:
            raise InputError(f"{name}: expected 0 to 1, got {value}")
    found = weights if isinstance(weights, Trained) else open_weights(Path(weights).expanduser())
    check_boxes(found)
    point = OperatingPoint.from_content(found.content.get("operating"), found.path)
    temperature = point.temperature if point is not None else None
    if calibrate and temperature is None:
        raise InputError(f"{found.title}: --calibrate: expected a temperature fitted on validation, got none")
    check_precision(found, amp)
    compute = select_compute(device, amp, threads)
    network = start(found, compute)
    return Predictor(
        network=network,
        compute=compute,
        names=found.names,
        view_names=found.view_names,
        image_size=image_size(found, network, imgsz),
        rect=found.rect,
        preprocessor=Preprocessor.of(found.hyp),
        temperature=temperature if calibrate and temperature is not None else 1.0,
        conf_thres=conf_thres,
        iou_thres=iou_thres,
        classes=classes,
        agnostic=agnostic,
        max_det=max_det,
        clip_window=window_size(found, clip_window),
    )
