"""utils/splits.py: what is written reads back with every frame once, and weak spots of the data are told."""

from __future__ import annotations

import logging
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.phantoms import NAMES, VIEW_NAMES, make_dataset, write_frame, write_yaml
from tests.scripts import phantom_yaml, succeed
from utils.config import load_dataset_config
from utils.dataset import EchoDataset, prepare
from utils.labels import label_path
from utils.log import InputError
from utils.split_files import list_images
from utils.splits import Division, Pool, pool, rare_classes, read_folds, run


def files_of(yaml: Path) -> dict[str, list[str]]:
    config = load_dataset_config(yaml)
    return {split: [str(path) for path in list_images(config, split)] for split in config.splits}


def all_of(yaml: Path) -> list[str]:
    return [file for files in files_of(yaml).values() for file in files]


def test_written_folds_read_back_with_their_frames_and_names(tmp_path: Path) -> None:
    source = make_dataset(tmp_path / "data", 12, 6, 6, clip=r"^(p\d+-f\d\d)")
    written = run(data=source, folds=4, out=tmp_path / "made" / "folds")
    assert written == read_folds(tmp_path / "made" / "folds")
    every = sorted(all_of(source))
    assert len(every) == 24
    held: list[str] = []
    for number, path in enumerate(written, 1):
        assert path.name == f"fold{number}.yaml"
        assert path.read_text().startswith(f"# Fold {number} of 4 of 'data.yaml', seed 0; made by")
        config, before = load_dataset_config(path), load_dataset_config(source)
        for attribute in ("root", "names", "view_names", "group", "clip", "generate"):
            assert getattr(config, attribute) == getattr(before, attribute)
        parts = files_of(path)
        assert list(parts) == ["train", "val"]
        assert sorted(parts["train"] + parts["val"]) == every
        owners = [{Path(name).name[:3] for name in part} for part in parts.values()]
        assert not owners[0] & owners[1]
        held += parts["val"]
    assert sorted(held) == every


def test_the_strata_of_a_dataset_are_box_classes_with_the_view(tmp_path: Path) -> None:
    boxes = [(0, 2, 2, 20, 20), (3, 5, 5, 30, 30)]
    write_frame(tmp_path, "train/p1-a.png", (48, 64), boxes, 2)
    write_frame(tmp_path, "train/p1-b.png", (48, 64), [*boxes[::-1], (0, 9, 9, 30, 20)], 2)
    write_frame(tmp_path, "train/p1-c.png", (48, 64), boxes[:1])
    write_frame(tmp_path, "val/p2-d.png", (48, 64), [], 0)
    frames = pool(load_dataset_config(write_yaml(tmp_path)))
    assert frames.groups == ["p1", "p1", "p1", "p2"]
    assert frames.strata == [({0, 3}, 2), ({0, 3}, 2), ({0}, -1), (frozenset(), 0)]


def test_lists_are_relative_below_the_root_and_absolute_elsewhere(tmp_path: Path) -> None:
    make_dataset(tmp_path / "data", 4, 2)
    make_dataset(tmp_path / "more", 4, 0)
    extra = tmp_path / "more" / "images" / "train"
    source = write_yaml(tmp_path / "data", val=["images/val", str(extra)])
    run(data=source, folds=2, out=tmp_path / "folds")
    lines = [line for part in ("train", "val") for line in (tmp_path / f"folds/fold1_{part}.txt").read_text().split()]
    inside = [line for line in lines if not Path(line).is_absolute()]
    assert sorted({Path(line).parent.as_posix() for line in inside}) == ["images/train", "images/val"]
    assert {Path(line).parent for line in set(lines) - set(inside)} == {extra}
    assert len(lines) == 10


def test_a_frame_in_two_parts_of_the_source_counts_once(tmp_path: Path) -> None:
    make_dataset(tmp_path, 6, 4)
    (tmp_path / "again.txt").write_text("images/train/../val/p04-f0000.png\n./images/train/p01-f0000.png\n")
    source = write_yaml(tmp_path, test="again.txt")
    run(data=source, folds=2, out=tmp_path / "folds")
    assert len(all_of(tmp_path / "folds" / "fold1.yaml")) == 10


def test_names_that_yaml_takes_for_something_else_come_back_as_they_were(tmp_path: Path) -> None:
    names, views = ["no", "1", "ä: b", "null"], ["yes", "~", "2.0"]
    source = make_dataset(tmp_path, 6, 2, names=names, view_names=views)
    config = load_dataset_config(run(data=source, holdout=0.3, out=tmp_path / "out")[0])
    assert [*config.names, *config.view_names] == [*names, *views]


