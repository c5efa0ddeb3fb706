"""The balancer that a hyp file and the flags ask for, around a network."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from models.balancer import TASKS, Balancer
from models.balancers import BALANCERS, BalanceSettings, build_balancer
from models.border import find_border
from models.gradnorm import UPDATES
from models.surgery import METHODS
from models.yolo import Network
from utils.balance_log import column, read_balance
from utils.config import Hyperparameters
from utils.log import InputError
from utils.loss import JointLoss

SINGLE = {"single_det": 0, "single_view": 1}  # name -> branch that learns


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
        raise InputError(f"balance {hyp.balance}: expected static with {source}, where classification_enabled is false")
    if (hyp.balance == "gradnorm_static") != bool(finished):
        raise InputError(
            "--balance gradnorm_static needs --balance-from RUN, and nothing else takes it; "
            f"got balance {hyp.balance} and --balance-from {finished!r}"
        )
    if hyp.gradnorm_update not in UPDATES:
        raise InputError(
            f"{source}: gradnorm_update: expected one of {', '.join(UPDATES)}, got {hyp.gradnorm_update!r}"
        )


def choose_balancer(
    network: Network, hyp: Hyperparameters, criterion: JointLoss, finished: str, resumed: bool
) -> Balancer:
    """The balancer over the tasks that the network has.

    Args:
        finished: run, or balance.csv of a run, whose weights ``gradnorm_static`` keeps.
        resumed: its state is to be restored, so that ``finished`` is not read.

    Raises:
        InputError: settings out of range, a package that is not installed, and what it works on is frozen.
    """
    if criterion.view is None:
        return Balancer((1.0,))
    _check_trained(network, hyp.balance)
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


def _check_trained(network: Network, balance: str) -> None:
    """Refuse a balancer that would have nothing to do, because what it works on is frozen or not there."""
    border = find_border(network)
    trained = [index for index, layer in enumerate(network.model) if any(p.requires_grad for p in layer.parameters())]
    shared = set(border.shared) & set(trained)
    if balance == "gradnorm" and not (border.weight and network.get_parameter(border.weight).requires_grad):
        where = f"{border.weight} is frozen" if border.weight else "the tasks share no convolution"
        raise InputError(
            f"balance: gradnorm measures gradients at the last shared weight, but {where}; take --balance static"
        )
    if balance in METHODS and not shared:
        raise InputError(
            f"balance: {balance} combines gradients in shared layers, but none is trained; take --balance static"
        )
    if balance in SINGLE and not shared | (set(border.branches[SINGLE[balance]]) & set(trained)):
        raise InputError(f"balance: {balance}: expected some layer left to train, got all of that task frozen")


def weight_history(finished: str) -> list[tuple[float, ...]]:
    """The tasks' weights at each step of a training, from its run's folder or its balance.csv.

    Raises:
        InputError: no such file, something else in it, or no step.
    """
    path = Path(finished).expanduser()
    path = path / "balance.csv" if path.is_dir() else path
    rows = read_balance(path)
    weights = np.array([column(rows, f"weight/{task}") for task in TASKS]).T
    if not len(rows) or not np.isfinite(weights).all():
        raise InputError(
            f"{path}: expected weight/det and weight/view in each of one or more rows, got {len(rows)} rows"
        )
    return [tuple(row) for row in weights.tolist()]
