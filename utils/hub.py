"""Images as YOLOv5's users give them, and results as they know them; hubconf.py puts the model in between."""

from __future__ import annotations

import copy
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from utils.boxes import xyxy_to_xywh
from utils.draw import save
from utils.files import new_run_folder
from utils.letterbox import Image
from utils.log import LOGGER, InputError
from utils.outputs import cut_out, folder_name, has_screen
from utils.predict import Prediction

if TYPE_CHECKING:
    from pandas import DataFrame

SAVE_DIR = "runs/detect/exp"
_CORNERS = ("xmin", "ymin", "xmax", "ymax")
_CENTRE = ("xcenter", "ycenter", "width", "height")


def channels_last(item: Any) -> Any:
    """A tensor as an array, and (C, H, W) as (H, W, C); anything else as it is."""
    if isinstance(item, Tensor):
        item = (item.float() if item.is_floating_point() else item).detach().cpu().numpy()  # numpy knows no bf16
    if isinstance(item, np.ndarray):
        if item.ndim == 4:
            raise InputError(
                f"expected a frame or a list of frames, got a batch {item.shape}; list(batch) is a list, and the bare "
                "network of autoshape=False takes batches"
            )
        if item.ndim == 3 and item.shape[0] in (1, 3, 4) and item.shape[2] not in (1, 3, 4):
            return item.transpose(1, 2, 0)
    return item


