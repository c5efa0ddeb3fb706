"""benchmarks/recipe.py: candidates against a base on folds of the train part, no training made twice, and the table."""

from __future__ import annotations

import csv
import signal
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import recipe
from benchmarks.candidates import BASE, Candidate, Settings, base_settings, read_candidates, settled
from benchmarks.recipe_table import FIGURES, Runs, compared, in_common, notes, print_table
from models.yolo import Network
from tests import simulated
from tests.scripts import phantom_yaml, tiny_cfg
from utils import outcomes
from utils.config import ROOT, load_dataset_config
from utils.crossval import with_confidence_of_the_others
from utils.flags import parse
from utils.intervals import drawn_figures, interval
from utils.log import InputError, Interrupted
from utils.outcomes import Outcomes
from utils.split_files import list_images
from utils.trainer import Training

TABLE = ROOT / "benchmarks" / "recipe.yaml"


def search(folder: Path, *arguments: str, runs: str = "runs") -> list[dict[str, str]]:
    """The rows of the csv after a search on small frames."""
    data = folder / "small.yaml" if (folder / "small.yaml").is_file() else phantom_yaml(folder, patients=9)
    common = ["--data", str(data), "--cfg", str(tiny_cfg(folder)), "--img", "64", "--bootstrap", "50", "--workers", "0"]
    project = ["--project", str(folder / runs), "--threads", "1"]
    recipe.main(parse(recipe.FLAGS, "", [*common, *project, *arguments]))
    with (folder / runs / "recipe.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def key(row: dict[str, str]) -> tuple[str, str, str]:
    return row["candidate"], row["fold"], row["seed"]


def test_each_finished_training_is_a_row_and_is_not_made_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = ("--epochs", "1", "--only-folds", "1", "3")
    rows = search(tmp_path, *one, "--candidates", "view-dropout")
    assert [key(row) for row in rows] == [(n, f, "0") for n in ("base", "view-dropout") for f in "13"]
    assert all(row[name] for row in rows for name in (*FIGURES, "minutes")) and not rows[0]["changes"]
    assert rows[2]["changes"] == "hyp.view_dropout=0.5" and rows[2]["settings"] != rows[0]["settings"]
    again = search(tmp_path, *one, "--candidates", "detection-only", "--only-folds", "1")
    assert again[:4] == rows and [key(row) for row in again[4:]] == [("detection-only", "1", "0")]
    assert not again[4]["view_balanced_accuracy"]
    capsys.readouterr()
    assert search(tmp_path, "--epochs", "1", "--show") == again
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [line[:3] for line in lines if line and line[0] in ("base", "view-dropout", "detection-only")] == [
        *([name, folds, "0"] for _ in range(2) for name, folds in (
            ("base", "1,3"), ("view-dropout", "1,3"), ("detection-only", "1")
        )),
        *([name, "1,3", "0"] for name in ("base", "view-dropout")),
    ]  # fmt: skip
    search(tmp_path, "--epochs", "2", "--show")  # another base: none of the rows is of it
    assert "No training of the base" in (shown := capsys.readouterr().out) and "5 rows are left out" in shown
    assert not list((tmp_path / "runs").glob("*/weights"))

    config = load_dataset_config(tmp_path / "small.yaml")
    parts = [load_dataset_config(path) for path in sorted((tmp_path / "runs").glob("folds3-*/fold?.yaml"))]
    held = [list_images(part, "val") for part in parts]
    assert sorted(path for files in held for path in files) == list_images(config, "train") and len(held) == 3
    for part, files in zip(parts, held, strict=True):
        learned = list_images(part, "train")
        assert {*learned, *files} == {*list_images(config, "train")}
        assert not {path.name[:3] for path in learned} & {path.name[:3] for path in files}  # patients


def test_a_training_that_was_cut_off_goes_on_and_ends_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ("--epochs", "2", "--only-folds", "2", "--candidates", "base")
    whole = search(tmp_path, *arguments, runs="whole")
    made: list[None] = []
    step = Training.step

    def once(training: Training) -> None:
        if made:
            raise Interrupted(signal.SIGTERM)
        made.append(None)
        step(training)

    monkeypatch.setattr(Training, "step", once)
    with pytest.raises(Interrupted, match="the same command goes on"):
        search(tmp_path, *arguments)
    monkeypatch.undo()
    (run,) = (tmp_path / "runs").glob("base-fold2-*")
    assert (run / "weights" / "last.pt").is_file() and not (tmp_path / "runs" / "recipe.csv").exists()
    begun = (run / "results.csv").read_text()

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(recipe, "append_row", killed)  # after the last epoch, before there is a row
    with pytest.raises(KeyboardInterrupt):
        search(tmp_path, *arguments)
    monkeypatch.undo()
    assert (run / "results.csv").read_text().startswith(begun)
    monkeypatch.setattr(Training, "step", killed)  # nothing is trained any more
    (row,) = search(tmp_path, *arguments)
    assert {**row, "minutes": ""} == {**whole[0], "minutes": ""}


def test_what_cannot_go_on_is_begun_anew(tmp_path: Path) -> None:
    last = tmp_path / "weights" / "last.pt"
    assert recipe.cut_off(last, tmp_path) is None
    last.parent.mkdir()
    last.write_bytes(b"half of a checkpoint")
    assert recipe.cut_off(last, tmp_path) is None


def test_a_failure_of_a_candidate_does_not_end_the_search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[str] = []

    def trained(job: recipe.Job, *_: Any) -> dict[str, Any]:
        tried.append(job.candidate.name)
        if job.candidate.name in failing:
            raise InputError("losses are no numbers")
        return dict.fromkeys(FIGURES, 0.5) | {"minutes": 1.0}

    monkeypatch.setattr(recipe, "trained", trained)
    names, failing = ("--candidates", "adamw", "static", "--folds", "2", "--only-folds", "1"), ["adamw"]
    with pytest.raises(InputError, match=r"^1 of 3 trainings failed.*: adamw, fold 1, seed 0: losses are no numbers$"):
        search(tmp_path, *names)
    assert tried == ["base", "adamw", "static"]
    failing.clear()
    assert [key(row)[0] for row in search(tmp_path, *names)] == ["base", "static", "adamw"]
    failing = ["base"]
    with pytest.raises(InputError, match=r"^losses are no numbers$"):
        search(tmp_path, *names, "--seeds", "1")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--candidates", "base", "magic"), "--candidates magic: expected some of base, augment"),
        (("--only-folds", "4"), "--only-folds: expected numbers from 1 to 3, got 4"),
        (("--folds", "50"), "--folds: expected 2 to .*, the number of groups"),
        (("--seeds", "-1"), "--seeds: expected numbers of at least 0, got -1"),
        (("--data", "gone.yaml"), "--data 'gone.yaml': no such file"),
        (("--table", "gone.yaml"), "--table 'gone.yaml': no such file"),
        (("--hyp", "hyp/detection_only.yaml"), "balance detached: expected static with .*recipe.yaml: detached"),
    ],
    ids=str,
)
def test_faults_are_found_before_the_first_training(tmp_path: Path, arguments: tuple[str, ...], words: str) -> None:
    with pytest.raises(InputError, match=words):
        search(tmp_path, *arguments)
    assert not list(tmp_path.glob("runs/*"))


