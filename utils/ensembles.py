"""Several checkpoints as one network: for ``--weights a.pt b.pt`` of val.py and detect.py, or as a file of its own.

python -m utils.ensembles --weights runs/train/exp*/weights/best.pt --out three.pt
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from models.ensemble import MEMBERS, MOST_MEMBERS
from utils import checkpoint
from utils.checkpoint import Checkpoint, Trained, check_boxes, checkpoints
from utils.flags import DOWNLOAD, Flag, parse
from utils.leakage import Fingerprint
from utils.log import LOGGER, InputError, run_script
from utils.preprocess import Preprocessor
from utils.runtimes import open_weights

FLAGS = (
    Flag("weights", "", "checkpoints of trainings on the same classes", nargs="+"),
    DOWNLOAD,
    Flag("out", "ensemble.pt", "file to write; an existing one is not overwritten"),
    Flag("traceback", False, "show where an error arose"),
)
# What members have in common, as one frame is prepared for all of them; a detector alone names no views.
ALIKE: tuple[tuple[str, Callable[[Trained], Any]], ...] = (
    ("names", lambda found: found.names),
    ("view_names", lambda found: found.view_names or None),
    ("rect", lambda found: found.rect),
    ("filters", lambda found: Preprocessor.of(found.hyp)),
    ("permuted_labels", lambda found: (found.content.get("permuted_labels"),)),
)
ONE_HEAD = ("single_det", "single_view")  # controls, which leave the other head as it was drawn
OF_THE_FIRST: tuple[tuple[str, str, Callable[[Trained], Any]], ...] = (
    ("image size", "--imgsz", lambda found: found.image_size),
    ("clip_window", "--clip-window", lambda found: found.hyp.clip_window),
)


def open_all(paths: Sequence[Path], download: bool = False) -> Trained:
    """One file of weights as :func:`utils.runtimes.open_weights` reads it; several as one network."""
    found = [open_weights(path, download) for path in paths]
    return found[0] if len(found) == 1 else together(found)


def together(found: Sequence[Trained]) -> Checkpoint:
    """The checkpoint of an ensemble; see :class:`models.ensemble.Ensemble`.

    It knows all frames and patients that any member was trained on, and which members do not say. It has no operating
    confidence and no temperature: those of its members are not its own.

    Raises:
        InputError: an export, a classifier alone, an ensemble, an untrained head; networks that want different frames,
            or name different classes; the same file twice.
    """
    members = [_member(one) for one in found]
    first = members[0]
    paths = [one.path.resolve() for one in members]
    twice = [path for path in paths if paths.count(path) > 1]
    if twice or len(members) > MOST_MEMBERS:
        got = f"{twice[0]} twice" if twice else f"{len(members)} networks"
        raise InputError(f"--weights: expected at most {MOST_MEMBERS} networks, each once, got {got}")
    for kind, of in ALIKE:
        known = [one for one in members if of(one) is not None]
        for other in known[1:]:
            if of(other) != of(known[0]):
                raise InputError(
                    f"{other.path}: {kind}: expected {_shown(of(known[0]))}, as {known[0].path} has, "
                    f"got {_shown(of(other))}"
                )
    for kind, flag, of in OF_THE_FIRST:
        if len({of(one) for one in members}) > 1:
            listed = ", ".join(str(of(one)) for one in members)
            LOGGER.warning("%s of the networks: %s; the first counts unless %s says another", kind, listed, flag)
    view_names = next((one.view_names for one in members if one.view_names), ())
    content: dict[str, Any] = {
        **{key: first.content[key] for key in ("hyp", "permuted_labels") if key in first.content},
        "description": {MEMBERS: [one.content["description"] for one in members]},
        "names": list(first.names), "view_names": list(view_names),
        "image_size": first.image_size, "rect": first.rect,
        "epoch": min(one.content["epoch"] for one in members),
        "finished": True,
        "ema": {
            f"{MEMBERS}.{index}.{name}": tensor
            for index, one in enumerate(members) for name, tensor in one.content["ema"].items()
        },
    }  # fmt: skip
    content |= _seen(members)
    return Checkpoint(
        path=first.path, content=content, names=first.names, view_names=view_names, image_size=first.image_size,
        rect=first.rect, hyp=first.hyp, members=tuple(one.path for one in members),
    )  # fmt: skip


def _member(found: Trained) -> Checkpoint:
    check_boxes(found)
    if not isinstance(found, Checkpoint) or found.is_ensemble:
        got = "an ensemble" if isinstance(found, Checkpoint) else "an export"
        raise InputError(f"{found.path}: beside other weights: expected the checkpoint of one training, got {got}")
    if found.hyp.balance in ONE_HEAD:
        raise InputError(
            f"{found.path}: expected a network with trained heads, got one of balance: {found.hyp.balance}"
        )
    return found


def _seen(members: Sequence[Checkpoint]) -> dict[str, Any]:
    """The fingerprint of all frames that members say they were trained on, and the files of those that do not say."""
    seen: Fingerprint | None = None
    for one in members:
        if (content := one.content.get("trained_on")) is not None:
            own = Fingerprint.from_content(content, one.path)
            seen = own if seen is None else seen.joined(own)
    untold = [one.path.name for one in members if one.content.get("trained_on") is None]
    return {} if seen is None else {"trained_on": seen.content(), **({"untold": untold} if untold else {})}


def _shown(value: Any) -> str:
    return str(list(value)) if isinstance(value, tuple) else str(value)


def main(options: argparse.Namespace) -> Path:
    """Write the ensemble that the options name; returns its file."""
    paths = checkpoints(options.weights)
    if len(paths) < 2:
        raise InputError(f"--weights: expected two checkpoints or more, got {len(paths)}")
    out = Path(options.out).expanduser()
    if out.suffix != ".pt" or out.exists():
        raise InputError(f"--out {out}: expected a new file that ends in .pt, got {_why_not(out)}")
    found = together([open_weights(path, options.download) for path in paths])
    found.build()  # what does not go together is found now, not in use
    checkpoint.save(out, found.content)
    print(f"{out}: {len(paths)} networks, {out.stat().st_size / 1e6:.1f} MB")
    return out


def _why_not(out: Path) -> str:
    return "one that exists" if out.exists() else f"suffix {out.suffix!r}"


if __name__ == "__main__":
    sys.exit(run_script(main, parse(FLAGS, __doc__ or "")))
