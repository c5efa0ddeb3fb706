"""train.py --balance as a user types it: each way trains, leaves its files, is resumed, or is refused in one line."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import train
from models.balancers import BALANCERS
from models.surgery import METHODS
from tests.scripts import SMALL, fail, succeed, tiny_cfg
from tests.test_train import fit, same, weights
from utils.balance_log import read_balance
from utils.config import ROOT
from utils.log import InputError
from utils.loggers import read_results

JOINT = [name for name in BALANCERS if not name.startswith("single") and name != "gradnorm_static"]


@pytest.fixture(scope="module")
def gradnorm(place: Path) -> Path:
    """A run as the default hyp file makes it."""
    return fit(place, "gradnorm", epochs=2, noplots=False, interference_every=3)


@pytest.fixture(scope="module")
def single(place: Path) -> Path:
    """A run whose view head is as it was made."""
    return fit(place, "single", balance="single_det")


def test_the_default_is_gradnorm_and_leaves_its_files(gradnorm: Path) -> None:
    hyp = yaml.safe_load((gradnorm / "hyp.yaml").read_text())
    alpha = hyp["gradnorm_alpha"]
    assert hyp["balance"] == "gradnorm"
    assert yaml.safe_load((gradnorm / "opt.yaml").read_text())["balance"] == "gradnorm"
    for name in ("gradnorm_weight_evolution.png", "gradnorm_analysis.png"):
        assert (gradnorm / name).stat().st_size > 10_000
    rows = read_balance(gradnorm / "balance.csv")
    assert [row["step"] for row in rows] == list(range(1, len(rows) + 1))
    assert {row["epoch"] for row in rows} == {0.0, 1.0}
    for row in rows:
        assert row["weight/det"] + row["weight/view"] == pytest.approx(2.0, abs=1e-4)
        assert row["target/det"] / row["rate/det"] ** alpha == pytest.approx(
            row["target/view"] / row["rate/view"] ** alpha, rel=1e-4
        )
        assert -1 <= row["cosine/weight"] <= 1 and -1 <= row["cosine/features"] <= 1
        assert math.isfinite(row["norm/det"]) and row["norm/view"] > 0
    first, moved = rows[0], rows[1]
    assert (first["weight/det"], first["weight/view"]) == (1.0, 1.0)
    assert (moved["weight/view"] < 1) == (first["norm/view"] > first["norm/det"])


def test_the_whole_trunk_is_compared_at_every_third_step_and_by_layer(gradnorm: Path) -> None:
    rows = read_balance(gradnorm / "balance.csv")
    measured = [row["step"] for row in rows if math.isfinite(row["cosine/trunk"])]
    assert measured == [step for step in range(1, len(rows) + 1) if step % 3 == 1]
    assert {f"cosine/{layer}" for layer in range(10)} <= set(rows[0])
    assert all(-1 <= rows[0][f"cosine/{layer}"] <= 1 for layer in range(10))


def test_the_runs_end_tells_what_happened_and_metrics_hold_it(place: Path) -> None:
    cfg = place / "tiny-yolov5n.yaml"
    out = succeed("train.py", *SMALL, cfg, "--data", place / "small.yaml", "--project", place / "runs",
                  "--name", "told", "--noplots", "--bootstrap", "0")  # fmt: skip
    line = next(line for line in out.splitlines() if line.startswith("Balance"))
    rows = read_balance(place / "runs" / "told" / "balance.csv")
    conflicting = sum(row["cosine/weight"] < 0 for row in rows) / len(rows)
    assert f"in {100 * conflicting:.0f}% of {len(rows)} steps" in line
    assert f"{rows[-1]['weight/det']:.3g} for detection" in line
    content = json.loads((place / "runs" / "told" / "metrics.json").read_text())["balance"]
    assert content["balance"] == "gradnorm" and content["steps"] == len(rows)
    assert content["conflicting"] == pytest.approx(conflicting)
    log = read_results(place / "runs" / "told" / "results.csv")
    assert log[-1]["weight/det"] + log[-1]["weight/view"] == pytest.approx(2)


@pytest.mark.parametrize("name", JOINT)
def test_each_way_of_balancing_trains_both_heads_and_records_every_step(place: Path, single: Path, name: str) -> None:
    if name in METHODS:
        pytest.importorskip("torchjd")
    folder = fit(place, name, balance=name, interference_every=0)
    rows = read_balance(folder / "balance.csv")
    assert rows and all(math.isfinite(row["cosine/weight"]) for row in rows)
    assert "cosine/9" not in rows[0]
    assert math.isfinite(rows[0]["target/det"]) == (name == "gradnorm")
    head = "model.25.linear.weight"
    assert not torch.equal(weights(folder)[head], weights(single)[head])


@pytest.mark.parametrize(("name", "idle", "learned"), [("single_det", 25, 24), ("single_view", 24, 25)])
def test_a_single_task_leaves_the_other_head_as_it_was_made(place: Path, name: str, idle: int, learned: int) -> None:
    short, longer = fit(place, name, balance=name), fit(place, name, balance=name, epochs=2)
    before, after = weights(short), weights(longer)
    learned_parts = [k for k in before if "running" not in k and "num_batches" not in k]
    bare = {int(k.split(".")[1]) for k in learned_parts if not torch.equal(before[k], after[k])}
    assert learned in bare and 0 in bare and idle not in bare
    row = read_balance(longer / "balance.csv")[-1]
    assert math.isnan(row["cosine/weight"])
    assert math.isnan(row["norm/view"]) == (name == "single_det")


def test_the_detached_views_gradient_changes_nothing_in_the_trunk(place: Path) -> None:
    """The view's weight then matters to the view head alone."""
    hyp = place / "loud.yaml"
    quiet = fit(place, "quiet", balance="detached", hyp=str(_hyp(place / "quiet.yaml", classification_weight=0.01)))
    loud = fit(place, "loud", balance="detached", hyp=str(_hyp(hyp, classification_weight=0.02)))
    after = weights(loud)
    for name, tensor in weights(quiet).items():
        if name.startswith("model.25.") and name.endswith("weight"):
            assert not torch.equal(tensor, after[name]), name
        elif not name.startswith("model.25."):
            assert torch.equal(tensor, after[name]), name


