"""A list of trainings that several processes or machines share, in an Optuna study (arXiv 1907.10902).

Each training is a trial that waits in the study's storage; a process takes one, which nobody else then gets, and says
every few seconds that it is alive. A trial whose process has gone silent is put back by the next process that looks,
and goes on from its last checkpoint, as the folder of the run is the same.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from utils.log import LOGGER, InputError, Interrupted

if TYPE_CHECKING:
    from optuna import Study, Trial
    from optuna.trial import TrialState
    from sqlalchemy import Engine

HEARTBEAT = 30  # seconds between two signs of life
GRACE = 120  # seconds of silence after which a process counts as dead
RETRIES = 3  # of a trial whose process died
NAME = "comparison"
RUN = "run"  # the attribute of a trial that names its training
PATIENCE = 5  # looks that find nothing to do or wait for, or a storage that does not answer
PAUSE = 5.0  # seconds between two looks at trials that other processes are at


def check_installed() -> None:
    """Raise an InputError where Optuna is not installed."""
    try:
        import optuna  # noqa: F401
    except ImportError as error:
        raise InputError("--grid: expected the package optuna: pip install 'optuna>=4.9'") from error


def open_study(
    storage: str, names: Sequence[str], heartbeat: int = HEARTBEAT, grace: int = GRACE, title: str = NAME
) -> Study:
    """The study in a storage, with a waiting trial for each training that is neither finished nor at work.

    Args:
        storage: an address as SQLAlchemy takes it; ``sqlite:///FILE`` for one machine.
        names: of the trainings.
        heartbeat, grace: seconds, see :data:`HEARTBEAT` and :data:`GRACE`.
        title: of the study, of which a storage may hold several.

    Raises:
        InputError: Optuna cannot open the storage.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    for left in (2, 1, 0):  # of two processes that make the tables at once, one finds them there half-made
        try:
            study = _opened(storage, heartbeat, grace, title)
            break
        except Exception as error:  # of SQLAlchemy, a database's driver, or Optuna's own check of the storage's version
            if left:
                time.sleep(1)
                continue
            why = " ".join(str(error).split())[:200]
            raise InputError(f"--storage {storage}: expected a database that can be opened, got {why}") from error
    there = set().union(*_by_state(study).values())
    for name in names:
        if name not in there:
            study.enqueue_trial({}, user_attrs={RUN: name})
    return study


def _opened(storage: str, heartbeat: int, grace: int, title: str) -> Study:
    import optuna

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # signs of life are, since 2021
        place = optuna.storages.RDBStorage(
            storage, engine_kwargs={"connect_args": {"timeout": 60}} if storage.startswith("sqlite") else None,
            heartbeat_interval=heartbeat, grace_period=grace,
            heartbeat_stale_trial_callback=optuna.storages.RetryHeartbeatStaleTrialCallback(max_retry=RETRIES),
        )  # fmt: skip
    if storage.startswith("sqlite"):
        _lock_first(place.engine)
    return optuna.create_study(storage=place, study_name=title, direction="maximize", load_if_exists=True)


def _lock_first(engine: Engine) -> None:
    """Let each transaction with SQLite lock the file before it reads.

    To take a trial, Optuna reads that it waits, and then writes that it is at work. In between it relies on a lock on
    the row, which SQLite does not know: two processes could take the same trial, and write into one folder.
    """
    from sqlalchemy import event

    engine.dispose()  # connections that were opened before

    def leave_begin_to_us(connection: Any, _: Any) -> None:
        connection.isolation_level = None

    event.listen(engine, "connect", leave_begin_to_us)
    event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE"))


def work(study: Study, names: Sequence[str], train: Callable[[str], float], pause: float = PAUSE) -> None:
    """Take trainings until all are finished, also those that other processes are at.

    Args:
        train: makes one, or the rest of one, and returns the figure that the study shows.
        pause: seconds between two looks, while others are at the last of them.

    Raises:
        InputError: a training failed; or, elsewhere, more often than it is retried.
        Interrupted: a signal ended a training of this process, which waits for the next one that looks.
    """
    from optuna.exceptions import StorageInternalError
    from sqlalchemy.exc import OperationalError

    idle = busy = 0
    told = False
    cut: list[Interrupted] = []
    while not cut:
        try:
            done, waiting, running = _standing(study, names)
            if done >= set(names):
                return
            if waiting:
                study.optimize(lambda trial: _made(study, trial, names, train, cut), n_trials=1)
        except (StorageInternalError, OperationalError) as error:  # a file that two processes write to may be locked
            busy += 1
            if busy > PATIENCE:
                raise InputError(f"the study's storage: {' '.join(str(error).split())[:200]}") from error
            time.sleep(pause)
            continue
        if waiting:
            idle = 0
            continue
        if running:
            if not told:
                LOGGER.info("Waiting for other processes: %s", ", ".join(sorted(running)))
            told, idle = True, 0
        elif idle > PATIENCE:  # a look may fall between a trial's failure and its being put back
            lost = sorted(set(names) - done)
            raise InputError(f"{', '.join(lost)}: expected to be finished elsewhere, but failed there; start again")
        idle += 1
        time.sleep(pause)
    raise cut[0]


def _standing(study: Study, names: Sequence[str]) -> tuple[set[str], set[str], set[str]]:
    """Which of the trainings are finished, waiting, and at work; those of dead processes are put back first."""
    from optuna.storages import fail_stale_trials
    from optuna.trial import TrialState

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fail_stale_trials(study)
    states = _by_state(study)
    done, waiting, running = (
        states[state] & set(names) for state in (TrialState.COMPLETE, TrialState.WAITING, TrialState.RUNNING)
    )
    return done, waiting, running


def _made(
    study: Study, trial: Trial, names: Sequence[str], train: Callable[[str], float], cut: list[Interrupted]
) -> float:
    """The objective: the training that a trial names, unless another trial was put in for it, too.

    One that this process was not asked for is put back, behind the others; so is one that a signal ended.

    Args:
        cut: is given the signal's error, as Optuna knows of none.
    """
    import optuna

    name = str(trial.user_attrs.get(RUN))
    taken = (optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.RUNNING)
    before = [t for t in study.get_trials(deepcopy=False) if t.number < trial.number and t.state in taken]
    # two processes that start at once may both put a training in; and where another one was faster to take the last
    # waiting trial, Optuna made up one without a name
    if name not in names and RUN in trial.user_attrs:
        study.enqueue_trial({}, user_attrs={RUN: name})
    if name not in names or any(t.user_attrs.get(RUN) == name for t in before):
        raise optuna.TrialPruned
    try:
        return train(name)
    except Interrupted as error:  # else it would count as at work until this process has been silent for long enough
        cut.append(error)
        study.enqueue_trial({}, user_attrs={RUN: name})
        raise optuna.TrialPruned from error


def _by_state(study: Study) -> dict[TrialState, set[str]]:
    """The names of the trainings that are finished, waiting, or at work."""
    from optuna.trial import TrialState

    found: dict[TrialState, set[str]] = {
        state: set() for state in (TrialState.COMPLETE, TrialState.WAITING, TrialState.RUNNING)
    }
    for trial in study.get_trials(deepcopy=False, states=tuple(found)):
        found[trial.state].add(trial.user_attrs.get(RUN, ""))
    return found
