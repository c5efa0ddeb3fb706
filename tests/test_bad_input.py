"""Bad input to the three scripts: exit code 1, one line that names the file, no traceback, nothing left behind."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import detect
import train
import val
from tests.scripts import fail, phantom_yaml, tiny_cfg
from utils.config import ROOT
from utils.flags import parse
from utils.log import run_script

SCRIPTS = {"train": train, "val": val, "detect": detect}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a dataset, a checkpoint ``best.pt``, and a frame ``frame.jpg``."""
    folder = tmp_path_factory.mktemp("bad")
    data, cfg = phantom_yaml(folder), tiny_cfg(folder)
    run = train.run(
        data=str(data), cfg=str(cfg), imgsz=64, epochs=1, project=str(folder / "good"), noplots=True, noautoanchor=True
    )
    (run / "weights" / "best.pt").rename(folder / "best.pt")
    frame = next((folder / "phantom" / "images" / "val").iterdir())
    (folder / "frame.jpg").write_bytes(frame.read_bytes())
    return folder


@pytest.fixture
def error(place: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run a script that must fail as a user's mistake does, and give its error line."""

    def run(script: str, *arguments: str | Path) -> str:
        before = sorted(place.rglob("*"))
        options = parse(SCRIPTS[script].FLAGS, "", [*map(str, arguments), "--project", str(place / "runs")])
        capsys.readouterr()
        assert run_script(SCRIPTS[script].main, options) == 1
        captured = capsys.readouterr().err.replace("\r", "\n")
        assert "Traceback" not in captured and "fault of this program" not in captured, captured
        lines = [line for line in captured.splitlines() if line.startswith("ERROR:")]
        assert len(lines) == 1, captured
        created = [path for path in sorted(place.rglob("*")) if path not in before and path.is_file()]
        assert not created, created
        return lines[0]

    return run


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def stock_checkpoint(path: Path) -> Path:
    """A file as YOLOv5 writes them: a pickled object of a program's class."""
    torch.save({"model": torch.nn.Linear(1, 1), "epoch": 1}, path)
    return path


WEIGHTS: dict[str, Callable[[Path], Path]] = {
    "absent": lambda folder: folder / "absent.pt",
    "empty": lambda folder: write(folder / "empty.pt", b""),
    "text": lambda folder: write(folder / "text.pt", "hello"),
    "a folder": lambda folder: folder,
    "a zip of something else": lambda folder: _zip(folder / "other.pt"),
    "cut off": lambda folder: write(folder / "cut.pt", (folder / "best.pt").read_bytes()[:-2000]),
    "pickled classes": lambda folder: stock_checkpoint(folder / "stock.pt"),
    "another dict": lambda folder: _saved(folder / "dict.pt", {"a": 1}),
    "another format": lambda folder: _changed(folder, "format", 99),
    "a hyp key that is unknown": lambda folder: _changed(folder, "hyp", {"lr": 1}),
    "weights of another network": lambda folder: _changed(folder, "ema", {"a": torch.zeros(1)}),
}


def _zip(path: Path) -> Path:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("a", "b")
    return path


def _saved(path: Path, content: object) -> Path:
    torch.save(content, path)
    return path


def _changed(folder: Path, key: str, value: object) -> Path:
    content = torch.load(folder / "best.pt", weights_only=True)
    return _saved(folder / f"changed-{key}.pt", {**content, key: value})


@pytest.mark.parametrize("kind", WEIGHTS)
@pytest.mark.parametrize("script", SCRIPTS)
def test_weights_that_are_none(place: Path, error: Callable[..., str], script: str, kind: str) -> None:
    path = WEIGHTS[kind](place)
    rest = {"train": ["--data", place / "small.yaml"], "val": ["--data", place / "small.yaml"]}
    line = error(script, "--weights", path, *rest.get(script, ["--source", place / "frame.jpg"]))
    assert path.name in line


@pytest.mark.parametrize("script", ["val", "detect"])
def test_no_weights_given(error: Callable[..., str], script: str) -> None:
    assert "--weights" in error(script)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "no such file"),
        ("", "mapping"),
        ("- a\n", "mapping"),
        ("a: [", "not a yaml file"),
        (b"\xff\xfe\x00", "not a yaml file"),
        ("train: a\nval: b\n", "'names'"),
        ("train: a\nval: b\nnames: 3\n", "names"),
        ("train: a\nval: b\nnames: [a]\nnc: 2\n", "nc"),
        ("train: 1\nval: b\nnames: [a]\nview_names: [x, y]\n", "train"),
        ("train: nowhere\nval: nowhere\nnames: [a]\nview_names: [x, y]\n", "nowhere"),
        ("train: empty\nval: empty\nnames: [a]\nview_names: [x, y]\n", "no image"),
        ("train: empty\nval: empty\nnames: [a]\nview_names: [x]\n", "view_names"),
        ("train: a\nval: b\nnames: [a]\ngroup: '('\nview_names: [x, y]\n", "group"),
        ("train: a\nval: b\nnames: [a]\nview_names: [x, y]\ngenerate: {name: other}\n", "phantom"),
        ("train: a\nval: b\nnames: [a]\nview_names: [x, y]\ngenerate: {name: phantom, patient: 1}\n", "patient"),
    ],
)
def test_dataset_yaml_that_are_none(
    place: Path, error: Callable[..., str], content: str | bytes | None, words: str
) -> None:
    (place / "empty").mkdir(exist_ok=True)
    path = place / "bad.yaml"
    path.unlink(missing_ok=True)
    if content is not None:
        data = content.encode() if isinstance(content, str) else content
        path.write_bytes(data.replace(b"train:", f"path: {place}\ntrain:".encode()))
    line = error("train", "--data", path)
    assert words in line and "bad.yaml" in line


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("lr0: fast", "lr0: expected a number"),
        ("lr_0: 0.1", "nearest known key: 'lr0'"),
        ("balance: magic", "balance"),
        ("momentum: 2", "from 0 to 1"),
        ("view_class_weights: [1, 2]", "view_class_weights: expected 3"),
        ("seed: 1.5", "whole number"),
    ],
)
def test_hyp_files_with_faults(place: Path, error: Callable[..., str], change: str, words: str) -> None:
    key = change.split(":")[0]
    lines = (ROOT / "hyp" / "joint_training_rules.yaml").read_text().splitlines()
    path = write(place / "hyp.yaml", "\n".join([line for line in lines if not line.startswith(f"{key}:")] + [change]))
    assert words in error("train", "--hyp", path, "--data", place / "small.yaml", "--cfg", place / "tiny-yolov5n.yaml")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--cfg", "models/hub/yolov5n.yaml"], "ViewHead"),
        (["--cfg", "nothing.yaml"], "nothing.yaml"),
        (["--batch", "0"], "--batch-size"),
        (["--epochs", "0"], "--epochs"),
        (["--img", "0"], "--imgsz"),
        (["--freeze", "99"], "--freeze"),
        (["--freeze", "26"], "--freeze"),
        (["--device", "tpu"], "--device"),
        (["--resume", "absent.pt"], "absent.pt"),
        (["--name", "a/b"], "--name"),
    ],
)
def test_training_flags_with_faults(place: Path, error: Callable[..., str], arguments: list[str], words: str) -> None:
    assert words in error("train", "--data", place / "small.yaml", *arguments)


