"""The phantom: equal bytes for equal configs, labels that fit the pictures, and a folder that is whole or not there."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from utils import phantom
from utils.log import InputError
from utils.phantom import VALVES, VIEWS, FramePlan, PhantomConfig, ensure, plan, render

TINY = PhantomConfig(patients=5, frames=2, height=96, width=128)
SPLITS = ("train", "val", "test")
PERMITTED = {"PLAX": {"AR", "MR"}, "PSAX": {"AR", "PR", "TR"}, "A4C": {"MR", "TR"}}


def tree(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data") / "phantom"
    assert ensure(root, TINY)
    return root


@pytest.fixture(scope="module")
def frames() -> list[FramePlan]:
    return plan(PhantomConfig())


def coloured(picture: np.ndarray) -> np.ndarray:
    """Which pixels are saturated: colour Doppler, not tissue."""
    return np.ptp(picture.astype(int), axis=-1) > 60


def read_label(path: Path) -> tuple[list[tuple[int, np.ndarray]], list[int] | None]:
    """The boxes, class and x1 y1 x2 y2 normalised, and the one-hot view row, of a label file parsed strictly."""
    rows, view = path.read_text().splitlines(), None
    if "" in rows:
        assert rows.index("") == len(rows) - 2
        view = [int(number) for number in rows[-1].split(" ")]
        rows = rows[:-2]
    boxes = []
    for row in rows:
        valve, *numbers = row.split(" ")
        values = np.array(numbers, dtype=float)
        if len(values) == 4:
            corners = np.concatenate([values[:2] - values[2:] / 2, values[:2] + values[2:] / 2])
        else:
            assert len(values) == 8
            points = values.reshape(4, 2)
            corners = np.concatenate([points.min(0), points.max(0)])
        boxes.append((int(valve), corners))
    return boxes, view


@pytest.mark.parametrize("keys", [{"patients": 10**9}, {"frames": 10**6}, {"height": 5000, "width": 5000}])
def test_a_phantom_that_fills_the_disk_is_refused(keys: dict[str, int]) -> None:
    with pytest.raises(InputError, match="expected at most 1,000,000 frames, of at most 4,096 pixels a side"):
        PhantomConfig(**keys)


def test_default_counts_and_splits(frames: list[FramePlan]) -> None:
    count = Counter(frame.split for frame in frames)
    assert 560 <= count["train"] <= 640
    assert 110 <= count["val"] <= 150 and 110 <= count["test"] <= 150
    patients = {split: {frame.patient for frame in frames if frame.split == split} for split in SPLITS}
    assert sum(len(group) for group in patients.values()) == len(set.union(*patients.values())) == 36
    assert len({frame.name for frame in frames}) == len(frames)


def test_every_patient_shows_every_view(frames: list[FramePlan]) -> None:
    views = defaultdict(set)
    for frame in frames:
        views[frame.patient].add(frame.view)
    assert all(shown == {0, 1, 2} for shown in views.values())


def test_valves_permitted_per_view_and_present_in_every_split(frames: list[FramePlan]) -> None:
    for split in SPLITS:
        seen: defaultdict[str, set[str]] = defaultdict(set)
        for frame in frames:
            if frame.split == split:
                seen[VIEWS[frame.view]] |= {VALVES[jet.valve] for jet in frame.jets}
        assert seen == PERMITTED


def test_default_shares(frames: list[FramePlan]) -> None:
    jets = [jet for frame in frames for jet in frame.jets]
    share = Counter(len(frame.jets) for frame in frames)
    assert 0.08 < share[0] / len(frames) < 0.16
    assert 0.15 < share[2] / len(frames) < 0.40
    assert set(share) == {0, 1, 2}
    assert 0.01 < np.mean([not frame.shows_view for frame in frames]) < 0.05
    assert 0.2 < np.mean([jet.polygon for jet in jets]) < 0.3
    assert min(Counter(jet.valve for jet in jets).values()) > 100


def test_same_bytes_for_any_number_of_threads(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    ensure(tmp_path / "again", TINY)
    assert tree(tmp_path / "again") == tree(tiny)


def test_another_seed_gives_other_frames() -> None:
    other = replace(TINY, seed=1)
    first, second = render(TINY, plan(TINY)[0])[0], render(other, plan(other)[0])[0]
    assert not np.array_equal(first, second)


def test_written_labels_fit_plan_and_pictures(tiny: Path) -> None:
    written = {path.stem: path for path in (tiny / "labels").rglob("*.txt")}
    assert set(written) == {frame.name for frame in plan(TINY)}
    for frame in plan(TINY):
        assert written[frame.name].parent.name == frame.split
        picture = cv2.imread(str(tiny / "images" / frame.split / f"{frame.name}.jpg"))
        assert picture is not None and picture.shape == (TINY.height, TINY.width, 3)
        boxes, view = read_label(written[frame.name])
        assert view == ([int(index == frame.view) for index in range(3)] if frame.shows_view else None)
        assert [valve for valve, _ in boxes] == [jet.valve for jet in frame.jets]
        for _, corners in boxes:
            assert (corners >= 0).all() and (corners <= 1).all()
            left, top, right, bottom = (corners * np.tile([TINY.width, TINY.height], 2)).round().astype(int)
            # At this size JPEG's coarse colour greys much of a jet; the share is checked at the default size.
            assert coloured(picture[top:bottom, left:right]).any()


def test_label_text_is_written_as_described() -> None:
    config = PhantomConfig(width=400, height=200)
    jets = tuple(phantom.Jet(valve, 1, 0, 0, polygon) for valve, polygon in ((1, False), (3, True)))
    frame = FramePlan("train", 1, 1, 1, view=2, jets=jets)
    boxes = [(100, 50, 40, 20), (0, 0, 200, 100)]
    first, second = "1 0.300000 0.300000 0.100000 0.100000\n", "3 0.000000 0.000000 0.500000 0.000000 "
    text = phantom.label_text(config, frame, boxes)
    assert text == first + second + "0.500000 0.500000 0.000000 0.500000\n\n0 0 1\n"
    assert phantom.label_text(config, replace(frame, jets=(), view=0), []) == "\n1 0 0\n"
    assert phantom.label_text(config, replace(frame, jets=jets[:1], shows_view=False), boxes[:1]) == first


def test_boxes_are_tight_about_the_jet(frames: list[FramePlan]) -> None:
    config = PhantomConfig()
    lone = [frame for frame in frames if len(frame.jets) == 1][::40]
    for frame in lone:
        picture, [(left, top, width, height)] = render(config, frame)
        bare, none = render(config, replace(frame, jets=()))
        assert none == []
        rows, columns = np.nonzero((picture != bare).any(-1))
        drawn = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
        assert np.abs(drawn - [left, top, left + width, top + height]).max() <= 1
        assert min(width, height) >= 18
        decoded = cv2.imdecode(cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 95])[1], cv2.IMREAD_COLOR)
        assert decoded is not None and coloured(decoded[top : top + height, left : left + width]).mean() > 0.2


def test_normal_flow_is_coloured_but_has_no_box(frames: list[FramePlan]) -> None:
    silent = [frame for frame in frames if not frame.jets][:12]
    # without the colour scale at the right edge
    counts = [coloured(render(PhantomConfig(), frame)[0][:, :290]).sum() for frame in silent]
    assert np.median(counts) > 300


def test_second_start_rewrites_nothing(tiny: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in tiny.rglob("*")}
    assert not ensure(tiny, TINY)
    assert {path: path.stat().st_mtime_ns for path in tiny.rglob("*")} == before


def test_empty_folder_is_filled_and_parents_are_made(tmp_path: Path) -> None:
    config = PhantomConfig(patients=3, clips=1, frames=1, height=96, width=96)
    (tmp_path / "a").mkdir()
    assert ensure(tmp_path / "a", config) and ensure(tmp_path / "b" / "c", config)
    assert tree(tmp_path / "a") == tree(tmp_path / "b" / "c")


def test_foreign_folder_is_refused_untouched(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep")
    (tmp_path / "file").write_text("keep")
    for name in ("mine", "file"):
        with pytest.raises(InputError, match="choose another path"):
            ensure(tmp_path / name, TINY)
    assert tree(tmp_path) == {"mine/notes.txt": b"keep", "file": b"keep"}


def test_other_config_or_version_is_refused(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = tree(tiny)
    with pytest.raises(InputError, match="delete it or choose another path"):
        ensure(tiny, replace(TINY, seed=1))
    monkeypatch.setattr(phantom, "VERSION", phantom.VERSION + 1)
    with pytest.raises(InputError, match="delete it or choose another path"):
        ensure(tiny, TINY)
    assert tree(tiny) == before


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, OSError])
def test_interruption_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    config = replace(TINY, frames=10)
    drawn = []

    def failing(config: PhantomConfig, frame: FramePlan) -> object:
        drawn.append(frame)
        if len(drawn) == 5:
            raise error("stop")
        return render(config, frame)

    monkeypatch.setattr(phantom, "render", failing)
    with pytest.raises(error):
        ensure(tmp_path / "phantom", config)
    assert list(tmp_path.iterdir()) == []
    assert len(drawn) < len(plan(config)) / 2  # the rest is not drawn in vain
    monkeypatch.undo()
    assert ensure(tmp_path / "phantom", TINY)


def test_starts_at_the_same_time_agree(tiny: Path, tmp_path: Path) -> None:
    with ThreadPoolExecutor(3) as pool:
        made = list(pool.map(lambda _: ensure(tmp_path / "phantom", TINY), range(3)))
    assert made.count(True) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["phantom"]
    assert tree(tmp_path / "phantom") == tree(tiny)


@pytest.mark.parametrize("moment", ["is_dir", "iterdir", "rmdir"])
def test_an_empty_folder_may_go_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str) -> None:
    root, real = tmp_path / "phantom", getattr(Path, moment)
    gone: list[Path] = []

    def after_another(path: Path) -> object:
        """Another start has just taken the folder away, and has not put its own there yet."""
        if path == root and not gone:
            gone.append(path)
            os.rmdir(path)  # noqa: PTH106  (Path.rmdir may be this)
        return real(path)

    root.mkdir()
    monkeypatch.setattr(Path, moment, after_another)
    assert ensure(root, TINY) and gone
    assert [path.name for path in tmp_path.iterdir()] == ["phantom"]


@pytest.mark.parametrize("key, value", [("patients", 2), ("clips", 0), ("height", 20), ("width", 200), ("seed", -1)])
def test_config_errors_name_the_key(key: str, value: int) -> None:
    with pytest.raises(InputError, match=rf"phantom {key}: expected .* got {value}"):
        replace(PhantomConfig(), **{key: value})
