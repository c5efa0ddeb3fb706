"""Odd places: names that are hard to handle, folders that cannot be written, no home, two runs at the same moment."""

from __future__ import annotations

import csv
import ctypes
import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml

from tests.scripts import SMALL, Done, phantom_yaml, run_in_one_process, tiny_cfg
from utils.config import ROOT, load_dataset_config
from utils.dataset import prepare
from utils.files import new_run_folder
from utils.images import read_image

ODD = '心エコー 🫀 it\'s "50%" #1 [a-c] %03d'  # spaces, CJK, emoji, quotes, a comment's, a glob's and a counter's signs
NAMES = ["大動脈弁 AR", "MR/僧帽弁", "[PR] 🫀", "TR #4 50%"]
VIEW_NAMES = ["傍胸骨 長軸", "PSAX $x_1$", "心尖部🫀"]
COPIED = ("models", "utils", "hyp", "data", "*.py")  # of the repository: what the scripts need
QUICK = (*SMALL[:-1], "--epochs", "1", "--threads", "1", "--bootstrap", "10", "--cfg")
CAPABILITIES = (1, 2, 3)  # Linux's DAC_OVERRIDE, DAC_READ_SEARCH, FOWNER: for whom permissions do not count
PR_CAPBSET_READ, PR_CAPBSET_DROP = 23, 24  # Linux's prctl.h


def bound_by_permissions() -> None:
    """In a child, before it starts: make what files permit count for root, too, as for everyone else."""
    if os.geteuid() == 0:
        control = ctypes.CDLL(None, use_errno=True).prctl
        for capability in CAPABILITIES:
            there = control(PR_CAPBSET_READ, capability, 0, 0, 0) == 1
            if there and control(PR_CAPBSET_DROP, capability, 0, 0, 0):
                raise OSError(ctypes.get_errno(), "cannot make permissions count for root")


def without(*names: str) -> dict[str, str]:
    """The environment without some variables, and without those that say where caches go."""
    caches = ("XDG_", "MPLCONFIG", "TORCH_HOME", "TORCHINDUCTOR", "YOLO_")
    return {name: value for name, value in os.environ.items() if name not in names and not name.startswith(caches)}


def permit(folder: Path, files: int, folders: int) -> None:
    """Set the permissions of a folder and of all below it."""
    for path in [*folder.rglob("*"), folder]:
        if not path.is_symlink():
            path.chmod(folders if path.is_dir() else files)


def clip_of(frames: Path, path: Path) -> Path:
    """A short video of a folder's frames."""
    plain = path.with_name("plain.avi")
    video = cv2.VideoWriter(str(plain), cv2.VideoWriter.fourcc(*"MJPG"), 10, (128, 96))
    for frame in sorted(frames.iterdir()):
        video.write(cv2.cvtColor(read_image(frame), cv2.COLOR_RGB2BGR))
    video.release()
    return plain.rename(path)


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Done]:
    """A folder of an odd name in which the main job was done, from another one, with a home that cannot be."""
    folder = tmp_path_factory.mktemp("places") / ODD
    elsewhere = folder / "where the user is"
    elsewhere.mkdir(parents=True)
    made = phantom_yaml(folder, patients=9, frames=1)
    content = {**yaml.safe_load(made.read_text()), "names": NAMES, "view_names": VIEW_NAMES}
    data = folder / "データ [1].yaml"
    data.write_text(yaml.safe_dump(content, allow_unicode=True), encoding="utf-8")
    prepare(load_dataset_config(data))
    frames = folder / "phantom" / "images" / "test"
    first = min(frames.iterdir())
    first.rename(first.with_name(f"p99-{ODD}{first.suffix}"))
    still = frames / f"p99-{ODD}{first.suffix}"
    clip = clip_of(frames, folder / f"{ODD} [2].avi")
    listed = folder / "list #1.txt"
    listed.write_text(f"# a comment\nphantom/images/test/{still.name}\n", encoding="utf-8")
    cfg, runs = tiny_cfg(folder), folder / "runs [x]"
    weights = runs / "実験 #1" / "weights" / "best.pt"
    detect = ("detect.py", "--weights", weights, "--conf-thres", "0.001", "--max-det", "4", "--project", folder)
    done = run_in_one_process(
        [
            ("train.py", *QUICK, cfg, "--data", data, "--project", runs, "--name", "実験 #1"),
            ("val.py", "--weights", weights, "--data", data, "--project", folder / "val", "--save-json", "--save-txt"),
            (*detect, "--source", frames, "--name", "stills", "--save-txt", "--save-view", "--save-csv", "--save-crop"),
            (*detect, "--source", still, "--name", "still"),
            (*detect, "--source", listed, "--name", "listed"),
            (*detect, "--source", clip, "--name", "clip 動画", "--save-csv"),
            ("export.py", "--weights", weights, "--include", "torchscript"),
            (*detect[:2], weights.with_suffix(".torchscript"), *detect[3:], "--source", still, "--name", "exported"),
            ("compare.py", runs / "実験 #1", "--data", data, "--bootstrap", "0", "--project", folder / "compare"),
            ("utils.splits", "--data", data, "--folds", "3", "--out", folder / "folds [3]"),
            ("train.py", *QUICK, cfg, "--data", folder / "folds [3]" / "fold1.yaml", "--project", runs, "--noplots"),
            ("utils.preprocess", "--source", frames, "--out", folder / "filters"),
            ("utils.labels", "--data", data, "--project", folder / "audit"),
        ],
        cwd=elsewhere,
        environment={**without(), "HOME": "/dev/null/nobody"},
    )
    return folder, done


