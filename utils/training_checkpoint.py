"""The checkpoints that a training leaves, and the way back from one."""

from __future__ import annotations

import datetime
import subprocess
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

import torch

from utils import checkpoint
from utils.config import ROOT, plain
from utils.epoch import EpochProgress
from utils.learner import Learner
from utils.log import InputError
from utils.operating import OperatingPoint
from utils.plan import Plan, Standing


def content_of(
    learner: Learner, plan: Plan, standing: Standing, device: torch.device, figures: Mapping[str, float],
    operating: OperatingPoint | None,
) -> dict[str, Any]:  # fmt: skip
    """A checkpoint of a training as it stands, with all that :func:`restore` needs.

    Args:
        device: whose random numbers the training draws.
        figures: what it says of the network's worth; none before the first validation or within an epoch.
        operating: found in that validation.
    """
    weights = standing.frame_weights
    return {
        "description": learner.network.description,
        "names": list(plan.names),
        "view_names": list(plan.view_names),
        "image_size": plan.image_size,
        "rect": plan.rect,
        "hyp": plain(asdict(plan.hyp)),
        "epoch": standing.epochs - 1,
        "progress": asdict(standing.progress) if standing.progress else None,
        "seconds": standing.seconds,
        "best_fitness": standing.best_fitness,
        "best_epoch": standing.best_epoch,
        "frame_weights": None if weights is None else torch.from_numpy(weights),
        "finished": standing.ended,
        "figures": dict(figures),
        "operating": operating.content() if operating else None,
        **plan.remembered,
        "ema": learner.running_mean.network.state_dict(),
        "updates": learner.running_mean.updates,
        "network": learner.network.state_dict(),
        "optimizer": learner.optimizer.state_dict(),
        "balancer": learner.balancer.state_dict(),
        "random": torch.get_rng_state(),
        # dropout draws from the generator of its device
        "random_gpu": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
        "options": dict(plan.options or {}),
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "git": git_commit(),
    }


def write(content: Mapping[str, Any], plan: Plan, best: bool) -> None:
    """Bring ``last.pt`` up to date and, after an epoch, the others that are due.

    Args:
        best: whether it is ``best.pt``, too.
    """
    if best:  # before last.pt, which says which epoch is the best: a kill in between must not make that untrue
        checkpoint.save(plan.best, content)
    checkpoint.save(plan.last, content, keep=True)
    epoch, period = content["epoch"], plan.save_period
    if period > 0 and content["progress"] is None and epoch >= 0 and epoch % period == 0:
        checkpoint.save(plan.folder / "weights" / f"epoch{epoch}.pt", content)


def restore(learner: Learner, plan: Plan, resumed: checkpoint.Checkpoint) -> Plan:
    """Put a learner back to where a checkpoint of a training was written, and return the plan of the rest.

    Raises:
        InputError: a stripped checkpoint, which lacks the optimizer.
    """
    content, path = resumed.content, resumed.path
    missing = [key for key in ("network", "optimizer", "balancer", "random") if key not in content]
    if missing:
        raise InputError(
            f"{path}: expected a checkpoint to resume from (last.pt), got one without {', '.join(missing)}"
        )
    learner.network.load_state_dict(content["network"])
    learner.running_mean.network.load_state_dict(content["ema"])
    learner.running_mean.updates = content["updates"]
    learner.optimizer.load_state_dict(content["optimizer"])
    learner.balancer.load_state_dict(content["balancer"])
    torch.set_rng_state(content["random"])
    if content.get("random_gpu") is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(content["random_gpu"])
    # how patients or clips are drawn follows from the data as they are now, how classes are from the last validation
    weights = content["frame_weights"] if plan.image_weights else None
    progress = content.get("progress")
    standing = Standing(
        epochs=content["epoch"] + 1,
        progress=EpochProgress(**progress) if progress else None,
        seconds=content.get("seconds", 0.0),
        best_fitness=content["best_fitness"],
        best_epoch=content["best_epoch"],
        frame_weights=plan.standing.frame_weights if weights is None else weights.numpy(),
        ended=content["finished"] and learner.schedule.epochs <= content["options"]["epochs"],
    )
    return replace(plan, standing=standing)


def git_commit() -> str:
    """The repository's commit, or nothing where it is no git checkout."""
    command = ["git", "-C", str(ROOT), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=5, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""