def base(**flags: Any) -> Settings:
    return base_settings("models/yolov5n.yaml", "hyp/joint_training_rules.yaml", **{"imgsz": 224, "epochs": 15} | flags)


def test_a_flag_that_a_hyp_file_says_too_takes_effect() -> None:
    by_flag = settled(Candidate("linear", "", flags={"cos-lr": False}), base(), TABLE)
    assert by_flag == settled(Candidate("linear", "", hyp={"cos_lr": False}), base(), TABLE)
    assert by_flag.hyp["cos_lr"] is False and base().hyp["cos_lr"] is True
    with pytest.raises(InputError, match="balance"):
        settled(Candidate("wrong", "", flags={"balance": "nothing"}), base(), TABLE)


def test_rows_are_of_the_data_as_they_were(tmp_path: Path) -> None:
    data = phantom_yaml(tmp_path, patients=9)
    cfg = tiny_cfg(tmp_path)

    def folds(path: Path) -> tuple[str, Path]:
        arguments = ["--data", str(path), "--cfg", str(cfg), "--img", "64", "--project", str(tmp_path / "runs")]
        jobs, digests = recipe.planned(parse(recipe.FLAGS, "", arguments))
        return digests["base"], jobs[0].data

    first, place = folds(data)
    assert folds(data) == (first, place)
    text = data.read_text()
    data.write_text(text + "clip: '^(p\\d+-c\\d+)-'\n")
    other, its_place = folds(data)
    assert other != first and "clip" in its_place.read_text()
    data.write_text(text)
    frame = next((load_dataset_config(data).root / "images" / "train").iterdir())
    frame.write_bytes(frame.read_bytes() + b"more")
    assert folds(data)[0] != first


