"""utils/flags.py, and the scripts' own tables against YOLOv5's flags: each is taken or refused with a reason."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import compare
import detect
import export
import train
import train_dual_backbone
import val
from utils import audit, preprocess_sheet, splits
from utils.config import ROOT, from_root
from utils.flags import Flag, from_keywords, parse
from utils.log import InputError

FLAGS = (
    Flag("batch-size", 16, "frames a batch", int),
    Flag("imgsz img img-size", 640, "pixels, 100% of them", int),
    Flag("weights", "", "checkpoint"),
    Flag("nosave", False, "save less"),
    Flag("resume", None, "go on", nargs="?", const=True),
    Flag("freeze", (0,), "layers", int, nargs="+"),
    Flag("cache", "ram", "", nargs="?", const="ram", choices=("ram", "disk")),
    Flag("amp", None, "mixed precision", kind=bool),
    Flag("sync-bn", False, "", refused="one process"),
    Flag("evolve", None, "", nargs="?", const=True, refused="not inside of a training"),
)


def parsed(line: str, flags: Sequence[Flag] = FLAGS) -> argparse.Namespace:
    return parse(flags, "A script.", shlex.split(line))


def refusal(flags: Sequence[Flag], line: str, capsys: pytest.CaptureFixture[str]) -> str:
    """The last line that a command line which ends the program leaves on standard error."""
    with pytest.raises(SystemExit) as caught:
        parsed(line, flags)
    assert caught.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    return str(err.splitlines()[-1])


# --- the table's rules -----------------------------------------------------------------------------------------------


def test_nothing_typed_gives_the_defaults_and_no_refused_option() -> None:
    assert vars(parsed("")) == {
        "batch_size": 16, "imgsz": 640, "weights": "", "nosave": False, "resume": None, "freeze": (0,), "cache": "ram",
        "amp": None, "typed": frozenset(),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("line", "name", "value"),
    [
        ("--batch-size 4", "batch_size", 4),
        ("--batch 4", "batch_size", 4),  # a prefix
        ("--imgsz 320", "imgsz", 320),
        ("--img 320", "imgsz", 320),
        ("--img-size=320", "imgsz", 320),
        ("--imgsz 640", "imgsz", 640),  # typed, though it is the default
        ("--weights ''", "weights", ""),
        ("--nosave", "nosave", True),
        ("--resume", "resume", True),
        ("--resume a/last.pt", "resume", "a/last.pt"),
        ("--freeze 1 2 3", "freeze", [1, 2, 3]),
        ("--cache", "cache", "ram"),
        ("--cache disk", "cache", "disk"),
        ("--amp", "amp", True),
        ("--no-amp", "amp", False),
    ],
)
def test_what_is_typed_is_known_as_typed(line: str, name: str, value: Any) -> None:
    options = parsed(line)
    assert options.typed == {name} and getattr(options, name) == value
    assert vars(parsed("")) | {name: value, "typed": {name}} == vars(options)  # the others stay at their defaults


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("--sync-bn", "error: --sync-bn is not supported: one process"),
        ("--evolve 100 --batch 4", "error: --evolve is not supported: not inside of a training"),
        ("--batch-size four", "argument --batch-size: invalid int value: 'four'"),
        ("--cache tape", "argument --cache: invalid choice: 'tape'"),
        ("--imagesize 3", "unrecognized arguments: --imagesize 3"),
        ("--freeze", "argument --freeze: expected at least one argument"),
    ],
)
def test_what_cannot_be_taken_ends_with_a_reason(line: str, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert words in refusal(FLAGS, line, capsys)


def test_help_shows_defaults_and_reasons(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        parsed("--help")
    text = " ".join(capsys.readouterr().out.split())
    assert "pixels, 100% of them (default: 640)" in text and "not supported: one process" in text
    assert "--amp, --no-amp" in text and "save less (default" not in text


def test_keywords_are_the_same_options() -> None:
    assert vars(from_keywords(FLAGS, {})) == vars(parsed(""))
    for name in ("imgsz", "img", "img_size"):
        assert vars(from_keywords(FLAGS, {name: 320, "nosave": True})) == vars(parsed("--img 320 --nosave"))


@pytest.mark.parametrize(
    ("keywords", "words"),
    [
        ({"imgs": 320}, r"unknown option 'imgs' \(nearest: 'imgsz'\)"),
        ({"qqq": 1}, r"unknown option 'qqq'$"),
        ({"typed": 1}, "unknown option 'typed'"),
        ({"sync_bn": True}, "--sync-bn is not supported: one process"),
    ],
)
def test_keywords_that_cannot_be_taken_are_input_errors(keywords: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        from_keywords(FLAGS, keywords)


RUNS = ("runs", "folders of runs")


@pytest.mark.parametrize(
    ("line", "runs", "typed"),
    [
        ("", [], set()),
        ("a b/c", ["a", "b/c"], set()),
        ("a b --nosave", ["a", "b"], {"nosave"}),
        ("--batch-size 4 a b", ["a", "b"], {"batch_size"}),
        ("--freeze 1 2 -- a", ["a"], {"freeze"}),
    ],
)
def test_words_without_a_flag_are_taken_where_a_script_has_a_name_for_them(
    line: str, runs: list[str], typed: set[str]
) -> None:
    options = parse(FLAGS, "A script.", shlex.split(line), positional=RUNS)
    assert options.runs == runs and options.typed - {"runs"} == typed


def test_words_without_a_flag_are_a_usage_error_elsewhere(capsys: pytest.CaptureFixture[str]) -> None:
    assert "error: unrecognized arguments: a" in refusal(FLAGS, "a", capsys)
    with pytest.raises(SystemExit, match="0"):
        parse(FLAGS, "A script.", ["--help"], positional=RUNS)
    assert "folders of runs" in capsys.readouterr().out


# --- YOLOv5's flags, script by script --------------------------------------------------------------------------------

TABLES: dict[str, Sequence[Flag]] = {"train": train.FLAGS, "val": val.FLAGS, "detect": detect.FLAGS}
SIZES = ("--imgsz 320", "--img 320", "--img-size 320")
TAKEN = {
    "train": (
        *SIZES, "--weights a.pt", "--cfg a.yaml", "--data a.yaml", "--hyp a.yaml", "--epochs 3", "--batch-size 4",
        "--resume", "--resume a.pt", "--cache", "--cache ram", "--cache disk", "--device cpu", "--optimizer SGD",
        "--optimizer Adam", "--optimizer AdamW", "--workers 0", "--project a", "--name a", "--label-smoothing 0.1",
        "--patience 5", "--freeze 10", "--freeze 0 1 2", "--save-period 2", "--seed 1", "--rect", "--nosave", "--noval",
        "--noautoanchor", "--noplots", "--image-weights", "--multi-scale", "--single-cls", "--exist-ok", "--sync-bn",
        "--cos-lr",
    ),
    "val": (
        *SIZES, "--data a.yaml", "--weights a.pt", "--batch-size 4", "--conf-thres 0.1", "--iou-thres 0.5",
        "--max-det 10", "--task train", "--task val", "--task test", "--task speed", "--task study", "--device cpu",
        "--workers 0", "--project a", "--name a", "--single-cls", "--verbose", "--save-txt", "--save-conf",
        "--save-json", "--exist-ok", "--half",
    ),
    "detect": (
        *SIZES, "--weights a.pt", "--source 0", "--data a.yaml", "--conf-thres 0.1", "--iou-thres 0.5", "--max-det 10",
        "--device cpu", "--save-format 0", "--save-format 1", "--classes 0", "--classes 0 2", "--project a", "--name a",
        "--line-thickness 1", "--vid-stride 2", "--view-img", "--save-txt", "--save-csv", "--save-conf", "--save-crop",
        "--nosave", "--agnostic-nms", "--exist-ok", "--hide-labels", "--hide-conf", "--half",
    ),
}  # fmt: skip
REFUSED = {
    "train": ("--quad", "--evolve", "--evolve 300"),
    "val": ("--augment", "--save-hybrid", "--dnn"),
    "detect": ("--augment", "--update", "--dnn", "--visualize"),
}
DEFAULTS: dict[str, dict[str, Any]] = {
    "train": {
        "epochs": 100, "batch_size": 16, "imgsz": 640, "device": "", "optimizer": "SGD", "workers": 8,
        "project": "runs/train", "name": "exp", "save_period": -1, "data": "data/phantom.yaml", "weights": "",
        "cfg": "models/yolov5s.yaml", "hyp": "hyp/joint_training_rules.yaml",
    },
    "val": {
        "batch_size": 32, "conf_thres": 0.001, "iou_thres": 0.6, "max_det": 300, "task": "val", "device": "",
        "workers": 8, "project": "runs/val", "name": "exp", "data": "data/phantom.yaml",
    },
    "detect": {
        "source": "data/images", "conf_thres": 0.25, "iou_thres": 0.45, "max_det": 1000, "device": "",
        "save_format": 0, "classes": None, "project": "runs/detect", "name": "exp", "line_thickness": 3,
        "vid_stride": 1,
    },
}  # fmt: skip
ABBREVIATIONS = {
    "train": {
        "--batch 4": "batch_size",
        "--img 320": "imgsz",
        "--epoch 3": "epochs",
        "--work 0": "workers",
        "--save 5": "save_period",
        "--sa 5": "save_period",
        "--save- 5": "save_period",
        "--f 5": "freeze",
        "--sync": "sync_bn",
    },
    "val": {
        "--batch 4": "batch_size",
        "--b 4": "batch_size",
        "--n a": "name",
        "--conf 0.1": "conf_thres",
        "--c 0.1": "conf_thres",
        "--iou 0.5": "iou_thres",
        "--img 320": "imgsz",
        "--t test": "task",
    },
    "detect": {
        "--conf 0.1": "conf_thres",
        "--iou 0.5": "iou_thres",
        "--img 320": "imgsz",
        "--class 1": "classes",
        "--cl 1": "classes",
        "--view": "view_img",
        "--view-": "view_img",
        "--no": "nosave",
        "--p a": "project",
    },
}
YOLOV5 = {  # every flag there that is here, too
    "train": (
        train.FLAGS,
        "weights cfg data hyp epochs batch-size imgsz img img-size rect resume nosave noval noautoanchor noplots "
        "evolve bucket cache image-weights device multi-scale single-cls optimizer sync-bn workers project name "
        "exist-ok quad cos-lr label-smoothing patience freeze save-period seed local_rank entity upload_dataset "
        "bbox_interval artifact_alias",
    ),
    "val": (
        val.FLAGS,
        "data weights batch-size imgsz img img-size conf-thres iou-thres max-det task device workers single-cls "
        "augment verbose save-txt save-hybrid save-conf save-json project name exist-ok half dnn",
    ),
    "detect": (
        detect.FLAGS,
        "weights source data imgsz img img-size conf-thres iou-thres max-det device view-img save-txt save-format "
        "save-csv save-conf save-crop nosave classes agnostic-nms augment visualize update project name exist-ok "
        "line-thickness hide-labels hide-conf half dnn vid-stride",
    ),
    "export": (
        export.FLAGS,
        "data weights imgsz img img-size batch-size device half inplace keras optimize int8 dynamic simplify opset "
        "verbose workspace nms agnostic-nms topk-per-class topk-all iou-thres conf-thres include",
    ),
}


def each(table: dict[str, Any]) -> list[Any]:
    return [pytest.param(script, item, id=f"{script} {item}") for script in table for item in table[script]]


@pytest.mark.parametrize(("script", "line"), each(TAKEN))
def test_a_flag_of_yolov5_is_taken(script: str, line: str) -> None:
    flag, *values = line.split()
    (name,) = (options := parsed(line, TABLES[script])).typed
    assert flag[2:].replace("-", "_") == name or (name == "imgsz" and flag in ("--img", "--img-size"))
    value = getattr(options, name)
    shown = value if isinstance(value, list) else [value]
    if name == "project":  # where to write: from here
        values = [str(Path(value).absolute()) for value in values]
    assert [str(one) for one in shown] == values or (not values and value in (True, "ram"))


@pytest.mark.parametrize(("script", "line"), each(REFUSED))
def test_a_flag_of_yolov5_is_refused_with_a_reason(script: str, line: str, capsys: pytest.CaptureFixture[str]) -> None:
    told = refusal(TABLES[script], line, capsys)
    assert f"error: {line.split()[0]} is not supported: " in told and len(told.split("supported: ")[1]) > 15


@pytest.mark.parametrize("script", TABLES)
def test_defaults_are_yolov5s_but_for_those_that_differ_on_purpose(script: str) -> None:
    options = vars(parsed("", TABLES[script]))
    assert {name: options[name] for name in DEFAULTS[script]} == DEFAULTS[script]
    switches = {line[2:].replace("-", "_") for line in TAKEN[script] if " " not in line} - {"resume", "cache"}
    assert {options[name] for name in switches} == {False}


@pytest.mark.parametrize(("script", "line"), each(ABBREVIATIONS))
def test_yolov5s_usual_abbreviations_work(script: str, line: str) -> None:
    assert parsed(line, TABLES[script]).typed == {ABBREVIATIONS[script][line]}


@pytest.mark.parametrize("script", YOLOV5)
def test_whatever_is_short_for_one_flag_in_yolov5_is_short_for_it_here(
    script: str, capsys: pytest.CaptureFixture[str]
) -> None:
    flags, known = YOLOV5[script][0], [*YOLOV5[script][1].split(), "help"]
    by_name = {name: flag for flag in flags for name in flag.names.split()}
    for name in set(known) - {"help"}:
        flag = by_name[name]
        for short in (name[:length] for length in range(1, len(name))):
            if sum(other.startswith(short) for other in known) > 1 or (script, short) == ("train", "a"):
                continue  # --a would be --artifact_alias, which is not taken
            line = f"--{short}" if flag.default is False else f"--{short} {(flag.choices or (1,))[0]}"
            if flag.refused:
                assert f"error: --{flag.names.split()[0]} is not supported" in refusal(flags, line, capsys), line
            else:
                assert parsed(line, flags).typed == {flag.name}, line


@pytest.mark.parametrize("script", TABLES)
def test_every_flag_has_a_name_of_its_own_and_a_help_text(script: str) -> None:
    flags = TABLES[script]
    names = [name for flag in flags for name in flag.names.split()]
    assert len(set(names)) == len(names)
    assert [flag.names for flag in flags if not flag.help and not flag.refused and flag.names != "optimizer"] == []


@pytest.mark.parametrize("script", TABLES)
def test_a_script_as_a_function_takes_the_same_options(script: str) -> None:
    options = from_keywords(TABLES[script], {"img_size": 320, "exist_ok": True})
    assert vars(options) == vars(parsed("--img 320 --exist-ok", TABLES[script]))


@pytest.mark.parametrize("name", [Path("out"), Path("../out"), Path("~/out")], ids=str)
@pytest.mark.parametrize(
    ("flags", "option"),
    [
        (train.FLAGS, "project"), (train_dual_backbone.FLAGS, "project"), (val.FLAGS, "project"),
        (detect.FLAGS, "project"), (compare.FLAGS, "project"), (audit.FLAGS, "project"), (splits.FLAGS, "out"),
        (preprocess_sheet.FLAGS, "out"),
    ],
)  # fmt: skip
def test_a_folder_to_write_in_is_relative_to_the_current_one_where_typed_and_to_the_repository_by_default(
    flags: Sequence[Flag], option: str, name: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    typed, given = parsed(f"--{option} {name}", flags), from_keywords(flags, {option: name})
    assert vars(typed) == vars(given)
    monkeypatch.chdir("/")  # what was said stays said
    place = from_root(getattr(typed, option))
    assert place == (name.expanduser() if str(name).startswith("~") else tmp_path / name)
    default = getattr(parsed("", flags), option)
    assert not Path(default).is_absolute() and from_root(default) == ROOT / default
    assert getattr(parsed(f"--{option} ''", flags), option) == ""


def test_keywords_are_converted_and_checked_as_typed_flags_are() -> None:
    flags = (
        Flag("size", 1, "", int), Flag("kind", "a", "", choices=("a", "b")), Flag("source", "", ""),
        Flag("classes", None, "", int, nargs="+"),
    )  # fmt: skip
    options = from_keywords(flags, {"size": "3", "source": Path("x"), "classes": [1, "2"]})
    assert (options.size, options.source, options.classes) == (3, "x", [1, 2])
    with pytest.raises(InputError, match="'kind': expected one of a, b, got 'c'"):
        from_keywords(flags, {"kind": "c"})
    with pytest.raises(InputError, match="'size': expected int, got 'big'"):
        from_keywords(flags, {"size": "big"})
