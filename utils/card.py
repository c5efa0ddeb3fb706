"""What travels with an exported network: YOLOv5's ``stride`` and ``names``, and under ``echo`` what our scripts need.

That is what a checkpoint knows besides its tensors: filters, padding, operating point, whom it was trained on; and how
the file computes: its shape, its precision, the suppression inside it.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from utils.checkpoint import REQUIRED_KINDS, Trained, check_optional, is_size
from utils.config import hyperparameters_from, plain
from utils.files import finite
from utils.log import InputError, printable, shown

KEY = "echo"
CONFIG = "config.txt"  # of TorchScript: YOLOv5's name for the file within that holds the metadata
METADATA = "metadata.yaml"  # of OpenVINO: the same for the file beside the network's
FORMAT = 1
PRECISIONS = ("fp32", "fp16", "bf16", "int8")
FROM_TRAINING = (
    *("names", "view_names", "image_size", "rect", "hyp", "epoch", "epochs", "operating", "permuted_labels"),
    *("trained_on", "untold", "figures", "date", "git"),
)
NMS_KEYS = {"conf_thres", "iou_thres", "max_det", "agnostic"}


@dataclass(frozen=True)
class Form:
    """How an exported network computes.

    Attributes:
        stride: of which image sides are multiples.
        shape: (batch, height, width) that the file takes; None where it takes any.
        batch: the only number of images at once; None where any.
        precision: one of :data:`PRECISIONS`.
        nms: thresholds of the suppression inside the file, or None.
        device: that TorchScript was traced on, "cpu" or "cuda".
    """

    stride: int
    shape: tuple[int, int, int] | None
    batch: int | None
    precision: str
    nms: Mapping[str, Any] | None
    device: str = "cpu"


@dataclass(frozen=True)
class Export(Trained):
    """An exported network's card, checked.

    Attributes:
        kind: "torchscript", "onnx" or "openvino".
        form: how it computes.
    """

    kind: str
    form: Form


def written(found: Trained, form: Form) -> dict[str, str]:
    """The card as pairs of words: ``stride`` and ``names`` as YOLOv5 writes them, and ``echo``, a JSON."""
    content = {key: found.content[key] for key in FROM_TRAINING if key in found.content}
    content["hyp"] = plain(vars(found.hyp))
    trained_on = content.get("trained_on")
    if trained_on is not None:
        hashes = trained_on["hashes"]
        data = base64.b64encode(hashes.contiguous().numpy().tobytes()).decode("ascii")
        content["trained_on"] = {**trained_on, "hashes": {"shape": list(hashes.shape), "data": data}}
    content |= {"format": FORMAT, **vars(form)}
    return {
        "stride": str(form.stride),
        "names": str(dict(enumerate(found.names))),
        KEY: json.dumps(finite(content), ensure_ascii=False, allow_nan=False),
    }


def read(card: Mapping[str, Any], path: Path, kind: str) -> Export:
    """Check the card of a file.

    Args:
        card: the file's metadata.
        path: of the file, named in errors.

    Raises:
        InputError: no ``echo`` in it, or one that is damaged.
    """
    if not isinstance(card, Mapping) or KEY not in card:
        raise InputError(
            f"{path}: expected an export of this program, got one without its card ({KEY!r}): the training's filters "
            "and padding are not known; export.py makes one from a checkpoint"
        )
    try:
        content = json.loads(card[KEY])
    except (TypeError, ValueError, RecursionError) as error:
        reason = printable(str(error), 200)
        raise InputError(f"{path}: expected its card ({KEY!r}) as JSON, got something else: {reason}") from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        got = content.get("format") if isinstance(content, dict) else content
        raise InputError(f"{path}: expected a card of format {FORMAT}, got {shown(got)}")
    _check(content, path)
    form = Form(
        stride=content["stride"],
        shape=None if content["shape"] is None else tuple(content["shape"]),
        batch=content["batch"],
        precision=content["precision"],
        nms=content["nms"],
        device=content["device"],
    )
    if content.get("trained_on") is not None:
        content["trained_on"] = _with_hashes(content["trained_on"], path)
    check_optional(content, f"{path}: its card")
    return Export(
        path=path,
        content=content,
        names=tuple(content["names"]),
        view_names=tuple(content["view_names"]),
        image_size=content["image_size"],
        rect=content["rect"],
        hyp=hyperparameters_from(content["hyp"], path),
        kind=kind,
        form=form,
    )


def _check(content: Mapping[str, Any], path: Path) -> None:
    """Raise an InputError for the first value that is not what the scripts rely on."""
    checks = {
        **REQUIRED_KINDS,
        "stride": (is_size, "a positive number of pixels"),
        "shape": (_is_shape, "three positive numbers, or null"),
        "batch": (lambda value: value is None or is_size(value), "a positive number, or null"),
        "precision": (lambda value: value in PRECISIONS, f"one of {', '.join(PRECISIONS)}"),
        "nms": (_are_thresholds, f"{', '.join(sorted(NMS_KEYS))}, or null"),
        "device": (lambda value: value in ("cpu", "cuda"), "cpu or cuda"),
    }
    for key, (good, words) in checks.items():
        if key not in content or not good(content[key]):
            raise InputError(f"{path}: its card: {key}: expected {words}, got {shown(content.get(key))}")


def _is_shape(value: Any) -> bool:
    return value is None or (isinstance(value, list) and len(value) == 3 and all(map(is_size, value)))


def _are_thresholds(value: Any) -> bool:
    if value is None:
        return True
    numbers = (
        isinstance(value, dict) and set(value) == NMS_KEYS and all(isinstance(v, (int, float)) for v in value.values())
    )
    return numbers and value["max_det"] >= 1 and all(0 <= value[key] <= 1 for key in ("conf_thres", "iou_thres"))


def _with_hashes(trained_on: Any, path: Path) -> dict[str, Any]:
    """The fingerprint with its hashes as the tensor that a checkpoint holds."""
    try:
        data = base64.b64decode(trained_on["hashes"]["data"], validate=True)
        shape = [int(side) for side in trained_on["hashes"]["shape"]]
        hashes = torch.frombuffer(bytearray(data), dtype=torch.uint8).reshape(shape)
    except (LookupError, TypeError, ValueError, OverflowError, RuntimeError, binascii.Error) as error:
        reason = printable(str(error), 200)
        raise InputError(f"{path}: its card: trained_on: expected a fingerprint, got a damaged one: {reason}") from None
    return {**trained_on, "hashes": hashes}
