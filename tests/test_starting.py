"""Weights to start from: of any file, as far as they fit, the rows of classes by their names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from models.yolo import Network
from tests.pickled import NAMES, pickled, stock
from tests.scripts import phantom_yaml, succeed, tiny_cfg
from tests.test_checkpoint import content, network
from tests.test_legacy import unknown_layer
from utils import checkpoint, releases
from utils.checkpoint import Checkpoint
from utils.config import ROOT, load_yaml
from utils.legacy import Legacy
from utils.log import InputError
from utils.starting import read_start, start_from, with_classes


def test_every_kind_of_file_is_read_as_what_it_is(
    tmp_path: Path, tiny_description: dict[str, Any], golden: Path
) -> None:
    checkpoint.save(tmp_path / "ours.pt", content(network()))
    assert isinstance(read_start(tmp_path / "ours.pt"), Checkpoint)
    assert isinstance(read_start(golden / "yolov5_tiny.pt"), Legacy)
    torch.save(stock(tiny_description).state_dict(), tmp_path / "tensors.pt")
    assert read_start(tmp_path / "tensors.pt").part("detector").keys() == Network(tiny_description).state_dict().keys()
    with pytest.raises(InputError, match="no such checkpoint"):
        read_start(tmp_path / "absent.pt")
    with pytest.raises(InputError, match="--download fetches"):
        read_start(tmp_path / next(iter(releases.FILES)))


def test_starting_from_other_weights_says_how_many_matched(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    torch.manual_seed(1)
    stock = Network({**load_yaml(ROOT / "models/hub/yolov5n.yaml"), "width_multiple": 0.125}, nc=4)
    joint = network()
    with caplog.at_level("INFO", logger="echo"):
        start_from(joint, stock.state_dict(), tmp_path / "stock.pt")
    total = len(joint.state_dict())
    assert f"{len(stock.state_dict())} of {total} tensors matched" in caplog.text
    assert "model.2.cbam.channel_attention.f1.weight: not there" in caplog.text
    assert torch.equal(joint.state_dict()["model.9.cv2.conv.weight"], stock.state_dict()["model.9.cv2.conv.weight"])


def test_a_start_from_another_network_is_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    other = Network({**load_yaml(ROOT / "models/hub/yolov5n.yaml"), "width_multiple": 0.25}, nc=4)
    start_from(network(), other.state_dict(), tmp_path / "wide.pt")
    assert "wide.pt: most of the network starts afresh" in caplog.text
    caplog.clear()
    start_from(network(), network().state_dict(), tmp_path / "same.pt")
    assert not [record for record in caplog.records if record.levelname == "WARNING"]


def test_weights_that_fit_nowhere_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="none of its 1 tensors"):
        start_from(network(), {"a": torch.zeros(1)}, tmp_path / "x.pt")


def rows(state: dict[str, Tensor], level: int) -> Tensor:
    """A Detect level's biases (anchors, 5 + nc)."""
    return state[f"model.24.m.{level}.bias"].view(3, -1)


@pytest.mark.parametrize("name", ["weight", "bias"])
def test_rows_of_classes_go_by_name(
    tiny_description: dict[str, Any], caplog: pytest.LogCaptureFixture, name: str
) -> None:
    theirs, ours = ("dog", "TR", "AR"), ("AR", "MR", "PR", "TR")
    there, here = stock({**tiny_description, "nc": 3}, 0).state_dict(), stock(tiny_description, 1)
    before = {key: tensor.clone() for key, tensor in there.items()}
    with caplog.at_level("INFO", logger="echo"):
        adapted = with_classes(here, there, theirs, ours, Path("a.pt"))
    assert "a.pt: of its 3 classes carry over: AR, TR; start fresh: MR, PR" in caplog.text
    fresh = here.state_dict()
    for level in range(3):
        key = f"model.24.m.{level}.{name}"
        mine, old, new = (state[key].unflatten(0, (3, -1)) for state in (adapted, there, fresh))
        assert torch.equal(mine[:, :5], old[:, :5])  # box and objectness
        assert torch.equal(mine[:, 5], old[:, 7]) and torch.equal(mine[:, 8], old[:, 6])  # AR, TR
        assert torch.equal(mine[:, 6:8], new[:, 6:8])  # MR, PR
    assert all(torch.equal(there[key], before[key]) for key in there)
    assert all(adapted[key] is there[key] for key in there if ".24.m." not in key)