def test_two_shares_are_shares_of_the_whole(tmp_path: Path) -> None:
    make_dataset(tmp_path, 20)
    source = write_yaml(tmp_path, val="images/train")
    (path,) = run(data=source, holdout=[0.2, 0.3], out=tmp_path / "out", seed=1)
    assert path == tmp_path / "out" / "holdout.yaml"
    assert path.read_text().startswith("# Hold-out 0.2 0.3 of 'data.yaml', seed 1;")
    parts = files_of(path)
    assert list(parts) == ["train", "val", "test"]
    assert [len(part) for part in parts.values()] == [10, 4, 6]
    owners = [{Path(name).name[:3] for name in part} for part in parts.values()]
    assert sum(map(len, owners)) == len(set.union(*owners)) == 10
    names = ["holdout.yaml", "test.txt", "train.txt", "val.txt"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == names


def test_folds_of_generated_data_make_them_anew_where_they_are_gone(tmp_path: Path) -> None:
    source = phantom_yaml(tmp_path)
    path = run(data=source, folds=3, out=tmp_path / "folds")[1]
    before = files_of(path)
    shutil.rmtree(tmp_path / "phantom")
    config = load_dataset_config(path)
    prepare(config)
    dataset = EchoDataset(config, "val", 64)
    assert [str(file) for file in dataset.files] == before["val"]
    assert not dataset.problems
    assert dataset.names == NAMES
    assert dataset[0][0].shape == (3, 64, 64)


@pytest.mark.parametrize("name", ["fold2_val.txt", "fold1.yaml"])
def test_nothing_is_written_where_a_file_would_be_overwritten(tmp_path: Path, name: str) -> None:
    source, out = make_dataset(tmp_path), tmp_path / "out"
    out.mkdir()
    (out / name).write_text("mine")
    with pytest.raises(InputError, match=f"^--out {out}: expected a folder without {name}; nothing is overwritten$"):
        run(data=source, folds=2, out=out)
    assert [path.name for path in out.iterdir()] == [name]
    assert (out / name).read_text() == "mine"


def test_a_folder_with_other_files_is_taken(tmp_path: Path) -> None:
    source = make_dataset(tmp_path / "data")
    run(data=source, folds=2, out=tmp_path)
    run(data=source, holdout=0.4, out=tmp_path)
    assert read_folds(tmp_path) == [tmp_path / "fold1.yaml", tmp_path / "fold2.yaml"]


def test_folds_are_read_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    for name in [f"fold{number}.yaml" for number in range(1, 12)] + ["fold1_val.txt", "fold.yaml", "fold12.yml"]:
        (tmp_path / name).touch()
    assert [path.name for path in read_folds(tmp_path)] == [f"fold{number}.yaml" for number in range(1, 12)]


@pytest.mark.parametrize("numbers", [[], [1], [1, 3], [2, 3], [0, 1]])
def test_a_folder_without_all_of_its_folds_is_an_error(tmp_path: Path, numbers: list[int]) -> None:
    for number in numbers:
        (tmp_path / f"fold{number}.yaml").touch()
    with pytest.raises(InputError, match=f"^{tmp_path}: expected fold1.yaml, fold2.yaml, ... of .*, got "):
        read_folds(tmp_path)


def test_a_missing_folder_of_folds_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none: expected fold1.yaml, fold2.yaml, ... of .*, got none of them$"):
        read_folds(tmp_path / "none")


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({}, "expected one of --folds and --holdout, got neither"),
        ({"folds": 2, "holdout": 0.2}, "expected one of --folds and --holdout, got both"),
        ({"folds": 6}, r"--folds: expected 2 to 5, the number of groups \(patients\), got 6"),
        ({"folds": 1}, r"--folds: expected 2 to 5, the number of groups \(patients\), got 1"),
        ({"folds": 2, "seed": -1}, "--seed: expected at least 0, got -1"),
        ({"folds": 2, "out": ""}, "--out: expected a folder for the lists and yaml files, got none"),
        ({"holdout": 1.0}, "--holdout: expected one or two shares .*, together below 1, got 1.0"),
        ({"holdout": [0.5, 0.5]}, "--holdout: expected one or two shares .*, together below 1, got 0.5 0.5"),
        ({"holdout": [0.2, -0.1]}, "--holdout: expected one or two shares .*, got 0.2 -0.1"),
        ({"holdout": [float("nan")]}, "--holdout: expected one or two shares .*, got nan"),
        ({"holdout": [0.1, 0.1, 0.1]}, "--holdout: expected one or two shares .*, got 0.1 0.1 0.1"),
        ({"holdout": [0.05, 0.9], "group": "^(.)"}, r"--holdout: expected at least 3 groups \(patients\).*, got 1"),
        ({"folds": 2, "data": "nowhere.yaml"}, "--data 'nowhere.yaml': no such file"),
    ],
)
def test_bad_input_is_one_line(tmp_path: Path, keywords: dict[str, Any], message: str) -> None:
    pattern = {"group": keywords.pop("group")} if "group" in keywords else {}
    source = make_dataset(tmp_path, **pattern)
    with pytest.raises(InputError, match=f"^{message}") as raised:
        run(**{"data": source, "out": tmp_path / "out", **keywords})
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "out").exists()