def _hyp(path: Path, **keys: Any) -> Path:
    """The joint hyp file with other values; clipping off, since it would tie the tasks together by their norm."""
    values = yaml.safe_load((ROOT / "hyp" / "joint_training_rules.yaml").read_text())
    path.write_text(yaml.safe_dump({**values, "clip_grad_norm": 0.0, **keys}))
    return path


def test_measuring_the_trunk_changes_no_weight(place: Path) -> None:
    assert same(fit(place, "often", interference_every=1), fit(place, "never", interference_every=0))


def test_gradnorm_static_keeps_the_mean_weights_of_a_run(place: Path, gradnorm: Path) -> None:
    rows = read_balance(gradnorm / "balance.csv")
    mean = sum(row["weight/det"] for row in rows) / len(rows)
    for source in (gradnorm, gradnorm / "balance.csv"):
        folder = fit(place, "kept", balance="gradnorm_static", balance_from=str(source))
        kept = read_balance(folder / "balance.csv")
        assert all(row["weight/det"] == pytest.approx(mean, rel=1e-4) for row in kept)
        assert kept[0]["weight/det"] + kept[0]["weight/view"] == pytest.approx(2, rel=1e-5)


@pytest.mark.parametrize("name", ["gradnorm", "uncertainty", "dwa", "gradnorm_static"])
def test_a_resumed_run_ends_as_an_uninterrupted_one_with_the_same_record(
    place: Path, gradnorm: Path, name: str, tmp_path: Path
) -> None:
    keywords: dict[str, Any] = {"balance": name, "epochs": 3, "save_period": 1, "project": str(tmp_path)}
    if name == "gradnorm_static":
        copied = tmp_path / "source.csv"
        copied.write_bytes((gradnorm / "balance.csv").read_bytes())
        keywords["balance_from"] = str(copied)
    whole, cut = fit(place, "whole", **keywords), fit(place, "cut", **keywords)
    if name == "gradnorm_static":
        copied.unlink()  # a resumed run needs it no more
    last = cut / "weights" / "last.pt"
    last.write_bytes((cut / "weights" / "epoch1.pt").read_bytes())
    assert train.run(resume=str(last)) == cut
    assert same(whole, cut)
    assert (cut / "balance.csv").read_bytes() == (whole / "balance.csv").read_bytes()


