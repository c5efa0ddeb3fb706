"""The balancer that a hyp file and the flags ask for, around a network."""

from __future__ import annotations

from pathlib import Path

from models.balancer import TASKS, Balancer
from models.balancers import BALANCERS, BalanceSettings, build_balancer
from models.border import find_border
from models.yolo import Network
from utils.balance_log import column, read_balance
from utils.config import Hyperparameters
from utils.log import InputError
from utils.loss import JointLoss


def check_balance(hyp: Hyperparameters, source: str, finished: str) -> None:
    """Refuse what cannot be balanced, before anything is built.

    Args:
        source: where the hyperparameters come from, for errors.
        finished: what ``--balance-from`` says.

    Raises:
        InputError: an unknown balancer, one for two tasks where there is one, ``gradnorm_static`` without its run.
    """
    if hyp.balance not in BALANCERS:
        raise InputError(f"{source}: balance: expected one of {', '.join(BALANCERS)}, got {hyp.balance!r}")
    if hyp.balance != "static" and not hyp.classification_enabled:
        raise InputError(
            f"{source}: balance: expected static where classification_enabled is false, got {hyp.balance!r}"
        )
    if (hyp.balance == "gradnorm_static") != bool(finished):
        raise InputError("--balance gradnorm_static and --balance-from: expected both, or neither")


def choose_balancer(
    network: Network, hyp: Hyperparameters, criterion: JointLoss, finished: str, resumed: bool
) -> Balancer:
    """The balancer over the tasks that the network has.

    Args:
        finished: run, or balance.csv of a run, whose weights ``gradnorm_static`` keeps.
        resumed: its state is to be restored, so that ``finished`` is not read.

    Raises:
        InputError: settings out of range, a package that is not installed, and what GradNorm measures at is frozen.
    """
    if criterion.view is None:
        return Balancer((1.0,))
    weight = find_border(network).weight
    if hyp.balance == "gradnorm" and not (weight and network.get_parameter(weight).requires_grad):
        raise InputError(f"--freeze: expected {weight} to be trained, where GradNorm measures the gradients")
    history = [(1.0, 1.0)] if resumed else weight_history(finished) if finished else []
    settings = BalanceSettings(
        weights=(1.0, hyp.classification_weight), alpha=hyp.gradnorm_alpha, lr=hyp.gradnorm_lr,
        update=hyp.gradnorm_update, initial_steps=hyp.gradnorm_initial_steps,
        initial_losses=(None, criterion.view.at_chance if hyp.gradnorm_view_chance else None), history=history,
    )  # fmt: skip
    try:
        return build_balancer(hyp.balance, settings)
    except (ValueError, ImportError) as error:
        raise InputError(f"balance: {hyp.balance}: {error}") from error


def weight_history(finished: str) -> list[tuple[float, ...]]:
    """The tasks' weights at each step of a training, from its run's folder or its balance.csv.

    Raises:
        InputError: no such file, something else in it, or no step.
    """
    path = Path(finished).expanduser()
    rows = read_balance(path / "balance.csv" if path.is_dir() else path)
    if not rows:
        raise InputError(f"--balance-from {finished}: expected a training of at least one step, got none")
    return list(zip(*(column(rows, f"weight/{task}").tolist() for task in TASKS), strict=True))
