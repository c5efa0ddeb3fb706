"""Which checkpoint --resume means; test_train.py and test_crossval.py go on with real runs."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest

import train
from models.classifier import Classifier
from models.dual import Dual
from models.yolo import Network
from utils import resume
from utils.checkpoint import Checkpoint, read, save
from utils.config import ROOT, load_hyperparameters, plain
from utils.flags import from_keywords
from utils.log import InputError, Interrupted
from utils.processes import ALONE, Processes
from utils.resume import ended, finished, is_part, latest_checkpoint, resumable, resumed_options


def cut(network: Network, path: Path, **content: Any) -> Checkpoint:
    """A checkpoint of a run, written to ``path``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    hyp = plain(vars(load_hyperparameters(ROOT / "hyp" / "joint_training_rules.yaml")))
    defaults = {
        "description": network.description, "names": ["AR", "MR", "PR", "TR"], "view_names": ["A", "B", "C"],
        "image_size": 64, "rect": False, "hyp": hyp, "epoch": 1, "ema": network.state_dict(), "finished": False,
        "options": {"epochs": 9, "batch_size": 4, "typed": ["epochs"]},
    }  # fmt: skip
    save(path, defaults | content)
    return read(path)


def test_the_latest_run_that_was_cut_off_is_found(
    joint: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resume, "ROOT", tmp_path)
    with pytest.raises(InputError, match="none of 0 runs"):
        latest_checkpoint(True)
    older = tmp_path / "runs" / "train" / "exp" / "weights" / "last.pt"
    newer = tmp_path / "runs" / "train" / "exp2" / "weights" / "last.pt"
    cut(joint, older)
    cut(joint, newer, finished=True)
    assert latest_checkpoint(True).path == newer  # its last epoch is made, but its figures are not written
    (newer.parents[1] / "metrics.json").write_text("{}")
    assert latest_checkpoint(True).path == older
    assert latest_checkpoint(True, longer=True).path == newer  # for more epochs than it has


def test_a_fold_is_finished_when_all_are_pooled(joint: Network, tmp_path: Path) -> None:
    path = tmp_path / "exp" / "fold1" / "weights" / "last.pt"
    found = cut(joint, path, finished=True, options={"folds": "my_folds"})
    assert not ended(found) and not finished(found)
    (tmp_path / "exp" / "fold1" / "metrics.json").write_text("{}")
    assert ended(found) and not finished(found)
    (tmp_path / "exp" / "metrics.json").write_text("{}")
    assert finished(found)
    assert not finished(cut(joint, path, finished=False, options={"folds": "my_folds"}))


def test_options_are_those_of_the_start_and_flags_younger_than_the_checkpoint_have_their_defaults(
    joint: Network, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    found = cut(joint, tmp_path / "exp" / "weights" / "last.pt")
    typed = from_keywords(train.FLAGS, {"resume": "last.pt", "batch_size": 3, "workers": 1})
    options = resumed_options(found, typed, train.FLAGS)
    assert (options.epochs, options.batch_size, options.workers, options.bootstrap) == (9, 4, 1, 2000)
    assert options.typed == {"epochs"}
    assert "ignored: batch_size" in caplog.text


def test_a_stripped_checkpoint_cannot_be_gone_on_with(joint: Network, tmp_path: Path) -> None:
    found = cut(joint, tmp_path / "exp" / "weights" / "best.pt", options={})
    with pytest.raises(InputError, match=r"best\.pt: expected a checkpoint to resume from"):
        resumed_options(found, from_keywords(train.FLAGS, {}), train.FLAGS)


def cut_pair(detector: Network, folder: Path, **content: Any) -> Path:
    """A run of two networks in ``folder``, its parts' checkpoints included; returns its last.pt."""
    network = Dual(detector, Classifier("resnet18"))
    options = {"classifier": "resnet18", "epochs": 9}
    for name in ("detector", "classifier"):
        cut(getattr(network, name), folder / name / "weights" / "last.pt", options=options)
    return cut(network, folder / "weights" / "last.pt", **{"options": options, **content}).path  # type: ignore[arg-type]


def test_each_script_goes_on_with_its_own_runs_alone(
    tiny: Network, joint: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resume, "ROOT", tmp_path)
    of_joint = cut(joint, tmp_path / "runs" / "exp" / "weights" / "last.pt").path
    of_pair = cut_pair(tiny, tmp_path / "runs" / "exp2")
    assert latest_checkpoint(True).path == latest_checkpoint(str(of_joint)).path == of_joint
    assert latest_checkpoint(True, pair=True).path == of_pair
    assert latest_checkpoint(str(of_pair), pair=True).path == of_pair
    with pytest.raises(InputError, match=r"last\.pt: .* this script, got one that train_dual_backbone\.py --resume"):
        latest_checkpoint(str(of_pair))
    with pytest.raises(InputError, match=r"last\.pt: expected a run of this script, got one that train\.py --resume"):
        latest_checkpoint(str(of_joint), pair=True)
    cut_pair(tiny, tmp_path / "runs" / "exp2", finished=True)
    (tmp_path / "runs" / "exp2" / "metrics.json").write_text("{}")
    with pytest.raises(InputError, match="none of 4 runs"):
        latest_checkpoint(True, pair=True)  # its parts, which are not finished, are no runs


@pytest.mark.parametrize("pair", [False, True])
@pytest.mark.parametrize("part", ["detector", "classifier"])
def test_a_part_of_a_run_is_not_gone_on_with_by_itself(tiny: Network, tmp_path: Path, part: str, pair: bool) -> None:
    whole = cut_pair(tiny, tmp_path / "exp")
    own = tmp_path / "exp" / part / "weights" / "last.pt"
    assert is_part(read(own)) and not is_part(read(whole))
    with pytest.raises(InputError, match="that of one of its two networks; take") as caught:
        latest_checkpoint(str(own), pair)
    assert str(caught.value).endswith(str(whole))


def hint(last: Path, processes: Processes = ALONE) -> str:
    """What the user is told of a signal."""
    with pytest.raises(Interrupted) as caught, resumable(last, "train.py", processes):
        raise Interrupted(signal.SIGTERM)
    assert caught.value.signal == signal.SIGTERM
    return str(caught.value.hint)


def test_a_signal_is_answered_with_a_command_that_works(tmp_path: Path) -> None:
    last, other = tmp_path / "my run" / "last.pt", Processes(1, 2, 1, 2, "x")
    assert "--resume" not in hint(last) and "the same command starts again" in hint(last)
    assert hint(last, other).endswith(f"python train.py --resume '{last}'")  # which need not be on its machine
    last.parent.mkdir()
    last.touch()
    assert hint(last) == hint(last, other) and hint(last).endswith(f"python train.py --resume '{last}'")