class Results:
    """What was found in n images, each part a list with an item an image.

    Attributes:
        predictions: as :mod:`utils.predict` gives them.
        ims: frames (H, W, 3) RGB; drawn ones after :meth:`render`.
        pred, xyxy, xyxyn, xywh, xywhn: tensors (n, 6): place, confidence, class; in pixels or, with ``n``, in shares of
            the frame; corners or centre form. In the copy of :meth:`pandas`, data frames.
        views: (nv,) probabilities, or None for a detector alone.
        names, view_names: class number to name; of the views.
        files: names under which the pictures are saved.
        s: shape of the network's input, all images together; the largest where they differ.
        t: milliseconds an image for filters and padding, network, suppression; decoding files is not counted.
    """

    def __init__(self, predictions: Sequence[Prediction], files: Sequence[str], shape: tuple[int, ...]) -> None:
        self.predictions, self.files, self.s, self.n = list(predictions), list(files), shape, len(predictions)
        self.names, self.view_names = dict(enumerate(predictions[0].names)), predictions[0].view_names
        self.ims = [found.image for found in predictions]
        self.views = [found.view for found in predictions]
        self.t = tuple(np.mean([found.milliseconds for found in predictions], 0).tolist())
        self.pred = [torch.from_numpy(found.boxes) for found in predictions]
        whole = [torch.tensor([w, h, w, h, 1, 1]) for h, w, _ in (image.shape for image in self.ims)]
        self.xyxy: list[Any] = self.pred
        self.xywh: list[Any] = [torch.cat((xyxy_to_xywh(boxes[:, :4]), boxes[:, 4:]), 1) for boxes in self.pred]
        self.xyxyn: list[Any] = [boxes / size for boxes, size in zip(self.xyxy, whole, strict=True)]
        self.xywhn: list[Any] = [boxes / size for boxes, size in zip(self.xywh, whole, strict=True)]

    def pandas(self) -> Results:
        """A copy whose ``xyxy xyxyn xywh xywhn`` are data frames with YOLOv5's columns."""
        copied = copy.copy(self)
        for key, columns in (("xyxy", _CORNERS), ("xyxyn", _CORNERS), ("xywh", _CENTRE), ("xywhn", _CENTRE)):
            tables = zip(getattr(self, key), self.predictions, strict=True)
            setattr(copied, key, [_table(boxes, found, columns) for boxes, found in tables])
        return copied

    def tolist(self) -> list[Results]:
        """The results of each image by itself."""
        return [
            Results([found], [file], (1, *self.s[1:])) for found, file in zip(self.predictions, self.files, strict=True)
        ]

    def render(self, labels: bool = True) -> list[Image]:
        """Frames with boxes and views drawn, (H, W, 3) RGB; from now on ``ims`` are these."""
        self.ims = [found.plot(hide_labels=not labels) for found in self.predictions]
        return self.ims

    def show(self, labels: bool = True) -> None:
        """Show the drawn frames in the notebook, or else in the system's viewer; a warning where there is neither."""
        from PIL import Image as pillow

        notebook: Any = sys.modules.get("IPython")
        for picture in map(pillow.fromarray, self.render(labels)):
            if notebook is not None and notebook.get_ipython() is not None:
                notebook.display.display(picture)
            elif not has_screen():
                LOGGER.warning("results.show(): no screen here; results.save() writes the pictures to files")
                return
            else:
                picture.show()

    def save(self, labels: bool = True, save_dir: str | Path = SAVE_DIR, exist_ok: bool = False) -> Path:
        """Write the drawn frames to a new folder, ``exp``, ``exp2``, ...; with ``exist_ok`` to that very one."""
        folder = _new_folder(save_dir, exist_ok)
        for file, found in zip(self.files, self.predictions, strict=True):
            save(folder / file, found.plot(hide_labels=not labels))
        print(f"{self.n} picture{'s' if self.n > 1 else ''} saved to {folder}")
        return folder

    def crop(self, save: bool = True, save_dir: str | Path = SAVE_DIR, exist_ok: bool = False) -> list[dict[str, Any]]:
        """What lies in each box, without a margin, as ``detect.py --save-crop`` has it.

        Returns:
            For each box ``box`` (4 corners), ``conf``, ``cls``, ``label`` and ``im`` (H, W, 3) RGB.
        """
        folder = _new_folder(save_dir, exist_ok) if save else None
        crops: list[dict[str, Any]] = []
        taken: set[Path] = set()
        for file, found in zip(self.files, self.predictions, strict=True):
            for row in torch.from_numpy(found.boxes):
                name, picture = self.names[int(row[5])], cut_out(found.image, row.numpy())
                crops.append({"box": list(row[:4]), "conf": row[4], "cls": row[5], "im": picture})
                crops[-1]["label"] = f"{name} {float(row[4]):.2f}"
                if folder is not None and picture.size:
                    _save_crop(folder / "crops" / folder_name(name), Path(file).stem, picture, taken)
        return crops

    def print(self) -> None:
        """Print what was found, a line an image, and how long it took."""
        print(self)

    def __len__(self) -> int:
        return self.n

    def __str__(self) -> str:
        lines = []
        for index, found in enumerate(self.predictions):
            labels = found.boxes[:, 5].astype(int).tolist()
            counts = [f"{labels.count(label)} {self.names[label]}" for label in sorted(set(labels))]
            view = "" if found.view is None else f"; view {found.view_name} {found.view_confidence:.2f}"
            height, width = found.image.shape[:2]
            text = ", ".join(counts) or "(no detections)"
            lines.append(f"image {index + 1}/{self.n}: {height}x{width} {text}{view}")
        before, network, after = self.t
        speed = f"{before:.1f}ms pre-process, {network:.1f}ms inference, {after:.1f}ms NMS"
        return "\n".join([*lines, f"Speed: {speed} per image at shape {self.s}"])

    __repr__ = __str__


def _table(boxes: Tensor, found: Prediction, columns: Sequence[str]) -> DataFrame:
    """Boxes (n, 6) in any form as a data frame whose first columns have these names."""
    import pandas  # not above: it takes most of a second

    place = pandas.DataFrame(boxes[:, :4].double().numpy(), columns=list(columns))
    return place.join(found.to_pandas()[["confidence", "class", "name"]])


def _new_folder(path: str | Path, exist_ok: bool) -> Path:
    folder = Path(path).expanduser()
    return new_run_folder(folder.parent, folder.name, exist_ok)


def _save_crop(folder: Path, stem: str, picture: Image, taken: set[Path]) -> None:
    """Write ``stem.jpg`` or, where this call has taken that, ``stem2.jpg``, ..."""
    path, number = folder / f"{stem}.jpg", 2
    while path in taken:
        path, number = folder / f"{stem}{number}.jpg", number + 1
    taken.add(path)
    folder.mkdir(parents=True, exist_ok=True)
    save(path, picture)