def test_a_file_in_the_place_of_the_folder_is_an_error(tmp_path: Path) -> None:
    source = make_dataset(tmp_path)
    with pytest.raises(InputError, match=r"data\.yaml: expected a folder, got a file$"):
        run(data=source, folds=2, out=source)


@pytest.mark.skipif(os.name == "nt" or sys.platform == "darwin", reason="all names are text here")
def test_a_name_that_is_no_text_is_an_error(tmp_path: Path) -> None:
    path = make_dataset(tmp_path, train=4, val=2)
    frame = next((tmp_path / "images" / "train").iterdir())
    frame.rename(frame.with_name("p\udcff.png"))
    with pytest.raises(InputError, match=r"expected a name without .* bytes that are no UTF-8"):
        run(data=str(path), folds=2, out=str(tmp_path / "folds"))


def test_a_name_that_no_list_can_hold_is_an_error(tmp_path: Path) -> None:
    make_dataset(tmp_path, 4, 2)
    write_frame(tmp_path, "train/p09-a\nb.png", (48, 64))
    with pytest.raises(InputError, match=r"p09-a\\nb.png'?: expected a name without line breaks"):
        run(data=tmp_path / "data.yaml", folds=2, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


# --- warnings --------------------------------------------------------------------------------------------------------


def warnings_of(caplog: pytest.LogCaptureFixture, start: str = "") -> list[str]:
    lines = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    return [line for line in lines if line.startswith(start)]


def test_a_sound_dataset_is_divided_without_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run(data=make_dataset(tmp_path, 8, 8), folds=2, out=tmp_path / "out")
    assert not warnings_of(caplog)


def test_without_a_group_pattern_each_frame_is_divided_alone_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    source = make_dataset(tmp_path, 6, 4, group=None)
    written = run(data=source, folds=10, out=tmp_path / "out")
    assert [len(files_of(path)["val"]) for path in written] == [1] * 10
    (warning,) = warnings_of(caplog, f"{source}: ")
    assert "no group pattern" in warning and "flatter" in warning
    assert load_dataset_config(written[0]).group is None
    assert capsys.readouterr().out.splitlines()[2].split()[:4] == ["all", "10", "1.000", "-"]


def test_weak_spots_of_the_data_are_one_warning_each(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    make_dataset(tmp_path, 6, 4)
    for name in ("odd", "odder"):
        write_frame(tmp_path, f"train/{name}.png", (48, 64))
    for path in list_images(load_dataset_config(tmp_path / "data.yaml"), "val"):
        label_path(path).write_text("7 0.5 0.5 0.1 0.1\n")
    (tmp_path / "list.txt").write_text("images/val/gone.png\n")
    source = write_yaml(tmp_path, test="list.txt")
    run(data=source, folds=2, out=tmp_path / "out")
    gone, problems, unmatched = warnings_of(caplog, f"{source}: ")
    assert "1 of 13 listed files do not exist; left out" in gone
    assert "4 problems in its label files" in problems
    assert "finds no patient in 2 file names" in unmatched and "such as odd" in unmatched
    assert len(all_of(tmp_path / "out" / "fold1.yaml")) == 12


def pool_of(folder: Path, frames: Sequence[tuple[str, Sequence[int]]], **keys: Any) -> Pool:
    """A pool without files: for each frame its patient, and the classes of its boxes."""
    boxes = np.array([np.bincount(np.array(classes, np.int64), minlength=len(NAMES)) for _, classes in frames])
    config = load_dataset_config(write_yaml(folder, **keys))
    return Pool(config, [], [patient for patient, _ in frames], boxes, np.zeros(len(frames), np.int64))


RARE: list[tuple[str, list[int]]] = [  # nobody has TR
    ("a", [0, 2]), ("b", [0]), ("c", [0, 0]), ("c", [0, 1]), ("d", [0, 1]), ("e", [1]), ("e", []),
]  # fmt: skip


@pytest.mark.parametrize(
    ("train", "val", "expected"),
    [
        ([4, 5], [0, 1, 2, 3], [
            "fold3 train: AR boxes of 1 patient only",
            "fold3 train: no box of PR; its network never sees that class",
            "fold3 val: MR boxes of 1 patient only",
            "fold3 val: PR boxes of 1 patient only",
        ]),
        ([0, 4, 5], [2, 3, 6], [
            "fold3 train: PR boxes of 1 patient only",
            "fold3 val: AR boxes of 1 patient only",
            "fold3 val: MR boxes of 1 patient only",
            "fold3 val: no box of PR; its figures leave that class out",
        ]),
    ],
)  # fmt: skip
def test_a_part_with_boxes_of_a_class_from_no_patient_or_one_is_named(
    tmp_path: Path, train: list[int], val: list[int], expected: list[str]
) -> None:
    division = Division("fold3", "", {"train": np.array(train), "val": np.array(val)}, {})
    assert list(rare_classes(pool_of(tmp_path, RARE), division)) == expected


def test_where_frames_have_no_patients_a_rare_class_is_counted_in_frames(tmp_path: Path) -> None:
    frames = pool_of(tmp_path, [("1.png", [3]), ("2.png", [3]), ("3.png", [3])], group=None)
    division = Division("holdout", "", {"val": np.array([0, 1]), "test": np.array([2])}, {})
    assert list(rare_classes(frames, division)) == ["holdout test: TR boxes of 1 frame only"]


def test_rare_classes_are_warnings_after_which_the_lists_are_there(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for patient in range(6):
        write_frame(tmp_path, f"train/p{patient}-a.png", (48, 64), [(int(patient == 0), 2, 2, 20, 20)], 0)
    run(data=write_yaml(tmp_path, val="images/train"), folds=2, out=tmp_path / "out")
    lacking = warnings_of(caplog, "fold")
    assert len(lacking) == 4 and all("MR" in line for line in lacking)
    assert len(read_folds(tmp_path / "out")) == 2


# --- errors and the table --------------------------------------------------------------------------------------------


def test_lists_of_files_that_do_not_exist_are_an_error(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("gone.png\n")
    source = write_yaml(tmp_path, train="list.txt", val="list.txt")
    with pytest.raises(InputError, match=r"expected images, but none of 1 listed files exists$"):
        run(data=source, folds=2, out=tmp_path / "out")


def test_the_table_counts_frames_patients_boxes_and_views(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_frame(tmp_path, "train/p1-a.png", (48, 64), [(0, 2, 2, 20, 20), (3, 5, 5, 30, 30)], 2)
    write_frame(tmp_path, "train/p1-b.png", (48, 64), [(3, 2, 2, 20, 20)])
    write_frame(tmp_path, "val/p2-c.png", (48, 64), [], 0)
    run(data=write_yaml(tmp_path), folds=2, out=tmp_path / "out")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["boxes", "frames", "by", "view"]
    assert lines[1].split() == ["frames", "share", "patients", "shift", *NAMES, *VIEW_NAMES, "no", "view"]
    rows = {line[:11].strip(): line[11:].split() for line in lines[2:7]}
    two = ["2", "0.667", "1", "0.333", "1", "0", "0", "2", "0", "0", "1", "1"]
    one = ["1", "0.333", "1", "0.667", "0", "0", "0", "0", "1", "0", "0", "0"]
    assert rows["all"] == ["3", "1.000", "2", "0.000", "1", "0", "0", "2", "1", "0", "1", "1"]
    assert list(rows) == ["all", "fold1 train", "fold1 val", "fold2 train", "fold2 val"]
    assert rows["fold1 train"] == rows["fold2 val"]
    assert sorted([rows["fold1 train"], rows["fold1 val"]]) == [one, two]
    assert len({len(line) for line in lines[1:7]}) == 1
    assert lines[-1] == f"Next: python train.py --folds {tmp_path / 'out'}"


def test_the_table_of_a_dataset_without_views_has_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(data=make_dataset(tmp_path, view_names=None), holdout=0.4, out=tmp_path / "out")
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split() == ["frames", "share", "patients", "shift", *NAMES]
    assert [line.split()[0] for line in lines[2:5]] == ["all", "train", "val"]
    assert lines[-1] == f"Next: python train.py --data {tmp_path / 'out' / 'holdout.yaml'}"


def test_the_command_line_writes_folds(tmp_path: Path) -> None:
    out = succeed("utils.splits", "--data", make_dataset(tmp_path), "--folds", "2", "--out", tmp_path / "out")
    assert out.splitlines()[-1] == f"Next: python train.py --folds {tmp_path / 'out'}"
    assert len(read_folds(tmp_path / "out")) == 2
