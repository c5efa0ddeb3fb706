"""utils/monitor.py: the two csv files of a run, as older versions and YOLOv5 wrote them, half-written, or damaged."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from tests.test_monitor import STEP_HEADER, lines, row
from utils.log import InputError
from utils.loggers import COLUMNS, format_results
from utils.monitor import finished, read_rows, read_steps


def test_files_of_before_the_columns_were_there(tmp_path: Path) -> None:
    old = COLUMNS[:-2]
    text = ",".join(old) + "\n" + "".join(",".join(f"{row(e)[name]:g}" for name in old) + "\n" for e in range(3))
    (tmp_path / "results.csv").write_text(text)
    rows = read_rows(tmp_path)
    assert " ".join(lines(*rows)["epoch"]) == "3/? spent ? left ? last change 7 s ago"
    assert not finished(rows)


def test_the_last_steps_are_read_from_the_end_of_the_file(tmp_path: Path) -> None:
    assert read_steps(tmp_path) == []
    path = tmp_path / "balance.csv"
    path.write_text("")
    assert read_steps(tmp_path) == []
    path.write_text(STEP_HEADER + "\n")
    assert read_steps(tmp_path) == []
    path.write_text(f"{STEP_HEADER}\n0,1,1,0.5,,-0.25\n0,2,1.25,0.75,0.5,\n0,3,1.2")  # the last is being written
    first, second = read_steps(tmp_path)
    assert math.isnan(first["cosine/weight"]) and math.isnan(second["cosine/trunk"])
    assert (second["step"], second["weight/det"], second["cosine/weight"]) == (2, 1.25, 0.5)


def test_a_long_file_of_steps_is_not_read_whole(tmp_path: Path) -> None:
    line = "0,{},1.23456e-10,1.23456e-10,-1.23456e-10,-1.23456e-10\n"
    written = range(1, 20_001)
    text = STEP_HEADER + "\n" + "not numbers\n" + "".join(map(line.format, written))
    (tmp_path / "balance.csv").write_text(text)
    assert [step["step"] for step in read_steps(tmp_path)] == list(written[-500:])


@pytest.mark.parametrize("text", ["a,b\n1,2\n", f"{STEP_HEADER}\n0,1\n", f"{STEP_HEADER}\n0,1,x,1,1,1\n", "\0\1\n2\n"])
def test_damaged_steps_are_one_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "balance.csv").write_text(text)
    with pytest.raises(InputError, match=r"balance\.csv: expected the steps of a training, got something else"):
        read_steps(tmp_path)


def damaged() -> list[bytes]:
    whole = format_results([row(0), row(1)]).encode()
    return [
        b"",
        whole[:100],
        whole[:-30],
        whole[:-3],  # in the last cell, whose digits still make a number
        whole.replace(b"0.01", b"none"),
        b"\xff" + whole,
        b"\0\0\0\n",
        b"<html>\n</html>\n",
        b"a,b\n1,2\n",  # no epoch
        whole.replace(b" 1,", b" 1.5,"),
        whole.replace(b" 1,", b" nan,"),
        whole.replace(b" 1,", b" inf,"),
        whole.replace(b" 1,", b" -1,"),
    ]


@pytest.mark.parametrize("index", range(len(damaged())))
def test_a_damaged_file_is_one_error_that_names_it(tmp_path: Path, index: int) -> None:
    (tmp_path / "results.csv").write_bytes(damaged()[index])
    with pytest.raises(InputError, match=r"results\.csv: expected the rows of a training, got something else"):
        read_rows(tmp_path)


def test_yolov5s_own_file_is_read(tmp_path: Path) -> None:
    """Its columns are the first 14 of ours, padded as ours are."""
    header = ",".join(f"{name:>20}" for name in COLUMNS[:14])
    (tmp_path / "results.csv").write_text(f"{header}\n" + ",".join([f"{0:>20}"] * 14) + "\n")
    assert lines(*read_rows(tmp_path))["figures"] == ["P", "R", "mAP50", "mAP50-95"]