def test_the_main_job_is_done_in_folders_of_odd_names(odd: tuple[Path, Done]) -> None:
    folder, done = odd
    assert done.codes == [0] * 13, done.text[-4000:]
    run = folder / "runs [x]" / "実験 #1"
    frames = sorted((folder / "phantom" / "images" / "test").iterdir())
    assert (run / "results.png").is_file() and (run / "labels.jpg").is_file()
    for name in ("stills", "still", "listed", "exported"):
        pictures = {path.stem for path in (folder / name).iterdir() if path.is_file()} - {"predictions"}
        assert pictures == ({path.stem for path in frames} if name == "stills" else {f"p99-{ODD}"}), name
    drawn = cv2.VideoCapture(str(folder / "clip 動画" / f"{ODD} [2].mp4"))
    assert drawn.get(cv2.CAP_PROP_FRAME_COUNT) == len(frames)


def test_names_of_classes_and_views_in_any_script_are_kept(odd: tuple[Path, Done]) -> None:
    folder, done = odd
    metrics = json.loads((folder / "val" / "exp" / "metrics.json").read_text(encoding="utf-8"))
    assert metrics["per_class"] and set(metrics["per_class"]) <= set(NAMES)
    with (folder / "stills" / "predictions.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert {row["Prediction"] for row in rows} - {""} <= set(NAMES) and {row["View"] for row in rows} <= set(VIEW_NAMES)
    assert any(row["Prediction"] for row in rows)
    assert all(name in done.text for name in metrics["per_class"])  # the tables on screen


def test_nothing_is_written_where_the_user_happens_to_be(odd: tuple[Path, Done]) -> None:
    assert not list((odd[0] / "where the user is").iterdir())


@pytest.fixture(scope="module")
def read_only(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Done]:
    """The main job where neither the program's nor the data's folder can be written, without HOME."""
    folder = tmp_path_factory.mktemp("read only")
    program, data, out = folder / f"program {ODD}", phantom_yaml(folder, patients=9, frames=1), folder / "out"
    program.mkdir()
    out.mkdir()
    for pattern in COPIED:
        for path in ROOT.glob(pattern):
            if path.is_dir():
                shutil.copytree(path, program / path.name, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(path, program)
    (program / ".frame_cache").mkdir()
    prepare(load_dataset_config(data))
    cfg = tiny_cfg(out)
    weights = out / "exp" / "weights" / "best.pt"
    probe = out / "probe.py"  # permissions do count: else this test would show nothing
    probe.write_text(
        "import sys, pathlib\n"
        "for name in sys.argv[1:]:\n"
        "    try:\n        (pathlib.Path(name) / 'written').write_text('')\n"
        "    except PermissionError:\n        continue\n"
        "    sys.exit(3)\n"
    )
    permit(program, 0o444, 0o555)
    permit(folder / "phantom", 0o444, 0o555)
    places = (program, program / ".frame_cache", folder / "phantom" / "images" / "train")
    try:
        done = run_in_one_process(
            [
                (probe, *places),
                ("train.py", *QUICK, cfg, "--data", data, "--project", out, "--cache", "disk"),
                ("val.py", "--weights", weights, "--data", data, "--project", "val", "--bootstrap", "0"),
                ("detect.py", "--weights", weights, "--source", folder / "phantom/images/test", "--project", out / "d"),
                ("export.py", "--weights", weights, "--include", "torchscript"),
                ("train.py", *QUICK, cfg, "--data", data),  # into the program's own runs/train
            ],
            root=program, cwd=out, environment=without("HOME"), prepare=bound_by_permissions,
        )  # fmt: skip
    finally:
        permit(program, 0o644, 0o755)
        permit(folder / "phantom", 0o644, 0o755)
    return folder, done


def test_data_and_program_need_not_be_writable(read_only: tuple[Path, Done]) -> None:
    folder, done = read_only
    assert done.codes == [0, 0, 0, 0, 0, 1], done.text[-4000:]
    program = folder / f"program {ODD}"
    assert (
        f"{program / '.frame_cache'}: cannot be written (Permission denied): frames are decoded each time" in done.text
    )
    assert not list((program / ".frame_cache").iterdir()) and not list(program.rglob("__pycache__"))
    assert (folder / "out" / "exp" / "weights" / "best.torchscript").is_file()
    assert (folder / "out" / "val" / "exp" / "metrics.json").is_file()  # as typed: from where the user is


def test_a_run_that_cannot_have_a_folder_says_which(read_only: tuple[Path, Done]) -> None:
    folder, done = read_only
    errors = [line for line in done.text.splitlines() if line.startswith("ERROR:")]
    assert errors == [f"ERROR: {folder / f'program {ODD}' / 'runs'}: Permission denied"]


def test_two_runs_at_once_get_a_folder_each_share_the_data_they_make_and_leave_home_alone(tmp_path: Path) -> None:
    data, cfg, home = phantom_yaml(tmp_path, patients=9, frames=1), tiny_cfg(tmp_path), tmp_path / "home"
    home.mkdir()
    command = [
        sys.executable, str(ROOT / "train.py"), *QUICK, str(cfg), "--data", str(data), "--project",
        str(tmp_path / "runs"),
    ]  # fmt: skip
    started = [
        subprocess.Popen(
            command, cwd=tmp_path, env={**without(), "HOME": str(home)}, stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL, text=True,
        )
        for _ in range(2)
    ]  # fmt: skip
    errors = [process.communicate(timeout=300)[1] for process in started]
    assert [process.returncode for process in started] == [0, 0], errors
    runs = sorted(path.name for path in (tmp_path / "runs").iterdir())
    assert runs == ["exp", "exp2"]
    first, second = ((tmp_path / "runs" / name / "results.csv").read_text().rpartition(",")[0] for name in runs)
    assert first == second  # each has its own files, whole: the same seed gives the same figures
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]  # no half of a data set
    kept = {str(path.relative_to(home)) for path in home.rglob("*") if path.is_file()}
    assert all(Path(name).match("matplotlib/fontlist-*.json") for name in kept)  # its own, of the system's fonts


def test_of_many_runs_at_once_none_shares_a_folder(tmp_path: Path) -> None:
    with ThreadPoolExecutor(32) as pool:
        folders = list(pool.map(lambda _: new_run_folder(tmp_path / ODD, "実験"), range(200)))
    assert {path.name for path in folders} == {"実験", *(f"実験{number}" for number in range(2, 201))}
    assert np.all([path.is_dir() for path in folders])
