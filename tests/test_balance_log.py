"""utils/balance_log.py: a row a step that others can read at once, resumed byte for byte, and summed up by hand."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from utils.balance_log import BalanceLog, BalanceSummary, Rows, column, read_balance
from utils.log import InputError

NAN = math.nan
HEADER = "epoch,step,loss/det,loss/view,weight/det,weight/view,cosine/weight,cosine/trunk,cosine/9"
ODD = (0.1 + 0.2, 1e-12, 123456789.0, 1 / 3, -2.5e-38, 0.0, 1e10)  # figures with more digits than a cell


def row(step: int, steps_an_epoch: int = 2) -> dict[str, float]:
    """A step's figures; the whole trunk is compared at every third step only, and with it layer 9."""
    whole = (step - 1) % 3 == 0
    figures = [ODD[(step + i) % len(ODD)] for i in range(5)]
    names = HEADER.split(",")
    found = dict(zip(names, [(step - 1) // steps_an_epoch, step, *figures, 0.25 if whole else NAN], strict=False))
    return found | ({"cosine/9": 0.5} if whole else {})


def assert_rows(found: Rows, expected: Rows) -> None:
    """The same to six digits, with NaN in all columns that a row lacks."""
    assert [list(one) for one in found] == [HEADER.split(",")] * len(expected)
    for one, wanted in zip(found, expected, strict=True):
        values = [wanted.get(name, NAN) for name in one]
        np.testing.assert_allclose(list(one.values()), values, rtol=5e-6)


def write(path: Path, steps: range, keep_steps: int = 0) -> str:
    """The text of the file after a log of these steps."""
    log = BalanceLog(path, keep_steps)
    for step in steps:
        log.append(row(step))
    log.close()
    return path.read_text()


def summary(rows: Rows, balance: str = "gradnorm") -> BalanceSummary:
    return BalanceSummary.of(rows, balance)


def test_the_first_row_makes_the_header_and_each_row_is_a_line(tmp_path: Path) -> None:
    log = BalanceLog(tmp_path / "balance.csv")
    log.append({"epoch": 0.0, "step": 1.0, "loss/det": 0.125, "cosine/weight": -1 / 3, "cosine/trunk": 1e-9})
    log.append({"epoch": 1.0, "step": 1234567.0, "loss/det": 2.0, "cosine/weight": 1.0, "cosine/trunk": 0.0})
    log.close()
    assert (tmp_path / "balance.csv").read_bytes() == (
        b"epoch,step,loss/det,cosine/weight,cosine/trunk\n0,1,0.125,-0.333333,1e-09\n1,1234567,2,1,0\n"
    )


def test_what_was_not_measured_is_an_empty_cell(tmp_path: Path) -> None:
    log = BalanceLog(tmp_path / "balance.csv")
    log.append({"epoch": 0, "step": 1, "norm/det": NAN, "cosine/trunk": 0.5, "cosine/9": 0.25})
    log.append({"epoch": 0, "step": 2, "norm/det": 3.0, "cosine/trunk": NAN})  # cosine/9 is left out, not NaN
    log.close()
    assert (tmp_path / "balance.csv").read_text().splitlines()[1:] == ["0,1,,0.5,0.25", "0,2,3,,"]
    rows = read_balance(tmp_path / "balance.csv")
    np.testing.assert_array_equal([list(one.values()) for one in rows], [[0, 1, NAN, 0.5, 0.25], [0, 2, 3, NAN, NAN]])


def test_a_column_that_comes_later_is_left_out_and_order_is_the_headers(tmp_path: Path) -> None:
    log = BalanceLog(tmp_path / "balance.csv")
    log.append({"epoch": 0, "step": 1, "norm/det": 3.0})
    log.append({"cosine/9": 0.5, "norm/det": 4.0, "step": 2, "epoch": 0})
    log.close()
    assert (tmp_path / "balance.csv").read_text() == "epoch,step,norm/det\n0,1,3\n0,2,4\n"


def test_an_infinite_figure_is_read_back(tmp_path: Path) -> None:
    log = BalanceLog(tmp_path / "balance.csv")
    log.append({"epoch": 0, "step": 1, "loss/det": math.inf})
    log.close()
    assert read_balance(tmp_path / "balance.csv") == [{"epoch": 0, "step": 1, "loss/det": math.inf}]


def test_every_step_can_be_read_before_the_log_is_closed(tmp_path: Path) -> None:
    path = tmp_path / "balance.csv"
    log = BalanceLog(path)
    assert read_balance(path) == []
    for step in range(1, 6):
        log.append(row(step))
        assert_rows(read_balance(path), [row(s) for s in range(1, step + 1)])
    log.close()


def test_flush_gives_each_row_once_as_it_was(tmp_path: Path) -> None:
    log = BalanceLog(tmp_path / "balance.csv")
    assert log.flush() == []
    rows = [row(1), row(4)]
    log.append(rows[0])
    log.append(rows[1])
    rows[1]["step"] = 0.0  # a row that its maker changes later
    assert log.flush() == [row(1), row(4)]
    assert log.flush() == []
    log.append(row(7))
    assert log.flush() == [row(7)]
    log.close()
    resumed = BalanceLog(tmp_path / "balance.csv", 9)
    assert resumed.flush() == []  # those of before were handed over by then
    resumed.close()


@pytest.mark.parametrize("keep", [1, 2, 5, 6])
def test_a_resumed_run_keeps_earlier_steps_byte_for_byte_and_no_others(tmp_path: Path, keep: int) -> None:
    path = tmp_path / "balance.csv"
    first = write(path, range(1, 8))  # of epochs 0, 1, 2 two steps each, and one of epoch 3
    kept = "".join(first.splitlines(keepends=True)[: 1 + keep])
    log = BalanceLog(path, keep)
    assert path.read_text() == kept  # before it has a step of its own
    log.append(row(keep + 1))
    log.close()
    assert path.read_text() == "".join(first.splitlines(keepends=True)[: 2 + keep])
    assert_rows(read_balance(path), [row(step) for step in range(1, keep + 2)])


def test_a_resumed_run_goes_on_with_the_columns_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "balance.csv"
    write(path, range(1, 3))
    assert write(path, range(3, 6), 2).splitlines()[0] == HEADER  # its own first step has no cosine/9
    assert read_balance(path)[3]["cosine/9"] == 0.5


@pytest.mark.parametrize("left", ["", HEADER + "\n", HEADER[:20], HEADER + "\n0,1,0.", HEADER + "\n5,41,,,,,,,\n"])
def test_a_run_resumed_without_a_row_to_keep_begins_anew(tmp_path: Path, left: str) -> None:
    path = tmp_path / "balance.csv"
    path.write_text(left)
    log = BalanceLog(path, 39)
    log.append({"epoch": 5, "step": 40, "norm/det": 1.0})
    log.close()
    assert path.read_text() == "epoch,step,norm/det\n5,40,1\n"


def test_a_run_that_is_not_resumed_begins_anew(tmp_path: Path) -> None:
    path = tmp_path / "balance.csv"
    path.write_text("epoch,step,norm/det\n0,1,0.5\n0,2,0.5\n")  # of another run, in a folder taken as it is
    assert write(path, range(1, 2)).splitlines()[0] == HEADER
    assert len(read_balance(path)) == 1
    path.write_text("something else\n")  # whatever it is
    assert len(write(path, range(1, 2)).splitlines()) == 2


def test_a_run_resumed_without_the_file_begins_one(tmp_path: Path) -> None:
    assert write(tmp_path / "balance.csv", range(7, 8), 3).splitlines()[0] == HEADER


@pytest.mark.parametrize("cut", range(1, 12))
def test_a_last_line_cut_off_is_left_out(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "balance.csv"
    text = write(path, range(1, 4))
    path.write_text(text[:-cut])
    assert_rows(read_balance(path), [row(1), row(2)])
    assert write(path, range(3, 4), 9) == text  # a run resumed from it begins a line, and does not end the other's


def test_a_line_that_ends_in_a_whole_figure_is_left_out_too_if_it_is_not_ended(tmp_path: Path) -> None:
    (tmp_path / "balance.csv").write_text("epoch,step,loss/det\n0,1,0.5\n0,2,0.12")  # of 0.125
    assert [one["step"] for one in read_balance(tmp_path / "balance.csv")] == [1]


WRONG = {
    "nothing is called so": (None, "expected the balance.csv of a training: .*No such file"),
    "a picture": (b"\x89PNG\r\n\x1a\n\x00\x00\xff", "balance.csv of a training, got something else: .*decode"),
    "results.csv": (
        b"               epoch,      train/box_loss\n 0, 1\n",
        "expected columns epoch, step, .*train/box_loss",
    ),
    "columns in another order": (b"step,epoch\n1,0\n", "expected columns epoch, step, ..., got .step,epoch."),
    "a word": (b"epoch,step,loss/det\n0,1,low\n", ":2: expected numbers: .*'low'"),
    "one endless line": (b"x" * 200_000 + b"\n", "expected the balance.csv of a training, got something else: a line"),
    "a header of two lines": (b'"a\nb",c\n', "expected columns epoch, step"),
    "a short row": (b"epoch,step,loss/det\n0,1\n0,2,1\n", ":2: expected 3 numbers, got 2"),
    "a long row": (b"epoch,step,loss/det\n0,1,0.5,7\n", ":2: expected 3 numbers, got 4"),
    "a row cut off within": (b"epoch,step,loss/det\n0,1,0.\n0\n0,2,1\n", ":3: expected 3 numbers, got 1"),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_file_is_an_error_of_one_line_that_names_it(tmp_path: Path, what: str) -> None:
    content, message = WRONG[what]
    path = tmp_path / "mine.csv"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        read_balance(path)
    assert str(caught.value).startswith(f"{path}:") and "expected" in str(caught.value)
    assert "\n" not in str(caught.value)
    if content is not None:
        with pytest.raises(InputError, match=r"mine\.csv"):  # nor is it overwritten by a run that goes on
            BalanceLog(path, 1)
        assert path.read_bytes() == content


def test_a_folder_is_an_error_too(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"expected the balance\.csv of a training"):
        read_balance(tmp_path)


def test_a_column_is_nan_where_rows_or_the_file_lack_it() -> None:
    rows = [{"step": 1.0, "norm/det": 2.0}, {"step": 2.0}]
    np.testing.assert_array_equal(column(rows, "norm/det"), [2, NAN])
    np.testing.assert_array_equal(column(rows, "target/det"), [NAN, NAN])
    assert column([], "step").shape == (0,)


def steps(**columns: tuple[float, ...]) -> Rows:
    """Rows from columns; norm_det stands for norm/det."""
    lines = zip(*columns.values(), strict=True)
    return [dict(zip((name.replace("_", "/") for name in columns), line, strict=True)) for line in lines]


JOINT = steps(
    weight_det=(1.0, 1.5, 1.75), weight_view=(1.0, 0.5, 0.25), norm_det=(1.0, 2.0, 0.5), norm_view=(2.0, 2.0, 4.0),
    cosine_weight=(-0.5, 0.25, 0.0), cosine_features=(-0.1, -0.1, 0.1),
)  # fmt: skip


def test_a_summary_by_hand() -> None:
    found = summary(JOINT)
    assert found.balance == "gradnorm" and found.steps == 3
    assert found.conflicting == pytest.approx(1 / 3)  # at a right angle nothing conflicts
    assert found.cosine == pytest.approx(-0.25 / 3)
    assert found.conflicting_features == pytest.approx(2 / 3)
    assert found.norm_ratio == pytest.approx((2 * 1 * 8) ** (1 / 3))  # the arithmetic mean is 11/3
    assert found.weights == (1.75, 0.25)
    assert found.mean_weights == pytest.approx((4.25 / 3, 1.75 / 3))


def test_a_summary_passes_over_what_was_not_measured() -> None:
    rows = steps(
        weight_det=(1.0,) * 5, weight_view=(2.0,) * 5, norm_det=(1.0, NAN, 0.0, 3.0, math.inf),
        norm_view=(4.0, 1.0, 1.0, 3.0, 1.0), cosine_weight=(-1.0, NAN, NAN, 1.0, NAN),
        cosine_features=(NAN, -1.0, -1.0, -1.0, 1.0),
    )  # fmt: skip
    found = summary(rows)
    assert found.steps == 5
    assert (found.conflicting, found.conflicting_features) == (0.5, 0.75)
    assert found.norm_ratio == pytest.approx(2.0)  # of the first step and the fourth


def test_a_summary_of_one_task_alone() -> None:
    rows = steps(weight_det=(1.0, 1.0), weight_view=(0.0, 0.0), norm_det=(0.5, 0.25), norm_view=(NAN, NAN))
    found = summary(rows, "single_det")
    assert all(math.isnan(v) for v in (found.conflicting, found.conflicting_features, found.norm_ratio))
    assert found.weights == found.mean_weights == (1.0, 0.0)


def test_a_summary_is_the_same_of_a_file(tmp_path: Path) -> None:
    log = BalanceLog(tmp_path / "balance.csv")
    for step, one in enumerate(JOINT):
        log.append({"epoch": 0, "step": step + 1, **one})
    log.close()
    assert summary(read_balance(tmp_path / "balance.csv")) == summary(JOINT)


def test_the_sentence_of_a_joint_run() -> None:
    assert summary(JOINT, "dwa").sentence() == (
        "Balance (dwa): final weights 1.75 for detection and 0.25 for the view; in 33% of 3 steps the tasks pulled the "
        "last shared layer in opposing directions (mean cosine -0.08), the view's gradient 2.5 times as large as "
        "detection's (unweighted)"
    )


@pytest.mark.parametrize(("name", "weights"), [("single_det", (1.0, 0.0)), ("single_view", (0.0, 1.0))])
def test_the_sentence_of_a_run_of_one_task_claims_no_conflict(name: str, weights: tuple[float, float]) -> None:
    one: Mapping[str, tuple[float, ...]] = {"weight_det": weights[:1], "weight_view": weights[1:]}
    assert summary(steps(**one), name).sentence() == (
        f"Balance ({name}): final weights {weights[0]:g} for detection and {weights[1]:g} for the view; "
        "the tasks were not compared: only one had a gradient at the last shared layer"
    )


def test_the_sentence_counts_the_steps_that_were_compared_and_writes_large_ratios_out() -> None:
    rows = steps(
        weight_det=(1.0, 1.0), weight_view=(1.0, 1.0), norm_det=(0.001, NAN), norm_view=(0.2, 0.2),
        cosine_weight=(-0.5, NAN), cosine_features=(-0.5, NAN),
    )  # fmt: skip
    assert "in 100% of 1 steps the tasks pulled" in summary(rows).sentence()
    assert "200 times as large" in summary(rows).sentence()
    assert "the tasks would have pulled" in summary(rows, "detached").sentence()


@pytest.mark.parametrize("cells", ["inf,1", "0,nan", "0,1e300", "-1,1", "0.5,1"])
def test_an_epoch_or_step_that_is_none_is_refused_before_it_is_written_again(tmp_path: Path, cells: str) -> None:
    (tmp_path / "balance.csv").write_text(f"epoch,step,loss/det\n{cells},1\n")
    with pytest.raises(InputError, match=r"balance\.csv:2: expected whole numbers"):
        read_balance(tmp_path / "balance.csv")


def test_more_columns_than_a_trunk_has_layers_are_refused(tmp_path: Path) -> None:
    (tmp_path / "balance.csv").write_text("epoch,step" + ",a" * 3000 + "\n")
    with pytest.raises(InputError, match=r"expected at most 2000 columns, got 3002"):
        read_balance(tmp_path / "balance.csv")
