"""The plain path of val.py and detect.py, which the benchmarks of speed compare with: all that makes them fast is off.

    python benchmarks/plain.py val --weights best.pt --data my_data.yaml
    python benchmarks/plain.py detect --weights best.pt --source frames

fp32 in torch's usual layout, batch normalisations not folded into convolutions, memory given back to the system, all of
torchvision imported, all candidates of an image compared in suppression; val.py decodes each frame when it needs it,
detect.py takes one frame after the other, and reads, computes and writes in turns.
"""

from __future__ import annotations

import sys
from collections.abc import Generator, Iterable, Iterator, Sequence
from pathlib import Path
from types import ModuleType

import torch
import torchvision
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import detect
import val
from models.yolo import AnyModule
from utils import detection, evaluation, predict, runtimes, sources, validation
from utils.boxes import CLASS_OFFSET, MAX_CANDIDATES, xywh_to_xyxy
from utils.dataset import EchoDataset
from utils.devices import Compute, select_compute
from utils.flags import parse
from utils.log import InputError, run_script
from utils.sources import Frame

SCRIPTS = {"val": val, "detect": detect}


def plain_network(network: AnyModule, compute: Compute) -> AnyModule:
    """In place of :func:`utils.evaluation.inference_copy`."""
    return network.float().to(compute.device).eval().requires_grad_(False)


def plain_compute(device: str = "", amp: bool | None = None, threads: int = 0) -> Compute:
    """In place of :func:`utils.devices.select_compute`."""
    return Compute(select_compute(device, False, threads).device, None, torch.contiguous_format)


def main(words: list[str]) -> int:
    """Run a script on the plain path; its flags are its own."""
    name = words[0] if words else ""
    if name not in SCRIPTS:
        raise InputError(f"expected one of {', '.join(SCRIPTS)} and its flags, got {name!r}")
    script = SCRIPTS[name]
    take_plain_path()
    more = ["--batch-size", "1"] if name == "detect" else []
    return run_script(script.main, parse(script.FLAGS, script.__doc__ or "", [*words[1:], *more]))


def take_plain_path() -> None:
    """Replace, in this process, what is fast."""
    replace("inference_copy", plain_network, runtimes)
    replace("select_compute", plain_compute, val, predict)
    replace("keep_memory", lambda: None, val, detect)
    replace("EchoDataset", Uncached, validation)
    replace("non_max_suppression", plain_suppression, evaluation, predict)
    replace("prefetch", in_turn, sources)
    replace("_stills_ahead", one_by_one, sources)
    replace("BackgroundWriter", lambda writer, depth: writer, detection)


def replace(name: str, value: object, *modules: ModuleType) -> None:
    """Give modules something else under a name that they use; that one does not know the name is an error."""
    for module in modules:
        if not hasattr(module, name):
            raise AttributeError(f"{module.__name__} does not use {name}: the plain path would not be plain")
        setattr(module, name, value)


def in_turn(frames: Iterator[Frame], depth: int) -> Generator[Frame, None, None]:
    """In place of :func:`utils.sources.prefetch`: a frame is decoded when it is asked for."""
    yield from frames


def one_by_one(files: Iterable[Path], vid_stride: int) -> Generator[tuple[Path, Iterator[Frame]], None, None]:
    """In place of what decodes several stills at once."""
    for path in files:
        yield path, sources._decode(path, vid_stride)


def plain_suppression(
    predictions: Tensor, conf_thres: float, iou_thres: float, classes: Sequence[int] | None = None,
    agnostic: bool = False, multi_label: bool = False, max_det: int = 300,
) -> list[Tensor]:  # fmt: skip
    """In place of :func:`utils.boxes.non_max_suppression`: image by image, all candidates of each compared."""
    found = []
    for rows in predictions.float():
        rows = rows[(rows[:, 4] > conf_thres) & rows.isfinite().all(1)]
        scores, boxes = rows[:, 5:] * rows[:, 4:5], xywh_to_xyxy(rows[:, :4])
        if multi_label and scores.shape[1] > 1:
            index, label = (scores > conf_thres).nonzero(as_tuple=True)
            boxes, confidence = boxes[index], scores[index, label]
        else:
            confidence, label = scores.max(1) if len(rows) else (scores.sum(1), scores.sum(1).long())
        keep = confidence > conf_thres
        if classes is not None:
            keep &= torch.isin(label, torch.tensor(list(classes)))
        boxes, confidence, label = boxes[keep], confidence[keep], label[keep].to(boxes.dtype)
        order = confidence.argsort(descending=True, stable=True)[:MAX_CANDIDATES]
        boxes, confidence, label = boxes[order], confidence[order], label[order]
        shifted = boxes if agnostic else boxes + label[:, None] * CLASS_OFFSET
        kept = torchvision.ops.nms(shifted, confidence, iou_thres)[:max_det]
        found.append(torch.cat((boxes[kept], confidence[kept, None], label[kept, None]), 1))
    return found


class Uncached(EchoDataset):
    """Frames decoded when they are asked for."""

    def __init__(self, *arguments: object, **keywords: object) -> None:
        super().__init__(*arguments, **{**keywords, "cache": "none"})  # type: ignore[arg-type]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
