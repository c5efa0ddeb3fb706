"""utils/preprocess_sheet.py: which filters are shown, that frames stay as they are, and what cannot be shown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from tests.phantoms import encode, picture, write_image
from tests.scripts import fail, succeed
from utils.config import ROOT
from utils.flags import parse
from utils.images import read_image
from utils.log import InputError
from utils.preprocess import Preprocessor
from utils.preprocess_sheet import FLAGS, asked_filters, find_images, run, shown_filters, side_by_side


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A folder of three frames of noise, two of them of one name."""
    rng, folder = np.random.default_rng(0), tmp_path / "frames"
    for name in ("a.png", "more/a.png", "more/b é.jpg"):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode(path.suffix, rng.integers(0, 256, (90, 120, 3), np.uint8)))
    return folder


@pytest.fixture
def hyp(tmp_path: Path) -> Path:
    """A hyp file that asks for two filters."""
    stock = yaml.safe_load((ROOT / "hyp" / "joint_training_rules.yaml").read_text())
    path = tmp_path / "hyp.yaml"
    path.write_text(yaml.safe_dump({**stock, "sector_mask": True, "gamma": 0.5}))
    return path


def content(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_command_writes_a_picture_a_frame_and_leaves_the_frames_as_they_are(source: Path, tmp_path: Path) -> None:
    before = content(source)
    shown = succeed("utils.preprocess", "--source", source, "--out", tmp_path / "out")
    assert content(source) == before
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.png", "a_2.png", "b é.png"]
    assert "before | sector mask | gamma 0.7 | clahe 2 | sharpen 1 | all" in shown


def test_the_command_ends_a_fault_in_one_line(source: Path) -> None:
    assert "--out: expected a folder, got none" in fail("utils.preprocess", "--source", source)


def test_each_filter_is_shown_alone_where_none_is_asked_for() -> None:
    shown = shown_filters(Preprocessor())
    assert shown == {
        "sector mask": Preprocessor(sector_mask=True), "gamma 0.7": Preprocessor(gamma=0.7),
        "clahe 2": Preprocessor(clahe=2.0), "sharpen 1": Preprocessor(sharpen=1.0),
        "all": Preprocessor(True, 0.7, 2.0, 1.0),
    }  # fmt: skip
    assert shown_filters(Preprocessor(clahe=3.0)) == {"after": Preprocessor(clahe=3.0)}


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], Preprocessor()),
        (["--clahe", "3"], Preprocessor(clahe=3.0)),
        (["--hyp", "HYP"], Preprocessor(sector_mask=True, gamma=0.5)),
        (["--hyp", "HYP", "--gamma", "2", "--sharpen", "1"], Preprocessor(sector_mask=True, gamma=2.0, sharpen=1.0)),
        (["--hyp", "HYP", "--no-sector-mask"], Preprocessor(gamma=0.5)),
    ],
    ids=str,
)
def test_typed_filters_beat_those_of_the_hyp_file(hyp: Path, arguments: list[str], expected: Preprocessor) -> None:
    typed = [str(hyp) if argument == "HYP" else argument for argument in arguments]
    assert asked_filters(parse(FLAGS, "", typed)) == expected


def test_a_picture_holds_the_frame_and_what_the_filters_make_of_it() -> None:
    image = np.random.default_rng(0).integers(0, 256, (90, 120, 3), np.uint8)
    filters = {"after": Preprocessor(gamma=0.5)}
    sheet = side_by_side(image, filters)
    for cell in (image, filters["after"](image)):
        windows = np.lib.stride_tricks.sliding_window_view(sheet, cell.shape)
        assert (windows[..., 0, 0, 0, :] == cell[0, 0]).all(-1).any()
        assert any(np.array_equal(windows[y, x, 0], cell) for y, x in np.ndindex(windows.shape[:2]))


def test_one_image_may_be_shown_and_lie_next_to_the_folder_of_pictures(source: Path) -> None:
    out = source / "shown"
    assert run(source=str(source / "a.png"), out=str(out), gamma=0.5) == [out / "a.png"]
    before, after = side_by_side(read_image(source / "a.png"), {"after": Preprocessor(gamma=0.5)}), out / "a.png"
    np.testing.assert_array_equal(read_image(after), before)


def test_a_limit_spreads_over_the_folder(tmp_path: Path) -> None:
    files = [write_image(tmp_path / f"{i}.png") for i in range(9)]
    assert find_images(tmp_path, 3) == [files[0], files[4], files[8]]
    assert find_images(tmp_path, 1) == files[:1]
    assert find_images(tmp_path, 10) == find_images(tmp_path, None) == files


def test_unreadable_images_are_left_out_with_a_line_each(
    source: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (source / "a.png").write_bytes(b"no image")
    (source / "c.jpg").write_bytes(b"")
    assert len(run(source=str(source), out=str(tmp_path / "out"), clahe=2)) == 2
    assert [record.message.split(":")[0] for record in caplog.records] == [
        f"skipped {source / name}" for name in ("a.png", "c.jpg")
    ]


@pytest.mark.parametrize(
    ("keywords", "words"),
    [
        ({"out": "{source}"}, "expected a folder outside of --source"),
        ({"out": "{source}/more/deep"}, "expected a folder outside of --source"),
        ({"source": "{source}/a.png", "out": "{source}"}, "expected a folder outside of --source"),
        ({"out": "{source}/../link"}, "expected a folder outside of --source"),
        ({"out": "{source}/../taken"}, "expected a folder without a_2.png; nothing is overwritten"),
        ({"out": "{source}/../file"}, "expected a folder, got a file"),
        ({"source": ""}, "--source: expected an image or a folder, got none"),
        ({"source": "{source}/gone"}, "nothing is there"),
        ({"source": "{source}/../taken/empty"}, "expected images .*, got none"),
        ({"source": "{source}/../broken"}, "none of its 1 images can be read; first .*x.png"),
        ({"limit": 0}, "--limit: expected at least 1, got 0"),
        ({"gamma": 0}, "--gamma: expected 0.1 to 10, got 0"),
        ({"clahe": -1}, "--clahe: expected 0 to 100, got -1"),
        ({"sharpen": "nan"}, "--sharpen: expected 0 to 10, got nan"),
        ({"hyp": "gone.yaml"}, "--hyp 'gone.yaml': no such file"),
    ],
    ids=str,
)
def test_faults_are_one_line_and_write_nothing(
    source: Path, tmp_path: Path, keywords: dict[str, Any], words: str
) -> None:
    (tmp_path / "link").symlink_to(source)
    (tmp_path / "taken" / "empty").mkdir(parents=True)
    (tmp_path / "taken" / "a_2.png").write_bytes(b"theirs")
    (tmp_path / "file").write_bytes(encode(".png", picture()))
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "x.png").write_bytes(b"no image")
    before = content(tmp_path)
    filled = {k: v.format(source=source) if isinstance(v, str) else v for k, v in keywords.items()}
    with pytest.raises(InputError, match=words):
        run(**{"source": str(source), "out": str(tmp_path / "out")} | filled)
    assert content(tmp_path) == before and not (tmp_path / "out").exists()
