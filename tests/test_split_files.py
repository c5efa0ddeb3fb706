"""utils.split_files: which image files a split names."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.phantoms import make_dataset, write_image, write_yaml
from utils import split_files
from utils.config import load_dataset_config
from utils.log import InputError
from utils.split_files import list_images


def test_a_folder_is_searched_recursively_and_sorted(tmp_path: Path) -> None:
    for name in ("b.png", "a.JPG", "deep/er/c.bmp", "d.webp"):
        write_image(tmp_path / "images/train" / name)
    (tmp_path / "images/train/notes.txt").write_text("no image")
    config = load_dataset_config(write_yaml(tmp_path))
    names = [path.relative_to(tmp_path / "images/train").as_posix() for path in list_images(config, "train")]
    assert names == ["a.JPG", "b.png", "d.webp", "deep/er/c.bmp"]


def test_names_with_odd_suffixes_are_taken_as_pathlib_takes_them(tmp_path: Path) -> None:
    top = tmp_path / "images/train"
    names = ("a.png", ".png", "..png", "b.", "c.png.", "d.tar.PNG", "png", "e.pngx", "z/a.png", "a/z.png", "aa.png")
    for name in names:
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        (top / name).write_bytes(b"")
    (top / "folder.png").mkdir()
    found = list_images(load_dataset_config(write_yaml(tmp_path)), "train")
    assert found == sorted(path for path in top.rglob("*") if path.suffix.lower() == ".png") and len(found) == 7


def test_a_list_names_files_from_its_own_folder_or_from_the_root(tmp_path: Path) -> None:
    lists = tmp_path / "lists"
    lists.mkdir()
    (lists / "train.txt").write_text(
        f"\ufeff./images/b.png\nimages/a.png\n\n  {tmp_path}/far/c.png  \r\nimages/a.png\n"
    )
    config = load_dataset_config(write_yaml(tmp_path, train="lists/train.txt"))
    expected = [lists / "images/b.png", tmp_path / "images/a.png", tmp_path / "far/c.png"]
    assert list_images(config, "train") == expected  # in the list's order, each once


@pytest.mark.parametrize(
    "line",
    ["../secret/s.png", "./../../secret/s.png", "images/../../secret/s.png", "../{name}x/s.png", "/", "a\0.png", ".."],
)
def test_a_line_that_leads_out_of_the_dataset_is_an_error_that_names_the_list(tmp_path: Path, line: str) -> None:
    root = tmp_path / "data"
    write_image(root / "images" / "train" / "a.png")
    write_image(tmp_path / "secret" / "s.png")
    lists = root / "lists"
    lists.mkdir()
    (lists / "train.txt").write_text(f"images/train/a.png\n{line.replace('{name}', root.name)}\n")
    config = load_dataset_config(write_yaml(root, train="lists/train.txt"))
    with pytest.raises(InputError, match=r"train\.txt:2: expected a path in .*data, or an absolute one, got "):
        list_images(config, "train")


def test_lines_may_be_absolute_and_go_up_within_the_dataset(tmp_path: Path) -> None:
    root = tmp_path / "data"
    near, far = write_image(root / "images" / "a.png"), write_image(tmp_path / "far" / "b.png")
    (root / "lists").mkdir()
    lines = ("./../images/a.png", "images/x/../a.png", str(far), f"{tmp_path}/other/../far/b.png")
    (root / "lists" / "train.txt").write_text("".join(f"{line}\n" for line in lines))
    config = load_dataset_config(write_yaml(root, train="lists/train.txt"))
    assert list_images(config, "train") == [near, far]


def test_links_in_a_dataset_may_lead_anywhere(tmp_path: Path) -> None:
    root = tmp_path / "data"
    root.mkdir()
    write_image(tmp_path / "disk" / "images" / "train" / "a.png")
    (root / "images").symlink_to(tmp_path / "disk" / "images", target_is_directory=True)
    (root / "train.txt").write_text("images/train/a.png\n")
    (tmp_path / "link").symlink_to(root, target_is_directory=True)
    for folder in (root, tmp_path / "link"):
        path = write_yaml(root, path=str(folder), train="images/train", val="train.txt")
        config = load_dataset_config(path)
        assert [file.name for split in ("train", "val") for file in list_images(config, split)] == ["a.png"] * 2


def test_a_list_larger_than_any_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(split_files, "MAX_LIST_BYTES", 20)
    (tmp_path / "train.txt").write_text("a.png\n" * 4)
    with pytest.raises(InputError, match=r"train\.txt: expected a list under 20 bytes, got 24"):
        list_images(load_dataset_config(write_yaml(tmp_path, train="train.txt")), "train")


def test_a_split_may_be_several_folders_and_lists(tmp_path: Path) -> None:
    for name in ("one/b.png", "one/a.png", "two/c.png"):
        write_image(tmp_path / name)
    (tmp_path / "more.txt").write_text("three/d.png\none/a.png\n")
    config = load_dataset_config(write_yaml(tmp_path, train=["two", "more.txt", "one"]))
    found = [path.relative_to(tmp_path).as_posix() for path in list_images(config, "train")]
    assert found == ["two/c.png", "three/d.png", "one/a.png", "one/b.png"]


@pytest.mark.parametrize(
    ("train", "words"),
    [
        ("gone", r"train: expected a folder or a \.txt list, got .*gone, which is neither"),
        ("data.yaml", r"train: expected a folder or a \.txt list, got .*data\.yaml, which is neither"),
        ("empty", r"train: no image in .*empty"),
        ("empty.txt", r"train: no image in .*empty\.txt"),
        ("other.txt", r"other\.txt: expected a text file with an image's path a line"),
    ],
)
def test_a_split_without_files_is_told(tmp_path: Path, train: str, words: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty.txt").write_text("\n")
    (tmp_path / "other.txt").write_bytes("é.png".encode("latin-1"))
    config = load_dataset_config(write_yaml(tmp_path, train=train))
    with pytest.raises(InputError, match=words):
        list_images(config, "train")
    with pytest.raises(InputError, match=r"data\.yaml: no test split in it; it has train, val"):
        list_images(config, "test")


def test_a_place_whose_name_is_too_long_is_told_by_the_yaml_that_names_it(tmp_path: Path) -> None:
    make_dataset(tmp_path, train=1, val=1)
    path = tmp_path / "long.yaml"
    path.write_text(f"path: {tmp_path}\ntrain: {'9' * 400}/train\nval: images/val\nnames: [a]\n")
    with pytest.raises(InputError, match=r"long\.yaml: train: expected a folder or a \.txt list, got") as caught:
        list_images(load_dataset_config(path), "train")
    assert len(str(caught.value)) < 700
