"""Patients and clips from file names."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.phantoms import write_yaml
from utils import groups
from utils.config import DatasetConfig, load_dataset_config
from utils.groups import clips, patients, unmatched
from utils.log import InputError

FILES = [
    Path(f"/data/{name}")
    for name in ("p01-c01-f0001.png", "p01-c01-f0002.png", "p01-c02-f0001.png", "p02-c01-f0001b.jpg")
]


def config(group: str | None = None, clip: str | None = None) -> DatasetConfig:
    return DatasetConfig(Path("data.yaml"), Path(), {}, ("AR",), group=group, clip=clip)


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no alarms here")
@pytest.mark.parametrize("key", ["group", "clip"])
def test_a_pattern_without_end_is_an_error(tmp_path: Path, key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(groups, "PATIENCE", 0.3)
    config = load_dataset_config(write_yaml(tmp_path, **{"group": None, key: "((.|.)+)+$x"}))
    before = signal.getsignal(signal.SIGALRM)
    with pytest.raises(InputError, match=rf"data\.yaml: {key}: expected a pattern that finds its group at once"):
        (groups.patients if key == "group" else groups.clips)(config, [Path("x" * 60)])
    assert signal.getsignal(signal.SIGALRM) == before and signal.getitimer(signal.ITIMER_REAL)[0] == 0


def test_the_first_group_of_the_pattern_is_the_patient() -> None:
    assert patients(config(r"^(p\d+)-"), FILES) == ["p01", "p01", "p01", "p02"]
    assert patients(config(), FILES) is None


def test_a_name_that_does_not_match_is_a_patient_of_its_own() -> None:
    files = [*FILES, Path("/data/unknown.png")]
    assert patients(config(r"^(p\d+)-"), files) == ["p01", "p01", "p01", "p02", "unknown.png"]
    assert unmatched(config(r"^(p\d+)-"), files) == [files[-1]]
    assert unmatched(config(), files) == []


def test_an_optional_group_that_takes_no_part_is_no_patient() -> None:
    assert patients(config(r"^(x)?p"), FILES[:1]) == ["p01-c01-f0001.png"]
    assert unmatched(config(r"^(x)?p"), FILES[:1]) == FILES[:1]


def test_without_a_clip_pattern_the_clip_is_the_name_up_to_its_last_number() -> None:
    assert clips(config(r"^(p\d+)-"), FILES) == ["p01-c01", "p01-c01", "p01-c02", "p02-c01"]
    assert clips(config(), FILES) is None


@pytest.mark.parametrize(
    ("name", "clip"),
    [("p7_12.png", "p7"), ("p7 clip frame003.png", "p7 clip"), ("p7-0001b.jpg", "p7"), ("p7-x.png", "p7-x")],
)
def test_names_of_other_habits(name: str, clip: str) -> None:
    assert clips(config(r"^(p\d+)"), [Path(name)]) == [clip]


def test_clips_of_the_same_name_of_two_patients_are_two() -> None:
    files = [Path("p01-c1-f1.png"), Path("p02-c1-f1.png")]
    assert clips(config(r"^(p\d+)-", r"-(c\d+)-"), files) == ["p01/c1", "p02/c1"]
    assert clips(config(None, r"-(c\d+)-"), files) == ["c1", "c1"]


def test_a_patient_whose_number_begins_anothers_keeps_its_clips() -> None:
    files = [Path("1_10_0001.png"), Path("10_10_0001.png")]
    assert clips(config(r"^(\d+)_", r"_(\d+)_"), files) == ["1/10", "10"]
    assert clips(config(r"^(\d+)_"), files) == ["1_10", "10_10"]
