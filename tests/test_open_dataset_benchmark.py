"""benchmarks/open_dataset.py: a row a mode, and figures with the machine they are of."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import open_dataset
from utils import frames
from utils.config import load_dataset_config
from utils.dataset import EchoDataset
from utils.flags import parse
from utils.log import InputError


def test_each_mode_is_a_row_in_the_table_and_in_the_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, usual = tmp_path / "opened.json", frames.CACHE_FOLDER
    rows = open_dataset.main(parse(open_dataset.FLAGS, "", ["--frames", "50", "--json", str(path)]))
    assert [(row["cache"], row["frames"]) for row in rows] == [("ram", 50), ("disk", 50)]
    assert all(row["first_s"] > 0 and row["second_s"] > 0 for row in rows)
    content = json.loads(path.read_text(encoding="utf-8"))
    assert content["rows"] == rows and {"machine", "date", "command"} <= set(content)
    assert {"python", "torch", "cores"} <= set(content["machine"])
    assert "second_s" in capsys.readouterr().out and usual == frames.CACHE_FOLDER


def test_the_frames_are_a_faultless_dataset(tmp_path: Path) -> None:
    config = load_dataset_config(open_dataset.make_frames(tmp_path, 80, 42))
    train, val = (EchoDataset(config, part, 64, strict=True) for part in ("train", "val"))
    assert (len(train), len(val)) == (80, 2) and set(train.views()) == {0, 1, 2}
    assert len(set(train.groups or ())) == 36 and not set(train.groups or ()) & set(val.groups or ())


def test_too_few_patients_are_told() -> None:
    with pytest.raises(InputError, match="--patients: expected at least 2, got 1"):
        open_dataset.main(parse(open_dataset.FLAGS, "", ["--patients", "1"]))