def test_every_candidate_of_the_table_differs_from_every_other() -> None:
    table = read_candidates(TABLE)
    found = {name: settled(candidate, base(), TABLE) for name, candidate in table.items()}
    assert next(iter(table)) == BASE and found[BASE] == base()
    digests = {one.digest() for one in found.values()}
    assert len(digests) == len(table) and found[BASE].digest() != found[BASE].digest("other frames")
    assert len({candidate.why for candidate in table.values()}) == len(table)
    assert found["largest"].flags == {"imgsz": 448, "epochs": 15, "noval": True}
    assert found["batch-half"].flags["batch_size"] == 8 and found["batch-half"].hyp["nominal_batch"] == 8
    assert found["adamw"].hyp["lr0"] == 0.001 and found["wide"].network["width_multiple"] == 0.5
    assert "noval" not in found["image-weights"].flags
    network = Network(found["cbam-none"].network)
    assert not any("cbam" in name for name, _ in network.named_modules())
    assert Network(found["view-reads-17"].network).sources[-1] == (17,)
    both = found["augment-anchors"].hyp
    assert both == {**base().hyp, "translate": 0.05, "scale": 0.1, "degrees": 5.0, "hsv_v": 0.15, "anchors": 3.0}


def test_a_digest_knows_what_is_at_its_default() -> None:
    one = base()
    assert replace(one, hyp={k: v for k, v in one.hyp.items() if k != "gradnorm_view_chance"}).digest() == one.digest()
    assert replace(one, hyp={**one.hyp, "gradnorm_view_chance": True}).digest() != one.digest()
    assert replace(one, hyp={**one.hyp, "seed": 7}).digest() == one.digest()  # has a column of its own
    assert base(batch_size=16).digest() == one.digest() != base(imgsz=256).digest()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: {why: so, colour: 1}", "a: expected why, and any of hyp, flags, network, all of, got"),
        ("a: {hyp: {lr0: 1}}", "a: why: expected the reason for trying it, got None"),
        ("a/b: {why: so}", "expected names of letters, digits"),
        ("a: {why: so, hyp: 3}", "a: expected a mapping in each of hyp, flags, network"),
        ("a: {why: so, all of: [b]}", "a: all of: expected names of candidates above it, got 'b'"),
        ("a: {why: so, all of: [{b: 1}]}", "a: all of: expected names of candidates above it, got {'b': 1}"),
        ("a: {why: so, hyp: {lrate: 1}}", "a: unknown key 'lrate'"),
        ("a: {why: so, hyp: {lr0: fast}}", "a: lr0: expected a number, got 'fast'"),
        ("a: {why: so, hyp: {balance: x2}}", "a: x2: expected a number in the base to multiply, got 'gradnorm'"),
        ("a: {why: so, flags: {epoch: 3}}", "a: flags: epoch: unknown option 'epoch'"),
        ("a: {why: so, flags: {epochs: many}}", "a: flags: epochs: option 'epochs': expected int, got 'many'"),
        ("a: {why: so, flags: {seed: 3}}", "a: flags: seed: expected another flag"),
        ("a: {why: so, network: {width: 2}}", "a: network description: unknown keys"),
        ("a: {why: so, network: {rows: {26: []}}}", "a: network: rows: expected rows by index, 0 to 25, got {26: "),
        ("a: {why: so, network: {rows: 3}}", "a: network: rows: expected rows by index, 0 to 25, got 3"),
        ("a: {why: so, hyp: {lr0: 1}}\nb: {why: so, all of: [a], hyp: {lr0: 2}}", "b: hyp.lr0: expected one value"),
        ("base: {why: so, hyp: {lr0: 1}}", "expected a candidate 'base' that changes nothing"),
    ],
)
def test_faults_of_a_table_name_the_candidate(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "table.yaml"
    path.write_text(text if text.startswith("base") else f"base: {{why: so}}\n{text}\n")
    with pytest.raises(InputError, match=words):
        for candidate in read_candidates(path).values():
            settled(candidate, base(), path)


def parts_of(folder: Path, name: str, seeds: Sequence[int], skill: float, folds: int = 2) -> Runs:
    """Saved outcomes of folds of four patients each; all candidates meet the same frames."""
    runs = {}
    for seed in seeds:
        for fold in range(1, folds + 1):
            made = simulated.outcomes(seed * 10 + fold, patients=4, skill=[skill] * 4)
            named = {
                column: tuple(f"fold{fold}-{word}" for word in getattr(made, column))
                for column in ("files", "patients", "clips")
            }
            path = folder / f"{name}-{fold}-{seed}.npz"
            outcomes.save(path, replace(made, **named))  # type: ignore[arg-type]
            runs[fold, seed] = path
    return runs


def test_a_candidate_is_compared_with_the_base_on_the_same_folds_and_seeds(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = {
        "base": parts_of(tmp_path, "base", (0, 1, 2), 0.3),
        "good": parts_of(tmp_path, "good", (0, 1), 0.9),
        "same": parts_of(tmp_path, "same", (2,), 0.3),
        "part": parts_of(tmp_path, "part", (1,), 0.3, folds=1),
        "alone": parts_of(tmp_path, "alone", (7,), 0.3),
    }
    rows = {row.name: row for row in compared(runs, draws=100)}
    assert list(rows) == ["base", "good", "same", "part"]  # the last shares no seed with the base
    assert [(row.folds, row.seeds, row.units) for row in rows.values()] == [
        ((1, 2), (0, 1, 2), 8), ((1, 2), (0, 1), 8), ((1, 2), (2,), 8), ((1,), (1,), 4),
    ]  # fmt: skip
    assert not rows["base"].differences and rows["base"].values["mAP50"].spread > 0

    def pooled(name: str, seed: int) -> Outcomes:
        return outcomes.pooled(
            with_confidence_of_the_others([outcomes.load(runs[name][fold, seed]) for fold in (1, 2)])
        )

    found = rows["good"].differences["view_balanced_accuracy"]
    drawn = np.mean(
        [
            drawn_figures(pooled("good", seed), 100, 0)["view", "balanced_accuracy"]
            - drawn_figures(pooled("base", seed), 100, 0)["view", "balanced_accuracy"]
            for seed in (0, 1)
        ],
        0,
    )
    assert found.patients == pytest.approx(interval(drawn, 8)) and found.pairs == 2 and found.value > 0.2
    same = rows["same"].differences["mAP50"]
    assert same.value == 0 and same.patients == (0, 0) and same.seeds is None and not same.beyond_noise
    assert rows["part"].differences["mAP50"].patients is None  # too few patients to tell

    print_table(list(rows.values()), dict.fromkeys(rows, 2.5), 100)
    shown = capsys.readouterr().out
    line = next(line.split() for line in shown.splitlines() if line.startswith("good"))
    assert line[:4] == ["good", "1,2", "0,1", "2.5"] and line[4] == f"{rows['good'].values['mAP50'].value:.3f}"
    assert "8 patients, 100 draws" in shown and "With fewer than 6 patients" in shown


def test_of_what_two_have_in_common_every_seed_has_every_fold() -> None:
    assert in_common([]) == ((), ())
    assert in_common([(1, 0), (2, 0), (3, 0), (1, 1)]) == ((1, 2, 3), (0,))
    assert in_common([(1, 0), (2, 0), (1, 1), (2, 1), (1, 2)]) == ((1, 2), (0, 1))
    assert in_common([(1, 0), (1, 1), (1, 2), (2, 2)]) == ((1,), (0, 1, 2))
    overlapping = [(1, 0), (2, 0), (3, 0), (2, 1), (3, 1), (4, 1)]  # no seed has just what both have
    assert in_common(overlapping) == ((2, 3), (0, 1))


def test_nothing_is_said_of_candidates_without_a_base(tmp_path: Path) -> None:
    assert compared({"good": parts_of(tmp_path, "good", (0,), 0.9)}, draws=20) == []
    assert notes([], 20) == ["No training of the base is finished yet, with which candidates are compared."]


def test_all_trainings_start_from_the_weights_that_are_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[str] = []

    def stop(**keywords: Any) -> None:
        started.append(keywords["weights"])
        raise InputError("far enough")

    monkeypatch.setattr(recipe.train, "run", stop)
    names = []
    for content in (None, b"one", b"another"):
        (tmp_path / "start.pt").write_bytes(content or b"")
        given = ["--weights", str(tmp_path / "start.pt")] if content else []
        with pytest.raises(InputError, match="far enough"):
            search(tmp_path, "--epochs", "1", "--candidates", BASE, *given)
        names.append({path.name for path in (tmp_path / "runs").glob("base-*-hyp.yaml")})
    assert started == ["", *[str((tmp_path / "start.pt").resolve())] * 2]
    assert len(names[0]) == 1 and len(names[1]) == 2 and len(names[2]) == 3  # settings of their own each
    with pytest.raises(InputError, match=r"--weights 'none\.pt': no such file"):
        search(tmp_path, "--weights", "none.pt")
