"""YOLOv5's pickled checkpoints (official ones, v6 to today's, and forks'), read without executing them.

python -m utils.legacy OLD.pt NEW.pt
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from utils import checkpoint
from utils.archive import read_archive
from utils.checkpoint import FORMAT, Checkpoint, NotOursError, Trained, unknown_layers
from utils.config import ROOT, hyperparameters_from, load_yaml
from utils.flags import COMMON, parse
from utils.log import LOGGER, InputError, printable, run_script
from utils.module_records import differences, modules, state_of
from utils.pickled_values import plain
from utils.unpickling import Record, RefusedError

HYP = ROOT / "hyp" / "detection_only.yaml"  # for what a checkpoint does not say
IMAGE_SIZE = 640  # pixels; YOLOv5's own default
DESCRIPTION = ("depth_multiple", "width_multiple", "anchors", "backbone", "head")
SHOWN = 10  # names of a list that are printed


@dataclass(frozen=True)
class Legacy(Trained):
    """What a pickled checkpoint holds.

    Attributes:
        state: tensors by state names, in fp32: the averaged weights where there are any.
        network: the record of the network; None where the file holds tensors alone.
    """

    state: Mapping[str, Tensor] = field(default_factory=dict)
    network: Record | None = None

    def part(self, name: str) -> Mapping[str, Tensor]:
        """Its tensors; it has no parts."""
        return self.state

    def checkpoint(self) -> Checkpoint:
        """A checkpoint whose network computes what the pickled one did, as far as the file says what that was.

        Raises:
            InputError: layers that are not known here, or that are built otherwise; the line names them.
        """
        description = self.content.get("description")
        if self.network is None or description is None:
            raise InputError(f"{self.path}: it {_missing(self.network)}; train.py --weights takes what fits of it")
        unknown = unknown_layers(description)
        if unknown:
            raise InputError(
                f"{self.path}: layers that are not known here: {', '.join(unknown)}; train.py --weights takes what fits"
            )
        found = Checkpoint(
            self.path, self.content, self.names, self.view_names, self.image_size, self.rect, self.hyp
        )  # fmt: skip
        network = found.build()
        with _in_one_line(self.path):
            other = differences(self.network, network)
        if other:
            more = f" (and {len(other) - 1} more)" if len(other) > 1 else ""
            raise InputError(f"{self.path}: its network is built otherwise than ours: {printable(other[0], 200)}{more}")
        own = network.state_dict()  # all of it is in the file, or build() had failed
        LOGGER.info("%s: a checkpoint of YOLOv5: %d of %d tensors matched", self.path, len(own), len(own))
        unused = [name for name in self.state if name not in own]
        if unused:
            LOGGER.info("  not used: %s", ", ".join(unused[:SHOWN]) + (" ..." if len(unused) > SHOWN else ""))
        return found


def read(path: Path) -> Legacy:
    """Read a pickled checkpoint.

    Raises:
        InputError: absent, damaged, without a network or tensors, or it asks for something to be run.
    """
    return interpreted(path, read_archive(path))


def interpreted(path: Path, content: Any) -> Legacy:
    """What the content of a file of torch's says, if it is YOLOv5's; see :func:`read`."""
    with _in_one_line(path):
        return _interpreted(path, content)


@contextlib.contextmanager
def _in_one_line(path: Path) -> Iterator[None]:
    """Records may hold anything in any place: whatever that ends in is told as a fault of the file."""
    try:
        yield
    except RefusedError as error:
        raise InputError(f"{path}: not read: {error}") from error
    except (TypeError, ValueError, LookupError, AttributeError, ArithmeticError, RuntimeError) as error:
        reason = printable(f"{type(error).__name__}: {error}")
        raise InputError(f"{path}: expected a checkpoint of YOLOv5, got one that makes no sense: {reason}") from error


def _interpreted(path: Path, content: Any) -> Legacy:
    network, state = _weights(content)
    if network is not None and isinstance(content, dict) and isinstance(content.get("model"), Record):
        for key in ("yaml", "names"):  # some averaged networks are bare
            network.state.setdefault(key, content["model"].get(key))
    if not state:
        raise InputError(f"{path}: expected a checkpoint of YOLOv5, got a file without a network's tensors")
    fields = content if isinstance(content, dict) else {}
    options = plain(fields.get("opt")) or {}
    options = options if isinstance(options, dict) else {}
    names = _names(network, fields, state, path)
    image_size = options.get("imgsz")
    image_size = image_size if isinstance(image_size, int) and 32 <= image_size <= 10_000 else IMAGE_SIZE
    hyp = _hyperparameters(options.get("hyp"), path)
    kept = {key: plain(fields.get(key)) for key in ("date", "git")}
    epoch = fields.get("epoch")
    made: dict[str, Any] = {
        "format": FORMAT, "names": list(names), "view_names": [], "image_size": image_size, "rect": True,
        "hyp": hyp, "epoch": epoch if isinstance(epoch, int) else -1, "figures": {}, "operating": None,
        "finished": True, "ema": state, **kept,
    }  # fmt: skip
    if network is not None:
        made["description"] = _description(network, state, len(names))
    return Legacy(
        path, made, names, (), image_size, True, hyperparameters_from(hyp, path), state=state, network=network
    )


def _weights(content: Any) -> tuple[Record | None, dict[str, Tensor]]:
    """The network's record, averaged weights first, and its tensors; of a file of tensors alone, those."""
    candidates = [content.get(key) for key in ("ema", "model", "state_dict")] if isinstance(content, dict) else []
    for found in [*candidates, content]:
        if isinstance(found, Record):
            inside = found.get("_modules")
            if isinstance(inside, dict) and isinstance(inside.get("module"), Record):  # as trained on several GPUs
                found = inside["module"]
            state = state_of(found)
            if state:
                return found, state
        elif isinstance(found, dict) and found and all(isinstance(value, Tensor) for value in found.values()):
            tensors = {str(key).removeprefix("module."): value for key, value in found.items()}
            return None, {key: value.float() if value.is_floating_point() else value for key, value in tensors.items()}
    return None, {}


