"""utils/dataset.py: a data set that is opened again reads only the labels that changed."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from tests.phantoms import dataset, make_dataset, own_box, settle, write_frame, write_yaml
from utils import dataset as module
from utils import frames
from utils.dataset import EchoDataset
from utils.labels import Label, read_label
from utils.log import InputError

pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the label files that are read, as they are."""
    names: list[str] = []

    def counting(path: Path, nc: int, nv: int) -> Label:
        names.append(path.name)
        return read_label(path, nc, nv)

    monkeypatch.setattr(module, "read_label", counting)
    return names


def contents(data: EchoDataset) -> list[Any]:
    labels = [(label.boxes.tolist(), label.view, label.problems) for label in data.labels]
    return [data.files, data.originals, data.problems, labels]


def test_labels_are_read_once_and_again_where_they_changed(tmp_path: Path, read: list[str]) -> None:
    make_dataset(tmp_path)
    labels = sorted((tmp_path / "labels/train").iterdir())
    labels[0].write_text("9 9\n0 0.5 0.5 0.1 0.1\n")
    settle(tmp_path)
    first = dataset(tmp_path)
    assert len(read) == 6 and len(first.problems) == 1
    read.clear()
    assert contents(dataset(tmp_path)) == contents(first) and read == []
    assert dataset(tmp_path, single_class=True).class_counts().tolist() == [6] and read == []
    assert contents(dataset(tmp_path)) == contents(first)  # the single class is not in what is kept
    with pytest.raises(InputError, match="--strict-data"):
        dataset(tmp_path, strict=True)
    labels[0].write_text("0 0.5 0.5 0.1 0.1\n")
    labels[2].unlink()
    write_frame(tmp_path, "train/p09-1.png", (48, 64), [own_box(1, (48, 64))], 1)
    settle(tmp_path / "labels", 30)
    for path in labels[1:2] + labels[3:]:
        os.utime(path, (0, 0))
    data = dataset(tmp_path)
    assert data.problems == [] and len(data) == 7 and data.views().tolist()[2] == -1 and data.views().tolist()[-1] == 1
    assert len(read) == 7  # all have another time now
    read.clear()
    assert dataset(tmp_path).views().tolist() == data.views().tolist()
    assert read == [labels[2].name]  # a file that may appear is looked for


def test_labels_of_another_number_of_classes_or_views_are_read_again(tmp_path: Path, read: list[str]) -> None:
    make_dataset(tmp_path)
    settle(tmp_path)
    dataset(tmp_path)
    for keys in ({"names": ["a", "b"]}, {"view_names": ["a", "b"]}, {"view_names": None}):
        read.clear()
        write_yaml(tmp_path, **keys)
        data = dataset(tmp_path)
        assert len(read) == 6 and len(data.problems) == (2 if "names" in keys else 6 if keys["view_names"] else 0)


def test_folds_over_one_folder_share_what_is_known(tmp_path: Path, read: list[str]) -> None:
    make_dataset(tmp_path)
    files = sorted((tmp_path / "images/train").iterdir())
    (tmp_path / "fold.txt").write_text("\n".join(str(path) for path in files[1:4]))
    settle(tmp_path)
    dataset(tmp_path)
    read.clear()
    write_yaml(tmp_path, train="fold.txt")
    assert dataset(tmp_path).files == files[1:4] and read == []


def test_a_cache_that_cannot_be_written_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_dataset(tmp_path)
    settle(tmp_path)
    expected = contents(dataset(tmp_path))
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setattr(frames, "CACHE_FOLDER", tmp_path / "file" / "cache")
    for mode in frames.CACHE_MODES:
        assert contents(dataset(tmp_path, cache=mode)) == expected
