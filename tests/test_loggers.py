"""utils/loggers.py: results.csv as YOLOv5's readers expect it, read back digit for digit, and as json."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from utils import loggers
from utils.log import InputError
from utils.loggers import COLUMNS, RunLogger, format_results, read_history, read_results

CONTRACT = [
    "epoch",
    *("train/box_loss", "train/obj_loss", "train/cls_loss"),
    *("metrics/precision", "metrics/recall", "metrics/mAP_0.5", "metrics/mAP_0.5:0.95"),
    *("val/box_loss", "val/obj_loss", "val/cls_loss"),
    *("x/lr0", "x/lr1", "x/lr2"),
]
FIGURES = [0.1, 0.0, 1.0, 123456.75, 1e-9, 6.1e-5, 0.30000001192092896, 2.5e-38, 1e10, -0.25, 1 / 3, 0.012345679]


def row(epoch: int) -> dict[str, float]:
    """Every column a figure of its own."""
    values = [FIGURES[(epoch + i) % len(FIGURES)] for i in range(len(COLUMNS) - 1)]
    return {"epoch": float(epoch), **dict(zip(COLUMNS[1:], values, strict=True))}


def assert_rows(rows: list[dict[str, float]], expected: list[dict[str, float]]) -> None:
    """The same in float32, in which losses are computed, and to 9 digits."""
    assert [list(one) for one in rows] == [list(COLUMNS)] * len(expected)
    found, wanted = (np.array([list(one.values()) for one in group]) for group in (rows, expected))
    np.testing.assert_array_equal(found.astype(np.float32), wanted.astype(np.float32))
    np.testing.assert_allclose(found, wanted, rtol=5e-9)


def stored(folder: Path) -> list[dict[str, float]]:
    return list(json.loads((folder / "training_history.json").read_text()))


def logger(folder: Path, keep_epochs: int = 0) -> RunLogger:
    return RunLogger(folder, keep_epochs, tensorboard=False)


@pytest.mark.parametrize(
    "content",
    [
        b"epoch\nx\n",
        b"epoch,a\n1\n",
        b"\xff",
        b"epoch\n" + b"9" * 200_000 + b"\n",
        b"epoch" + b",a" * 2000 + b"\n",
        b'a"' * 99_999,
    ],
    ids=range(6),
)
def test_a_results_file_of_something_else_is_told(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "results.csv"
    path.write_bytes(content)
    with pytest.raises(
        InputError, match=r"results\.csv: expected the rows of a training, got something else: "
    ) as caught:
        read_results(path)
    assert str(caught.value).isprintable() and len(str(caught.value)) < 500


@pytest.mark.parametrize(
    "content",
    ["[" * 100_000, '{"a":' * 100_000, "9" * 5000, "[1]", '[{"epoch": 1e999, "x/lr0": "\x1b"}]', "[[]]"],
    ids=range(6),
)
def test_a_history_of_something_else_is_told(tmp_path: Path, content: str) -> None:
    path = tmp_path / "training_history.json"
    path.write_text(content)
    with pytest.raises(
        InputError, match=r"history\.json: expected the rows of a training, got something else: "
    ) as caught:
        read_history(path)
    assert str(caught.value).isprintable() and len(str(caught.value)) < 500


def test_yolov5s_columns_come_first_and_in_its_order() -> None:
    assert list(COLUMNS[: len(CONTRACT)]) == CONTRACT
    assert len(set(COLUMNS)) == len(COLUMNS)
    assert {"train/view_loss", "val/view_loss", "metrics/F1", "metrics/view_accuracy"} <= set(COLUMNS[len(CONTRACT) :])


def test_names_and_figures_are_padded_to_20_characters(tmp_path: Path) -> None:
    run = logger(tmp_path)
    run.log(row(0))
    header, line = (tmp_path / "results.csv").read_text().splitlines()
    assert [cell.strip() for cell in header.split(",")] == list(COLUMNS)
    assert all(len(cell) == max(20, len(cell.strip())) for cell in header.split(","))
    assert {len(cell) for cell in line.split(",")} == {20}
    assert line.split(",")[0] == "0".rjust(20)  # an epoch is a whole number
    assert header.startswith("epoch".rjust(20) + "," + "train/box_loss".rjust(20))


def test_csv_is_read_back_as_exactly_as_float32(tmp_path: Path) -> None:
    run = logger(tmp_path)
    for epoch in range(12):
        run.log(row(epoch))
        assert_rows(read_results(tmp_path / "results.csv"), [row(e) for e in range(epoch + 1)])


def test_json_has_the_rows_of_the_csv(tmp_path: Path) -> None:
    run = logger(tmp_path)
    for epoch in range(3):
        run.log(row(epoch))
        assert stored(tmp_path) == [row(e) for e in range(epoch + 1)]  # json keeps every digit
        assert_rows(read_results(tmp_path / "results.csv"), stored(tmp_path))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["results.csv", "training_history.json"]


def test_what_an_epoch_has_not_is_nan_in_csv_and_null_in_json(tmp_path: Path) -> None:
    logger(tmp_path).log({"epoch": 3.0, "train/box_loss": 0.5, "metrics/recall": math.nan})
    (read,) = read_results(tmp_path / "results.csv")
    known = {"epoch": 3.0, "train/box_loss": 0.5}
    assert {name: value for name, value in read.items() if not math.isnan(value)} == known
    assert list(read) == list(COLUMNS)
    (kept,) = stored(tmp_path)
    assert {name: value for name, value in kept.items() if value is not None} == known
    assert len((tmp_path / "results.csv").read_text().splitlines()) == 2


def test_a_figure_of_no_column_is_not_written(tmp_path: Path) -> None:
    logger(tmp_path).log(row(0) | {"metrics/new": 1.0})
    assert "metrics/new" not in (tmp_path / "results.csv").read_text()


@pytest.mark.parametrize("keep", [0, 1, 3, 4, 9])
def test_a_resumed_run_keeps_the_rows_before_it_and_no_others(tmp_path: Path, keep: int) -> None:
    first = logger(tmp_path)
    for epoch in range(4):
        first.log(row(epoch))
    resumed = logger(tmp_path, keep_epochs=keep)
    resumed.log(row(keep + 100))
    expected = [*(row(epoch) for epoch in range(min(keep, 4))), row(keep + 100)]
    assert_rows(read_results(tmp_path / "results.csv"), expected)
    assert_rows(stored(tmp_path), expected)


def test_an_absent_file_has_no_rows(tmp_path: Path) -> None:
    assert read_results(tmp_path / "results.csv") == []
    (tmp_path / "results.csv").write_text(format_results([]))
    assert read_results(tmp_path / "results.csv") == []


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """What loggers made from here on write to TensorBoard, call by call."""
    calls: list[tuple[Any, ...]] = []

    class Writer:
        def add_scalar(self, name: str, value: float, step: int) -> None:
            calls.append((name, value, step))

        def flush(self) -> None:
            calls.append(("flush",))

        def close(self) -> None:
            calls.append(("close",))

    monkeypatch.setattr(loggers, "_event_writer", lambda folder: Writer())
    return calls


def test_events_have_the_figures_but_no_nan(tmp_path: Path, events: list[tuple[Any, ...]]) -> None:
    run = RunLogger(tmp_path)
    run.log({"epoch": 2, "train/box_loss": 0.5, "metrics/recall": 0.25, "x/lr0": math.nan})
    run.close()
    assert events == [("train/box_loss", 0.5, 2), ("metrics/recall", 0.25, 2), ("flush",), ("close",)]


def test_events_of_steps_stand_at_their_steps_and_have_finite_figures_alone(
    tmp_path: Path, events: list[tuple[Any, ...]]
) -> None:
    run = RunLogger(tmp_path)
    first = {"epoch": 1.0, "step": 41.0, "norm/det": 0.5, "norm/view": math.nan, "cosine/weight": -0.25}
    second = {"epoch": 1.0, "step": 42.0, "norm/det": math.inf, "norm/view": 0.0, "cosine/weight": -math.inf}
    run.log_steps([first, second])
    assert events == [
        *(("balance/norm/det", 0.5, 41), ("balance/cosine/weight", -0.25, 41), ("balance/norm/view", 0.0, 42)),
        ("flush",),  # once, and not at every step
    ]
    assert run.rows == [] and not list(tmp_path.iterdir())  # results.csv is of epochs


def test_steps_without_tensorboard_are_passed_over(tmp_path: Path) -> None:
    logger(tmp_path).log_steps([{"epoch": 0.0, "step": 1.0, "norm/det": 0.5}])
    assert not list(tmp_path.iterdir())


def test_files_of_before_a_column_was_there_are_read_with_nan_in_it(tmp_path: Path) -> None:
    old = [name for name in COLUMNS if not name.startswith("leakage/")]
    (tmp_path / "training_history.json").write_text(json.dumps([dict.fromkeys(old, 1.0)]))
    (tmp_path / "results.csv").write_text(",".join(old) + "\n" + ",".join("1" for _ in old) + "\n")
    for rows in (read_history(tmp_path / "training_history.json"), read_results(tmp_path / "results.csv")):
        assert math.isnan(rows[0]["leakage/patients"]) and rows[0]["epoch"] == 1
    RunLogger(tmp_path, 1, tensorboard=False).log({"epoch": 1.0})
    assert len(read_results(tmp_path / "results.csv")) == 2


@pytest.mark.parametrize("epoch", ["nan", "inf"])
def test_a_row_of_no_epoch_is_refused_before_it_is_written_again(tmp_path: Path, epoch: str) -> None:
    (tmp_path / "results.csv").write_text(f"epoch,train/box_loss\n{epoch},1\n")
    with pytest.raises(InputError, match=r"results\.csv: expected the rows of a training"):
        read_results(tmp_path / "results.csv")
