"""A checkpoint loaded for use: frames in, boxes and view out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from utils.boxes import non_max_suppression, scale_boxes
from utils.checkpoint import check_boxes
from utils.devices import Compute, select_compute
from utils.engine import to_float
from utils.letterbox import Image, letterbox
from utils.log import InputError
from utils.operating import OperatingPoint
from utils.preprocess import Preprocessor
from utils.runtimes import Runner, image_size, open_weights, start


@dataclass(frozen=True)
class Prediction:
    """What a network sees in one frame.

    Attributes:
        boxes: (n, 6) x1, y1, x2, y2 in pixels of the frame, confidence, class; most confident first.
        view: (nv,) probabilities, or None for a detector alone.
    """

    boxes: NDArray[np.float32]
    view: NDArray[np.float32] | None


@dataclass(frozen=True)
class Predictor:
    """A network ready for frames of any size.

    Attributes:
        network: ready to be called, on its device.
        names, view_names: of box classes and views.
        image_size: pixels to which a frame's longer side is scaled.
        rect: whether frames are then padded to whole strides only, rather than to a square.
        preprocessor: the training's filters.
        temperature: by which the view's logits are divided; see :mod:`utils.operating`.
        conf_thres, iou_thres, classes, agnostic, max_det: of :func:`utils.boxes.non_max_suppression`.
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
    max_det: int = 1000

    @torch.inference_mode()
    def __call__(self, image: Image) -> Prediction:
        """Find boxes and view in a frame (H, W, 3), RGB."""
        padded, geometry = letterbox(
            self.preprocessor(image), self.image_size, self.network.max_stride, square=not self.rect
        )
        images = to_float(torch.from_numpy(padded).permute(2, 0, 1)[None], self.compute)
        with self.compute.autocast():
            output = self.network(images)
        assert output.boxes is not None  # weights without boxes are refused when they are loaded
        found = non_max_suppression(
            output.boxes, self.conf_thres, self.iou_thres, self.classes, self.agnostic, max_det=self.max_det
        )[0]
        gain, pad = (geometry.gain_x, geometry.gain_y), (geometry.left, geometry.top)
        boxes = scale_boxes(found, gain, pad, geometry.original)
        view = None if output.view is None else (output.view[0].float() / self.temperature).softmax(0).cpu().numpy()
        return Prediction(boxes.cpu().numpy(), view)


def load(
    weights: str | Path,
    device: str = "",
    imgsz: int | None = None,
    amp: bool | None = None,
    conf_thres: float = 0.25,
    iou_thres: float = 0.45,
    classes: Sequence[int] | None = None,
    agnostic: bool = False,
    max_det: int = 1000,
    calibrate: bool = False,
) -> Predictor:
    """Load a checkpoint of a training; the image size is the training's unless given.

    Args:
        calibrate: divide the view's logits by the temperature that was fitted on validation.

    Raises:
        InputError: no such checkpoint or device; no temperature in it.
    """
    found = open_weights(Path(weights).expanduser())
    check_boxes(found)
    point = OperatingPoint.from_content(found.content.get("operating"), found.path)
    temperature = point.temperature if point is not None else None
    if calibrate and temperature is None:
        raise InputError(f"{found.path}: --calibrate: expected a temperature fitted on validation, got none")
    compute = select_compute(device, amp)
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
    )