def test_classes_that_share_no_name_stand_in_each_others_place_where_there_are_as_many(
    tiny_description: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    there, here = stock(tiny_description, 0).state_dict(), stock(tiny_description, 1)
    with caplog.at_level("INFO", logger="echo"):
        assert with_classes(here, there, ("a", "b", "c", "d"), NAMES, Path("a.pt")).items() == there.items()
        assert "classes a, b, c, d stand for AR, MR, PR, TR" in caplog.text
        one = stock({**tiny_description, "nc": 1}, 0).state_dict()
        adapted = with_classes(here, one, ("a",), NAMES, Path("a.pt"))
        assert "carry over: none; start fresh: AR, MR, PR, TR" in caplog.text
    for level in range(3):
        assert torch.equal(rows(adapted, level)[:, :5], rows(one, level)[:, :5])
        assert torch.equal(rows(adapted, level)[:, 5:], rows(here.state_dict(), level)[:, 5:])
    caplog.clear()
    assert with_classes(here, there, NAMES, NAMES, Path("a.pt")).items() == there.items() and not caplog.text


def test_a_training_starts_from_yolov5s_own_checkpoint(tmp_path: Path, tiny_description: dict[str, Any]) -> None:
    """The joint network, at a learning rate of 0: what was not fresh is what was in the file."""
    there = stock({**tiny_description, "nc": 2, "depth_multiple": 0.33}, 0)
    old = pickled(tmp_path / "old.pt", there, tiny_description, ("TR", "dog"))
    hyp = {**load_yaml(ROOT / "hyp/joint_training_rules.yaml"), "lr0": 0.0, "warmup_bias_lr": 0.0}
    (tmp_path / "still.yaml").write_text("\n".join(f"{key}: {str(value).lower()}" for key, value in hyp.items()))
    common = ("--data", phantom_yaml(tmp_path), "--weights", old, "--project", tmp_path / "runs", "--noplots",
              "--noautoanchor", "--img", "64", "--batch", "8", "--epochs", "1", "--bootstrap", "0",
              "--hyp", tmp_path / "still.yaml")  # fmt: skip
    succeed("train.py", *common, "--cfg", tiny_cfg(tmp_path, "models/yolov5s.yaml"))
    state = checkpoint.read(tmp_path / "runs/exp/weights/last.pt").part("detector")
    for name, tensor in there.half().float().state_dict().items():
        if not any(part in name for part in ("running", "num_batches", ".24.m.")):
            torch.testing.assert_close(state[name], tensor, rtol=0, atol=1e-6, msg=name)
    for level in range(3):
        new, old_rows = rows(state, level), rows(there.state_dict(), level)
        torch.testing.assert_close(new[:, :5], old_rows[:, :5])
        torch.testing.assert_close(new[:, 8], old_rows[:, 5])  # TR


def test_what_fits_of_a_forks_network_starts_the_detector_of_two(
    tmp_path: Path, tiny_description: dict[str, Any]
) -> None:
    out = tmp_path / "runs"
    arguments = ("--data", phantom_yaml(tmp_path), "--weights", unknown_layer(tmp_path, tiny_description), "--project",
                 out, "--noplots", "--img", "64", "--batch", "8", "--epochs", "1", "--bootstrap", "0",
                 "--cfg", tiny_cfg(tmp_path, "models/yolov5s.yaml"), "--classifier", "yolov5n")  # fmt: skip
    succeed("train_dual_backbone.py", *arguments)
    assert (out / "exp/weights/last.pt").is_file()