def test_data_without_view_rows_names_the_hyp_file_that_trains_boxes_alone(
    place: Path, error: Callable[..., str]
) -> None:
    text = (place / "small.yaml").read_text()
    path = write(place / "noviews.yaml", "".join(f"{line}\n" for line in text.splitlines() if "view_names" not in line))
    assert "hyp/detection_only.yaml" in error("train", "--data", path)


def test_strict_data_makes_a_fault_an_error(place: Path, error: Callable[..., str]) -> None:
    folder = place / "strict"
    for kind in ("images", "labels"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    (folder / "images" / "a.jpg").write_bytes((place / "frame.jpg").read_bytes())
    write(folder / "labels" / "a.txt", "7 0.5 0.5 0.1 0.1\n\n0 1 0\n")
    path = write(
        place / "strict.yaml",
        f"path: {folder}\ntrain: images\nval: images\nnames: [a, b]\nview_names: [x, y, z]\n",
    )
    assert "a.txt:1: expected a class from 0 to 1, got 7" in error("train", "--data", path, "--strict-data")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--task", "test"], "test"),
        (["--conf-thres", "2"], "--conf-thres"),
        (["--iou-thres", "-1"], "--iou-thres"),
        (["--img", "0"], "--imgsz"),
        (["--batch", "0"], "--batch-size"),
    ],
)
def test_validation_flags_with_faults(place: Path, error: Callable[..., str], arguments: list[str], words: str) -> None:
    text = (place / "small.yaml").read_text().replace("test: images/test\n", "")
    path = write(place / "notest.yaml", text)
    assert words in error("val", "--weights", place / "best.pt", "--data", path, *arguments)


def test_data_of_other_classes_do_not_fit_a_checkpoint(place: Path, error: Callable[..., str]) -> None:
    text = (place / "small.yaml").read_text().replace("[AR, MR, PR, TR]", "[a, b]")
    assert "names: expected" in error("val", "--weights", place / "best.pt", "--data", write(place / "two.yaml", text))


SOURCES: dict[str, Callable[[Path], str | Path]] = {
    "absent": lambda folder: folder / "absent.png",
    "an empty folder": lambda folder: _folder(folder / "nothing"),
    "text named jpg": lambda folder: write(folder / "text.jpg", "hello"),
    "an empty image": lambda folder: write(folder / "empty.jpg", b""),
    "a cut-off image": lambda folder: write(folder / "cut.jpg", (folder / "frame.jpg").read_bytes()[:500]),
    "a video without frames": lambda folder: write(folder / "none.mp4", b"\0" * 999),
    "another kind of file": lambda folder: write(folder / "notes.docx", "x"),
    "an empty list": lambda folder: write(folder / "list.txt", "\n"),
    "a glob of nothing": lambda folder: folder / "*.tiff",
}


def _folder(path: Path) -> Path:
    path.mkdir(exist_ok=True)
    return path


@pytest.mark.parametrize("kind", SOURCES)
def test_sources_that_are_none(place: Path, error: Callable[..., str], kind: str) -> None:
    source = SOURCES[kind](place)
    assert Path(source).name in error("detect", "--weights", place / "best.pt", "--source", source)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--classes", "9"], "--classes"),
        (["--vid-stride", "0"], "--vid-stride"),
        (["--conf-thres", "-1"], "--conf-thres"),
        (["--img", "0"], "--imgsz"),
        (["--data", "nothing.yaml"], "nothing.yaml"),
    ],
)
def test_detection_flags_with_faults(place: Path, error: Callable[..., str], arguments: list[str], words: str) -> None:
    assert words in error("detect", "--weights", place / "best.pt", "--source", place / "frame.jpg", *arguments)


def test_a_window_without_a_screen(place: Path, error: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(detect.sys, "platform", "linux")
    arguments = ("--weights", place / "best.pt", "--source", place / "frame.jpg", "--view-img")
    assert "--view-img: expected a screen" in error("detect", *arguments)


def test_a_script_in_its_own_process_ends_with_one_line(place: Path) -> None:
    assert "absent.pt" in fail("val.py", "--weights", "absent.pt")
