"""Entries for ``torch.hub.load``: trained weights as a model that takes images as YOLOv5's hub model does.

model = torch.hub.load(".", "custom", path="best.pt", source="local")
results = model(["frame.png", image])  # image: RGB, as OpenCV's image[..., ::-1] is
results.pandas().xyxy[0]
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from models.yolo import Network
from utils.checkpoint import Checkpoint, Trained
from utils.config import ROOT, load_hyperparameters, load_yaml
from utils.devices import select_compute
from utils.hub import Results, channels_last
from utils.log import InputError
from utils.outputs import UniqueNames
from utils.predict import Predictor, load, to_frame
from utils.runtimes import described, image_size, open_weights

dependencies = ["torch", "torchvision", "cv2", "numpy", "yaml", "tqdm"]  # torch.hub looks for this name
Device = str | int | torch.device | None


def custom(
    path: str | Path = "path/to/model.pt", autoshape: bool = True, _verbose: bool = True, device: Device = None
) -> HubModel | nn.Module:
    """A model from trained weights.

    Args:
        path: a checkpoint or an exported network.
        autoshape: False returns the bare network of a checkpoint, in evaluation mode.
        _verbose: print a line about it.
        device: "cpu", "cuda:0", 0, "mps"; the first GPU, if there is one, unless given.

    Raises:
        InputError: no such file or device; a network without boxes; autoshape=False with an exported network.
    """
    return _model(open_weights(Path(path).expanduser()), autoshape, _verbose, device)


def _stock(
    name: str, pretrained: bool = True, channels: int = 3, classes: int = 80, autoshape: bool = True,
    _verbose: bool = True, device: Device = None,
) -> HubModel | nn.Module:  # fmt: skip
    """A stock network: from its file in the working directory or the repository, or with random weights.

    Raises:
        InputError: no such file; channels or classes that it does not have.
    """
    if channels != 3:
        raise InputError(f"channels: expected 3, got {channels}; networks here see RGB frames")
    if pretrained:
        place = next((folder / f"{name}.pt" for folder in (Path(), ROOT) if (folder / f"{name}.pt").is_file()), None)
        if place is None:
            raise InputError(
                f"{name}.pt: no such file in the working directory or in {ROOT}; put it there (nothing is fetched), "
                "or give pretrained=False for random weights"
            )
        found = open_weights(place)
        if classes not in (80, len(found.names)):  # 80, the default, says nothing
            raise InputError(f"{place}: classes: expected {len(found.names)}, as the file has, got {classes}")
        return _model(found, autoshape, _verbose, device)
    file = ROOT / "models" / "hub" / f"{name}.yaml"
    network = Network(load_yaml(file), nc=classes)
    fresh = Checkpoint(
        path=file,
        content={"description": network.description, "ema": network.state_dict()},
        names=tuple(map(str, range(classes))),
        view_names=(),
        image_size=640,
        rect=True,
        hyp=load_hyperparameters(ROOT / "hyp" / "joint_training_rules.yaml"),
    )
    return _model(fresh, autoshape, _verbose, device)


yolov5n, yolov5s, yolov5m, yolov5l, yolov5x = (partial(_stock, f"yolov5{size}") for size in "nsmlx")


def _model(found: Trained, autoshape: bool, verbose: bool, device: Device) -> HubModel | nn.Module:
    if autoshape:
        model = HubModel(found, device)
        if verbose:
            print(f"{found.path}: {model}", file=sys.stderr)
        return model
    if not isinstance(found, Checkpoint):
        raise InputError(f"{found.path}: autoshape=False: expected a checkpoint, got an exported network")
    return found.build().eval().to(select_compute(_word(device)).device)


class HubModel:
    """A network that takes images as YOLOv5's hub model does; the attributes may be set at any time.

    Attributes:
        conf, iou, agnostic, multi_label, classes, max_det: of :func:`utils.boxes.non_max_suppression`.
        amp: True for mixed precision, False for none; None takes it where the device computes it in hardware.
        names: class number to name, which results then show.
        view_names: of the views; empty for a detector alone.
    """

    def __init__(self, found: Trained, device: Device = None) -> None:
        self.conf, self.iou, self.max_det = 0.25, 0.45, 1000
        self.agnostic = self.multi_label = False
        self.classes: Sequence[int] | int | None = None
        self.amp: bool | None = None
        self.names: Mapping[int, str] | Sequence[str] = dict(enumerate(found.names))
        self.view_names = found.view_names
        self._found = found
        self._start(device)

    def _start(self, device: Device) -> None:
        self._predictor, self._amp = load(self._found, _word(device), amp=self.amp), self.amp

    @property
    def device(self) -> torch.device:
        """Where the network computes."""
        return self._predictor.compute.device

    def to(self, device: Device) -> HubModel:
        """Move to a device ("cpu", "cuda:0", 0, "mps"); InputError where there is none such."""
        if select_compute(_word(device), self.amp).device != self.device:
            self._start(device)
        return self

    def cpu(self) -> HubModel:
        """Move to the processor."""
        return self.to("cpu")

    def cuda(self, device: Device = 0) -> HubModel:
        """Move to a GPU."""
        return self.to(device)

    def eval(self) -> HubModel:
        """Nothing: the network is in evaluation mode already."""
        return self

    def __call__(
        self, ims: Any, size: int | Sequence[int] | None = None, augment: bool = False, profile: bool = False
    ) -> Results:
        """Find boxes and views.

        Args:
            ims: one or a list of: file, PIL image, uint8 array or tensor; grey, or RGB(A) as (H, W, C) or (C, H, W).
            size: pixels of the frames' longer side; the training's unless given.
            augment, profile: YOLOv5's; refused.

        Raises:
            InputError: an image that is none, an attribute out of its range.
        """
        if augment or profile:
            raise InputError("augment, profile: not supported: a frame is shown once, as it is; results.t holds times")
        items = list(ims) if isinstance(ims, (list, tuple)) else [ims]
        if not items:
            raise InputError("expected an image or a list of them, got an empty list")
        predictor = replace(self._predictor_as_asked(), image_size=self._pixels(size))
        unique, files, frames = UniqueNames(), [], []
        for index, item in enumerate(items):
            name = item if isinstance(item, (str, Path)) else getattr(item, "filename", "") or f"image{index}"
            frames.append(to_frame(channels_last(item), f"image {index}"))
            # pages of one file are several pictures of one name
            files.append(unique(Path(str(index), Path(name).name)) + ".jpg")
        found = predictor.many(frames)
        largest = np.max([predictor.input_shape(frame) for frame in frames], 0).tolist()
        return Results(found, files, (len(items), 3, *largest))

    def _predictor_as_asked(self) -> Predictor:
        chosen = [self.classes] if isinstance(self.classes, int) else self.classes
        classes = None if chosen is None else [int(label) for label in chosen]
        for key, value in (("conf", self.conf), ("iou", self.iou)):
            if not isinstance(value, (int, float)) or not 0 <= value <= 1:
                raise InputError(f"model.{key}: expected 0 to 1, got {value!r}")
        names = self.names if isinstance(self.names, Mapping) else dict(enumerate(self.names))
        if names.keys() != set(range(len(self._found.names))):
            raise InputError(f"model.names: expected the numbers 0 to {len(self._found.names) - 1}, got {names!r:.80}")
        unknown = [label for label in classes or () if label not in names]
        if unknown:
            raise InputError(f"model.classes: expected numbers from 0 to {len(names) - 1}, got {unknown[0]}")
        if self.max_det < 1:
            raise InputError(f"model.max_det: expected at least 1, got {self.max_det}")
        if self.amp != self._amp:
            self._start(self.device)
        return replace(
            self._predictor, names=tuple(str(names[label]) for label in range(len(names))), conf_thres=self.conf,
            iou_thres=self.iou, classes=classes, agnostic=self.agnostic, multi_label=self.multi_label,
            max_det=self.max_det,
        )  # fmt: skip

    def _pixels(self, size: int | Sequence[int] | None) -> int:
        sides = list(dict.fromkeys(size if isinstance(size, (list, tuple)) else [size]))
        side: Any = sides[0] if len(sides) == 1 else "several"
        if side is not None and (not isinstance(side, (int, float, np.integer)) or int(side) != side):
            raise InputError(f"size: expected the pixels of the longer side, one number, got {size!r}")
        return (
            self._predictor.image_size if side is None else image_size(self._found, self._predictor.network, int(side))
        )

    def __repr__(self) -> str:
        views = f", {len(self.view_names)} views" if self.view_names else ""
        computes = described(self._predictor.network, self._predictor.compute)
        return f"{len(self.names)} classes{views}, {self._predictor.image_size} pixels, {computes}"


def _word(device: Device) -> str:
    """A device in the words of a flag."""
    return "" if device is None else str(device)
