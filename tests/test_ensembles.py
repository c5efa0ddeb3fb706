"""utils.ensembles: several checkpoints in val.py, detect.py and export.py, and as a file of their own."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import detect
import export
import val
from models.ensemble import Ensemble
from tests.exported import exported, lively, saved
from tests.scripts import fail, phantom_yaml, succeed
from tests.test_checkpoint import content, network
from utils import checkpoint
from utils.agreement import sample
from utils.archive_run import digest
from utils.config import ROOT
from utils.devices import select_compute
from utils.ensembles import open_all, together
from utils.leakage import Fingerprint
from utils.log import InputError
from utils.runtimes import open_weights, start
from utils.starting import read_start


def member(path: Path, seed: int = 1, **changes: Any) -> Path:
    """A checkpoint of a network with outputs that depend on the image, unlike that of ``saved("joint")``."""
    trained = network()
    lively(trained)
    with torch.no_grad():
        for parameter in trained.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(seed)), alpha=0.01)
    checkpoint.save(path, {**content(trained), "view_names": ["PLAX", "PSAX", "A4C"], **changes})
    return path


@pytest.fixture
def two(tmp_path: Path) -> list[str]:
    return [str(saved("joint")), str(member(tmp_path / "b.pt"))]


def validated(weights: Sequence[str] | str, folder: Path, **options: Any) -> dict[str, Any]:
    return val.run(
        weights=weights, data=str(phantom_yaml(folder)), project=str(folder / "val"), device="cpu", amp=False,
        workers=0, bootstrap=0, **options,
    )  # fmt: skip


def test_the_file_of_an_ensemble_says_in_val_what_its_members_say_together(tmp_path: Path, two: list[str]) -> None:
    out = tmp_path / "two.pt"
    said = succeed("utils.ensembles", "--weights", *two, "--out", out)
    assert said.startswith(f"{out}: 2 networks, ")
    of_two, of_file, of_one = (validated(weights, tmp_path) for weights in (two, str(out), two[0]))
    assert of_two["settings"]["weights"] == " + ".join(two)
    for key in ("map50", "map", "precision", "recall", "f1", "view"):
        assert of_two[key] == of_file[key]
    assert of_two["view"] != of_one["view"]
    assert "loss" in of_one and "loss" not in of_two  # there are no maps of which it could be


def test_figures_are_of_the_mean(tmp_path: Path, two: list[str]) -> None:
    compute = select_compute("cpu", False)
    images = sample((2, 64, 64))
    with torch.inference_mode():
        mean = start(open_all([Path(path) for path in two]), compute)(images)
        members = [start(open_weights(Path(path)), compute)(images) for path in two]
    boxes = [output.boxes for output in (mean, *members) if output.boxes is not None]
    scores = [rows[..., 4:5] * rows[..., 5:] for rows in boxes]
    torch.testing.assert_close(scores[0], (scores[1] + scores[2]) / 2)
    assert not torch.allclose(scores[1], scores[2], atol=1e-2)


def test_detect_takes_several_and_a_report_names_them_all(tmp_path: Path, two: list[str]) -> None:
    (tmp_path / "frames").mkdir()
    picture = tmp_path / "frames" / "a.jpg"
    phantom = phantom_yaml(tmp_path)
    validated(two, tmp_path)  # makes the phantom's frames
    picture.write_bytes(next((phantom.parent / "phantom").glob("images/*/*")).read_bytes())
    run = detect.run(
        weights=two, source=str(picture.parent), project=str(tmp_path / "runs"), device="cpu", save_study=True,
        conf_thres=0.01, keep_identifiers=True,
    )  # fmt: skip
    weights = json.loads((run / "study.json").read_text())["weights"]
    assert weights["file"] == "best.pt + b.pt"
    own = [digest(Path(path)) for path in two]
    assert weights["members"] == [{"file": "best.pt", "sha256": own[0]}, {"file": "b.pt", "sha256": own[1]}]
    assert weights["sha256"] == hashlib.sha256((own[0] + own[1]).encode()).hexdigest()
    schema = json.loads((ROOT / "docs" / "study-report.schema.json").read_text())["properties"]["weights"]
    assert set(weights) <= set(schema["properties"])


def test_an_ensembles_file_can_be_exported(tmp_path: Path, two: list[str], caplog: pytest.LogCaptureFixture) -> None:
    out = tmp_path / "two.pt"
    checkpoint.save(out, together([open_weights(Path(path)) for path in two]).content)
    written = export.run(weights=str(out), include=["torchscript", "onnx"], imgsz=[64], device="cpu")
    assert len(written) == 2 and "WARNING" not in caplog.text
    images = sample((1, 64, 64))
    compute = select_compute("cpu", False)
    with torch.inference_mode():
        expected = start(open_weights(out), compute)(images)
        for path in written:
            got = start(open_weights(Path(path)), compute)(images)
            torch.testing.assert_close(got.boxes, expected.boxes, atol=2e-3, rtol=1e-3)
            assert got.view is not None and expected.view is not None
            torch.testing.assert_close(got.view.softmax(1), expected.view.softmax(1), atol=1e-4, rtol=1e-3)


def test_it_knows_what_any_member_has_seen_and_carries_no_members_thresholds(tmp_path: Path) -> None:
    hashes = torch.full((3, 72), 255, dtype=torch.uint8)
    told = {"hash": "dhash_vertical 24", "patients": ["cd", "ef"], "hashes": hashes}
    first, second = open_weights(saved("joint")), open_weights(member(tmp_path / "b.pt", trained_on=told))
    found = together([first, second])
    assert "operating" in first.content and "operating" not in found.content
    seen = Fingerprint.from_content(found.content["trained_on"], found.path)
    assert seen.patients == ("ab", "cd", "ef") and len(seen.hashes) == 2 + 3
    assert "untold" not in found.content


def test_what_a_member_has_seen_is_told_although_another_does_not_say(tmp_path: Path, two: list[str]) -> None:
    found = open_all([Path(path) for path in two])
    assert found.content["trained_on"]["patients"] == ["ab", "cd"]
    warnings = validated(two, tmp_path)["warnings"]
    assert "b.pt does not say what it was trained on" in warnings
    silent = [open_weights(member(tmp_path / name)) for name in ("c.pt", "d.pt")]
    assert "trained_on" not in together(silent).content


def test_members_of_other_sizes_and_windows_give_way_to_the_first_and_that_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    larger = content(network())
    hyp = {**larger["hyp"], "clip_window": 3}
    found = together([open_weights(saved("joint")), open_weights(member(tmp_path / "b.pt", image_size=96, hyp=hyp))])
    assert found.image_size == 64 and found.hyp.clip_window == 0
    assert "image size of the networks: 64, 96; the first counts unless --imgsz says another" in caplog.text
    assert "clip_window of the networks: 0, 3; the first counts unless --clip-window says another" in caplog.text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"names": ["a", "b", "c", "d"]}, "names: expected ['AR', 'MR', 'PR', 'TR'], as "),
        ({"view_names": ["A4C", "PLAX", "PSAX"]}, "view_names: expected ['PLAX', 'PSAX', 'A4C'], as "),
        ({"rect": True}, "rect: expected False, as "),
        ({"permuted_labels": 1}, "permuted_labels: expected [None], as "),
    ],
)
def test_networks_that_want_other_frames_or_name_other_classes_are_refused(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    other = member(tmp_path / "b.pt", **changes)
    with pytest.raises(InputError, match=re.escape(f"{other}: {message}")):
        open_all([saved("joint"), other])


@pytest.mark.parametrize("balance", ["single_det", "single_view"])
def test_a_network_with_an_untrained_head_is_refused(tmp_path: Path, balance: str) -> None:
    other = member(tmp_path / "b.pt", hyp={**content(network())["hyp"], "balance": balance})
    with pytest.raises(InputError, match=rf"b\.pt: expected a network with trained heads, got .*{balance}"):
        open_all([saved("joint"), other])


def test_detectors_pairs_and_joint_networks_go_together_and_yolov5s_own_with_those_padded_alike(golden: Path) -> None:
    found = open_all([saved("detector"), saved("dual"), saved("joint")])
    assert found.view_names == ("PLAX", "PSAX", "A4C")
    stock = open_weights(golden / "yolov5_tiny.pt")
    with pytest.raises(InputError, match=r"yolov5_tiny\.pt: (names|rect): expected"):
        together([open_weights(saved("joint")), stock])
    assert isinstance(together([stock, replace(stock, path=Path("b.pt"))]).build(), Ensemble)


def test_the_same_file_twice_and_too_many_are_refused(tmp_path: Path) -> None:
    first = saved("joint")
    with pytest.raises(InputError, match=r"each once, got .*best\.pt twice"):
        open_all([first, first.parent / ".." / first.parent.name / first.name])
    found = open_weights(first)
    with pytest.raises(InputError, match="at most 32 networks, each once, got 33 networks"):
        together([replace(found, path=tmp_path / f"{number}.pt") for number in range(33)])


def test_no_training_starts_from_an_ensemble(tmp_path: Path, two: list[str]) -> None:
    out = tmp_path / "two.pt"
    checkpoint.save(out, together([open_weights(Path(path)) for path in two]).content)
    with pytest.raises(InputError, match=r"two\.pt: expected the checkpoint of one training, got an ensemble"):
        read_start(out)


def test_other_filters_are_refused(tmp_path: Path) -> None:
    hyp = {**content(network())["hyp"], "gamma": 2.0}
    with pytest.raises(InputError, match=r"b\.pt: filters: expected .*, got .*gamma=2"):
        open_all([saved("joint"), member(tmp_path / "b.pt", hyp=hyp)])


def test_exports_and_ensembles_are_no_members(tmp_path: Path, two: list[str]) -> None:
    with pytest.raises(InputError, match="expected the checkpoint of one training, got an export"):
        open_all([saved("joint"), exported("torchscript")])
    out = tmp_path / "two.pt"
    checkpoint.save(out, together([open_weights(Path(path)) for path in two]).content)
    with pytest.raises(InputError, match=r"two\.pt: .*expected the checkpoint of one training, got an ensemble"):
        open_all([out, saved("joint")])


def test_the_command_wants_two_and_overwrites_nothing(tmp_path: Path, two: list[str]) -> None:
    there = tmp_path / "there.pt"
    there.write_bytes(b"mine")
    assert "--weights: expected two checkpoints or more, got 1" in fail("utils.ensembles", "--weights", two[0])
    assert "got one that exists" in fail("utils.ensembles", "--weights", *two, "--out", there)
    assert there.read_bytes() == b"mine"
    assert "got suffix '.onnx'" in fail("utils.ensembles", "--weights", *two, "--out", tmp_path / "a.onnx")


def test_where_one_is_expected_the_way_to_make_one_is_said(two: list[str]) -> None:
    with pytest.raises(InputError, match=r"expected one checkpoint, got 2; python -m utils\.ensembles makes one"):
        export.run(weights=two, include=["onnx"])


def test_a_damaged_ensemble_is_refused_in_one_line(tmp_path: Path, two: list[str]) -> None:
    whole = together([open_weights(Path(path)) for path in two]).content
    out = tmp_path / "two.pt"
    endless: dict[str, Any] = {}
    endless["members"] = [endless]
    doubled: dict[str, Any] = {"members": [{}]}
    for _ in range(40):
        doubled = {"members": [doubled] * 2}
    damaged: tuple[Any, ...] = (
        [],
        3,
        [{}],
        [[], None],
        [endless],
        [doubled],
        [whole["description"]["members"][0]] * 33,
    )
    for members in damaged:
        checkpoint.save(out, {**whole, "description": {"members": members}})
        with pytest.raises(InputError, match=r"two\.pt: "):
            open_weights(out).build()  # type: ignore[attr-defined]
    checkpoint.save(out, whole)
    assert isinstance(open_weights(out).build(), Ensemble)  # type: ignore[attr-defined]