def _names(
    network: Record | None, fields: Mapping[Any, Any], state: Mapping[str, Tensor], path: Path
) -> tuple[str, ...]:
    """Class names in their order; numbers where the file has none."""
    found = plain(network.get("names") if network else None) or plain(fields.get("names"))
    if isinstance(found, dict) and sorted(map(str, found)) == sorted(map(str, range(len(found)))):
        found = [value for _, value in sorted(found.items(), key=lambda item: int(item[0]))]
    count = _classes(state, network)
    fits = isinstance(found, list) and len(found) == (count or len(found))
    if fits and all(isinstance(name, (str, int, float)) for name in found):
        return tuple(printable(str(name)) for name in found)
    if found:
        LOGGER.warning("%s: its class names are not those of its %d classes, which are called by number", path, count)
    return tuple(str(number) for number in range(count))


def _classes(state: Mapping[str, Tensor], network: Record | None) -> int:
    """Classes of the Detect layer, from the shapes of its anchors (nl, na, 2) and outputs na * (5 + nc + nm).

    The nm coefficients of masks are those of a segmentation network's head.
    """
    for key, anchors in state.items():
        head = key.removesuffix(".anchors")
        outputs = state.get(f"{head}.m.0.weight")
        if head != key and outputs is not None and outputs.ndim and anchors.ndim == 3 and anchors.shape[1]:
            records = dict(modules(network)) if network else {}
            masks = records[head].get("nm", 0) if head in records else 0
            return max(outputs.shape[0] // anchors.shape[1] - 5 - (masks if type(masks) is int else 0), 0)
    return 0


def _hyperparameters(stored: Any, path: Path) -> dict[str, Any]:
    """Our hyperparameters, with those of the training where it stored them as they were typed."""
    ours = dict(load_yaml(HYP))
    if not isinstance(stored, dict):
        return ours
    merged = {**ours, **{key: value for key, value in stored.items() if key in ours and key != "anchors"}}
    try:
        hyperparameters_from(merged, path)
    except InputError as error:
        LOGGER.warning("%s; those of %s are taken", error, HYP.name)
        return ours
    return merged


def _description(network: Record, state: Mapping[str, Tensor], classes: int) -> dict[str, Any] | None:
    """The network yaml that the checkpoint carries, in our grammar; None where it carries none."""
    found = plain(network.get("yaml"))
    if not isinstance(found, dict) or any(key not in found for key in DESCRIPTION) or found.get("ch", 3) != 3:
        return None
    if not all(isinstance(found[part], list) for part in ("backbone", "head")):
        return None
    description: dict[str, Any] = {key: copy.deepcopy(found[key]) for key in DESCRIPTION}
    description["nc"] = classes
    rows = [row for part in ("backbone", "head") for row in description[part]]
    for index, row in enumerate(rows):
        if isinstance(row, list) and len(row) == 4 and row[2] == "CBAM":
            description["cbam_gate"] = "paper"  # forks' own
            row[3] = _cbam_arguments(index, state) or row[3]
    return description


def _missing(network: Record | None) -> str:
    """Why a network cannot be built again, in words."""
    if network is None:
        return "holds tensors alone, without what network they are of"
    found = plain(network.get("yaml"))
    if isinstance(found, dict) and found.get("ch", 3) != 3:
        return f"takes frames of {printable(str(found['ch']))} channels, not of 3"
    return "does not describe its network by a yaml"


def _cbam_arguments(index: int, state: Mapping[str, Tensor]) -> list[Any] | None:
    """Channels (as they come), kernel and reduction of a fork's CBAM layer, from its weights' shapes."""
    for start in (f"model.{index}.", f"model.{index}.0."):
        first = state.get(f"{start}channel_attention.f1.weight")
        spatial = state.get(f"{start}spatial_attention.conv.weight")
        if first is not None and spatial is not None and first.ndim == 4 and first.shape[0] and spatial.ndim == 4:
            return ["None", spatial.shape[-1], max(first.shape[1] // first.shape[0], 1)]
    return None


def main(options: argparse.Namespace) -> Path:
    """Convert one file; returns the new one's path."""
    if len(options.files) != 2:
        raise InputError(f"expected OLD.pt NEW.pt, got {len(options.files)} files")
    old, new = (Path(name).expanduser() for name in options.files)
    if new.exists():
        raise InputError(f"{new}: exists already; nothing is overwritten")
    if not new.parent.is_dir():
        raise InputError(f"{new.parent}: no such folder")
    try:
        checkpoint.read(old)
        raise InputError(f"{old}: is a checkpoint of this program already")
    except NotOursError as error:
        found = interpreted(old, error.content).checkpoint()
    checkpoint.save(new, found.content)
    print(f"{new}: {len(found.names)} classes ({', '.join(found.names)}), {found.image_size} pixels")
    return new


if __name__ == "__main__":
    flags = [flag for flag in COMMON if flag.name == "traceback"]
    sys.exit(run_script(main, parse(flags, __doc__ or "", positional=("files", "a checkpoint, and its new name"))))
