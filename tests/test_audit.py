"""utils/audit.py: what a run writes and prints about a faulty dataset, and that it changes nothing."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.phantoms import NAMES, VIEW_NAMES, Box, encode, label_text, picture, write_frame, write_yaml
from tests.scripts import run
from utils import audit
from utils.config import load_dataset_config
from utils.findings import Rule, find_all, read_frames
from utils.log import InputError

SHAPE = (48, 64)
CLEAN = ("train/p01-c01-f01", "train/p01-c01-f02", "train/p01-c01-f03", "val/p02-c01-f01", "val/p02-c01-f02")


def box(index: int) -> Box:
    """A box of 12 x 10 pixels, elsewhere for each index, so that no two frames are alike."""
    return 1, 2 + 3 * index, 4 + 2 * index, 14 + 3 * index, 14 + 2 * index


def write_clean(folder: Path) -> Path:
    """A faultless dataset: the frames of CLEAN, each with an MR box, all of one view."""
    for index, name in enumerate(CLEAN):
        write_frame(folder, f"{name}.png", SHAPE, [box(index)], 0)
    return folder


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_clean(tmp_path / "data")


@dataclass(frozen=True)
class Run:
    """An audit that ended: its dataset's yaml, what it returned and printed, and its folder."""

    yaml: Path
    content: dict[str, Any]
    printed: str
    folder: Path

    def rows(self, name: str) -> list[dict[str, str]]:
        with (self.folder / name).open(newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))

    def text(self, name: str) -> str:
        return (self.folder / name).read_text(encoding="utf-8")