def test_the_figures_of_another_balancer_do_not_bear_gradnorms_name(place: Path) -> None:
    folder = fit(place, "static", balance="static", noplots=False)
    assert (folder / "balance_weight_evolution.png").exists() and (folder / "balance_analysis.png").exists()
    assert not list(folder.glob("gradnorm_*"))


def test_a_detector_alone_has_nothing_to_balance(place: Path) -> None:
    folder = fit(place, "alone", hyp="detection_only.yaml")
    assert not (folder / "balance.csv").exists()
    assert "balance" not in json.loads((folder / "metrics.json").read_text())


@pytest.mark.parametrize(
    ("keywords", "words"),
    [
        ({"balance": "gradnorm_static"}, "--balance gradnorm_static needs --balance-from RUN"),
        ({"balance": "static", "balance_from": "x"}, "got balance static and --balance-from 'x'"),
        ({"balance": "gradnorm_static", "balance_from": "no/such/run"}, "no/such/run: expected the balance.csv"),
        (
            {"balance": "gradnorm", "freeze": [10]},
            "but model.9.cv2.conv.weight is frozen; take --balance static",
        ),
        ({"balance": "pcgrad", "freeze": [10]}, "pcgrad combines gradients in shared layers, but none is trained"),
        ({"balance": "single_det", "freeze": [25]}, "balance: single_det: expected some layer left to train"),
        (
            {"balance": "equal", "hyp": "detection_only.yaml"},
            "balance equal: expected static with detection_only.yaml, where classification_enabled",
        ),
        ({"interference_every": -1}, "--interference-every: expected at least 0, got -1"),
    ],
    ids=str,
)
def test_what_cannot_be_balanced_is_refused_before_there_is_a_folder(
    place: Path, keywords: dict[str, Any], words: str
) -> None:
    with pytest.raises(InputError, match=words.replace(".", r"\.")):
        fit(place, "refused", **keywords)
    assert not (place / "runs" / "refused").exists()


def test_hyp_values_out_of_range_are_refused_in_one_line(place: Path) -> None:
    hyp = _hyp(place / "update.yaml", gradnorm_update="newton")
    line = fail("train.py", *SMALL, place / "tiny-yolov5n.yaml", "--data", place / "small.yaml", "--hyp", hyp,
                "--project", place / "runs", "--name", "refused")  # fmt: skip
    assert "update.yaml: gradnorm_update: expected one of gradient, direct, got 'newton'" in line


def test_the_first_losses_may_be_those_of_chance(place: Path) -> None:
    folder = fit(place, "chance", hyp=str(_hyp(place / "chance.yaml", gradnorm_view_chance=True)))
    rows = read_balance(folder / "balance.csv")
    assert all(row["initial_loss/view"] == pytest.approx(math.log(3), rel=1e-5) for row in rows)


def test_the_layer_that_the_view_head_reads_may_be_17(place: Path) -> None:
    cfg = tiny_cfg(place, "models/hub/yolov5s-view-p3.yaml")
    rows = read_balance(fit(place, "p3", cfg=str(cfg)) / "balance.csv")
    assert {f"cosine/{layer}" for layer in (0, 10, 17)} <= set(rows[0]) and "cosine/18" not in rows[0]
    with (place / "runs" / "p3" / "balance.csv").open() as file:
        assert len(next(csv.reader(file))) == len(rows[0])