def audited(folder: Path, project: Path, **keys: Any) -> Run:
    yaml, printed = write_yaml(folder, **keys), io.StringIO()
    with contextlib.redirect_stdout(printed):
        content = audit.run(data=yaml, project=project)
    return Run(yaml, content, printed.getvalue(), project / "exp")


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The audit of a dataset with a fault of many kinds.

    A frame that is no image, one of another view than its clip's, two of the same bytes, one with two tiny boxes, and
    a patient of train in test, in a frame without a view.
    """
    place = tmp_path_factory.mktemp("faulty")
    folder = write_clean(place / "data")
    (folder / "images" / f"{CLEAN[2]}.png").write_bytes(b"no image")
    (folder / "labels" / f"{CLEAN[1]}.txt").write_text(label_text(SHAPE, [box(1)], 2))
    for name in CLEAN[3:]:
        write_frame(folder, f"{name}.png", SHAPE, [box(3)], 0)
    write_frame(folder, "test/p03-c01-f01.png", SHAPE, [(0, 3, 3, 8, 30), (3, 30, 3, 33, 40)], 2)
    write_frame(folder, "test/p01-c02-f01.png", SHAPE, [box(6)])
    return audited(folder, place / "runs", test="images/test")


def test_the_json_holds_all_counts(faulty: Run) -> None:
    content = faulty.content
    assert json.loads(faulty.text("audit.json")) == content
    assert list(content["parts"]) == ["train", "val", "test"] and content["parts"]["train"]["view PLAX"] == 2
    assert content["parts"]["test"] == {
        "frames": 2, "boxes AR": 1, "boxes MR": 1, "boxes PR": 0, "boxes TR": 1,
        "view PLAX": 0, "view PSAX": 0, "view A4C": 1, "no view": 1,
    }  # fmt: skip
    assert list(content["rules"]) == [rule.title for rule in Rule]
    assert {name: row for name, row in content["rules"].items() if row["findings"]} == {
        Rule.UNDECODABLE.title: {"findings": 1, "frames": 1},
        Rule.DUPLICATE.title: {"findings": 1, "frames": 2},
        Rule.SHARED.title: {"findings": 1, "frames": 4},
        Rule.VIEWS.title: {"findings": 1, "frames": 1},
        Rule.TINY.title: {"findings": 2, "frames": 1},
        Rule.NO_VIEW.title: {"findings": 1, "frames": 1},
    }


def test_the_json_says_how_patients_and_clips_are_spread(faulty: Run) -> None:
    assert faulty.content["patients"] == {
        "count": 3, "in_several_parts": 1, "share_of_frames": {"train": 1, "val": 0, "test": 0.5},
    }  # fmt: skip
    assert faulty.content["clips"] == {
        "count": 4, "in_several_parts": 0, "share_of_frames": {"train": 0, "val": 0, "test": 0},
    }  # fmt: skip


def test_findings_csv_has_a_row_a_file_gravest_rule_first_and_one_for_a_shared_patient(faulty: Run) -> None:
    found = faulty.rows("findings.csv")
    assert list(found[0]) == ["rule", "part", "file", "line", "what"]
    assert [(row["rule"], row["part"], Path(row["file"]).stem) for row in found] == [
        ("image not decoded", "train", "p01-c01-f03"),
        ("identical in a part", "val", "p02-c01-f01"),
        ("identical in a part", "val", "p02-c01-f02"),
        ("patient in several parts", "train+test", ""),
        ("views differ in a clip", "train", "p01-c01-f02"),
        ("tiny box", "test", "p03-c01-f01"),
        ("tiny box", "test", "p03-c01-f01"),
        ("no view", "test", "p01-c02-f01"),
    ]
    assert found[1]["what"].endswith("; here MR, PLAX") and found[5]["what"].startswith("AR of 5.0 x 27.0 pixels")
    assert found[3]["what"].startswith("patient p01 has frames in")


def test_patients_csv_has_a_row_a_patient(faulty: Run) -> None:
    found = faulty.rows("patients.csv")
    assert [row["patient"] for row in found] == ["p01", "p02", "p03"]
    assert found[0] == {
        "patient": "p01", "parts": "train+test", "clips": "2", "frames": "4", "boxes AR": "0", "boxes MR": "4",
        "boxes PR": "0", "boxes TR": "0", "view PLAX": "2", "view PSAX": "0", "view A4C": "1", "no view": "1",
    }  # fmt: skip


def test_the_contact_sheet_shows_suspicious_frames_once_a_rule_and_no_broken_ones(faulty: Run) -> None:
    page = faulty.text("contact_sheet.html")
    for name in ("p02-c01-f01", "p02-c01-f02", "p01-c01-f02", "p03-c01-f01", "p01-c02-f01"):
        assert page.count(f'alt="{name}.png"') == 1
    assert 'alt="p01-c01-f03.png"' not in page and page.count("data:image/jpeg;base64,") == 5
    assert "AR of 5.0 x 27.0 pixels, 4.4% of the frame; TR of 3.0 x 37.0 pixels, 3.6% of the frame" in page


def test_the_summary_counts_parts_and_rules(faulty: Run) -> None:
    printed = [line.split() for line in faulty.printed.splitlines()]
    assert ["train", "3", "0", "3", "0", "0", "2", "0", "1", "0"] in printed
    assert ["1", "2", "identical", "in", "a", "part:", *Rule.DUPLICATE.advice.split()] in printed
    assert "patients: 3, of them 1 in more than one part, with 100% of train, 0% of val, 50% of test" in faulty.printed
    assert ["train", "train", "2", "1", "0.000", "0.000"] in printed  # of three frames one is no image
    assert ["val", "val", "2", "1", "1.000", "1.000"] in printed
    assert printed[-1] == ["Results", "in", str(faulty.folder)]
    assert not any("huge" in line for line in printed)


def test_nothing_in_the_dataset_is_changed_and_no_run_overwritten(faulty: Run, tmp_path: Path) -> None:
    def state() -> dict[Path, tuple[bytes, int]]:
        files = sorted(path for path in faulty.yaml.parent.rglob("*") if path.is_file())
        return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in files}

    before = state()
    for _ in range(2):
        audit.run(data=faulty.yaml, project=tmp_path)
    assert state() == before
    written = sorted(path.name for path in (tmp_path / "exp").iterdir())
    assert written == ["audit.json", "contact_sheet.html", "findings.csv", "patients.csv"]
    assert (tmp_path / "exp2/audit.json").read_bytes() == (tmp_path / "exp/audit.json").read_bytes()


def test_the_command_ends_well_whatever_it_found(faulty: Run, tmp_path: Path) -> None:
    done = run("utils.labels", "--data", faulty.yaml, "--project", tmp_path)
    assert done.returncode == 0 and "Warning" not in done.stderr
    assert "identical in a part" in done.stdout
    assert (tmp_path / "exp/contact_sheet.html").is_file()


# --- other datasets --------------------------------------------------------------------------------------------------


def test_the_summary_of_a_faultless_dataset_says_so(data: Path, tmp_path: Path) -> None:
    done = audited(data, tmp_path / "runs")
    assert "nothing wrong or doubtful was found" in done.printed
    assert "patients: 2, of them 0 in more than one part\n" in done.printed
    assert done.rows("findings.csv") == [] and "<img" not in done.text("contact_sheet.html")


def test_without_a_pattern_it_is_told_that_patients_and_clips_were_not_checked(data: Path, tmp_path: Path) -> None:
    done = audited(data, tmp_path / "runs", group=None, view_names=None)
    assert done.content["patients"] is None and done.content["clips"] is None
    assert "patients: not checked" in done.printed and "clips: not checked" in done.printed
    assert done.content["agreement"] == [] and "copied" not in done.printed
    assert done.text("patients.csv") == "patient,parts,clips,frames,boxes AR,boxes MR,boxes PR,boxes TR\n"


def test_what_a_spreadsheet_would_run_is_made_text(tmp_path: Path) -> None:
    write_frame(tmp_path, "train/=1+1-f1.png", SHAPE, [box(0)], 0)
    write_frame(tmp_path, "val/@x-f1.png", SHAPE, [box(1)], 0)
    done = audited(tmp_path, tmp_path / "runs", group="^(.*)-")
    assert [row["patient"] for row in done.rows("patients.csv")] == ["'=1+1", "'@x"]


def test_under_a_thumbnail_stand_few_reasons(data: Path) -> None:
    slips = [(1, 3 * i, 3, 3 * i + 2, 30) for i in range(10)]
    (data / "labels" / f"{CLEAN[0]}.txt").write_text(label_text(SHAPE, slips, 0))
    config = load_dataset_config(write_yaml(data))
    found = find_all(read_frames(config), config)
    tiny = next(section for section in audit.sections(found) if section.title == Rule.TINY.title)
    (shown,) = tiny.pictures
    assert shown.note.count("pixels") == 3 and shown.note.endswith("; 7 more") and shown.note.startswith("train: ")


def test_names_are_escaped_on_the_page(tmp_path: Path) -> None:
    write_frame(tmp_path, "train/p1-<b>&.png", SHAPE, [(0, 3, 3, 8, 30)], 0)
    write_frame(tmp_path, "val/p2-f1.png", SHAPE, [box(1)], 0)
    page = audited(tmp_path, tmp_path / "runs").text("contact_sheet.html")
    assert "p1-&lt;b&gt;&amp;.png" in page and "p1-<b>" not in page


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such a file name")
def test_a_file_name_that_is_no_utf8_is_written_with_a_question_mark(data: Path, tmp_path: Path) -> None:
    odd = data / "images/train" / os.fsdecode(b"p01-c01-\xff9.png")
    odd.write_bytes(encode(".png", picture()))
    done = audited(data, tmp_path / "runs")
    assert done.content["rules"][Rule.NO_LABEL.title]["findings"] == 1
    assert "p01-c01-?9.png" in done.text("findings.csv") and "p01-c01-?9.png" in done.text("contact_sheet.html")


# --- options ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"data": "gone.yaml"}, r"--data 'gone\.yaml': no such file"),
        ({"dta": "x.yaml"}, "unknown option 'dta'"),
        ({"device": "cpu"}, "unknown option 'device'"),
    ],
)
def test_options_that_cannot_be_used(keywords: dict[str, str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        audit.run(**keywords)


def test_a_part_that_is_not_there_is_an_error_and_leaves_no_run_folder(data: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"test: expected a folder or a \.txt list"):
        audited(data, tmp_path / "runs", test="images/gone")
    assert not (tmp_path / "runs").exists()


def test_a_run_name_with_a_path_is_an_error(data: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--name"):
        audit.run(data=write_yaml(data), project=tmp_path / "runs", name="a/b")


def test_names_of_classes_and_views_are_those_of_the_tables(data: Path) -> None:
    config = load_dataset_config(write_yaml(data))
    expected = ["frames", *(f"boxes {name}" for name in NAMES), *(f"view {name}" for name in VIEW_NAMES), "no view"]
    assert list(audit.tally((), config)) == expected and not any(audit.tally((), config).values())
