"""utils/yaml_file.py: what is read, and what would take all memory is not; the one line for a file that is no yaml."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from tests.hostile_yaml import yaml_bombs
from utils import yaml_file
from utils.config import load_dataset_config, load_hyperparameters, load_yaml
from utils.log import InputError
from utils.yaml_file import DEEPEST, parse_yaml


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: 1\nb: [x, 2.5, null, true]\n", {"a": 1, "b": ["x", 2.5, None, True]}),
        ("a: &a [1]\nb: *a\nc: {<<: {d: 1}, e: *a}\n", {"a": [1], "b": [1], "c": {"d": 1, "e": [1]}}),
        ("", None),
    ],
)
def test_values(text: str, expected: Any) -> None:
    assert parse_yaml(text) == expected


@pytest.mark.parametrize("bracket", ["[]", "{}"])
def test_depth(bracket: str) -> None:
    inner = "[" if bracket == "[]" else "{a: "
    assert parse_yaml(inner * DEEPEST + bracket[1] * DEEPEST) is not None
    with pytest.raises(ValueError, match=f"at most {DEEPEST} lists and mappings inside of each other"):
        parse_yaml(inner * (DEEPEST + 1) + bracket[1] * (DEEPEST + 1))


@pytest.mark.parametrize("text", ["&a [*a]", "a: &a {b: *a}", "a: &a [1]\nb: &a [*a]\n", "a: *b\nb: &b 1\n"])
def test_an_alias_of_what_it_is_part_of_or_of_nothing_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"the alias '[ab]' stands for nothing, or for what it is a part of"):
        parse_yaml(text)


def test_aliases_count_as_what_they_stand_for(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "a: &a [1, 2]\nb: &b [*a, *a]\nc: [*b, *b]\n"  # 1 + 1 + 3 + 1 + 7 + 1 + 15
    monkeypatch.setattr(yaml_file, "MOST_VALUES", 29)
    assert parse_yaml(text)["c"][1][0] == [1, 2]
    monkeypatch.setattr(yaml_file, "MOST_VALUES", 28)
    with pytest.raises(ValueError, match="at most 28 values"):
        parse_yaml(text)


@pytest.mark.parametrize(
    "text",
    [
        "a: [",
        "!!python/object/apply:os.system ['true']",
        "!!timestamp soon",
        "[a]: 1",
        "? {a: 1}\n: 2",
        "!!int x",
        "!!binary é",
    ],
)
def test_what_is_no_yaml_is_one_line(text: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse_yaml(text)
    assert "\n" not in str(caught.value)


# --- as the files that users write -----------------------------------------------------------------------------------


@pytest.mark.parametrize("title", [title for title in yaml_bombs() if title not in ("keys twice", "a set")])
def test_no_yaml_file_takes_long_or_ends_in_more_than_a_line(tmp_path: Path, title: str) -> None:
    path = tmp_path / "bomb.yaml"
    path.write_bytes(yaml_bombs()[title])
    start = time.process_time()
    for load in (load_dataset_config, load_hyperparameters):
        with pytest.raises(InputError, match=r"bomb\.yaml: ") as caught:
            load(path)
        assert str(caught.value).isprintable() and len(str(caught.value)) < 1000
    assert time.process_time() - start < 20


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"- a\n- b\n", "expected a mapping of names to values, got list"),
        (b"", "expected a mapping of names to values, got NoneType"),
        (b"1: a\n", "expected a mapping of names to values"),
        (b"a: [1, 2\n", "not a yaml file"),
        (b"a: b: c\n", "not a yaml file"),
        (b"a: \xff\xfe\n", "not a yaml file"),
        (b"\x00\x01", "not a yaml file"),
        (b"a: 2020-13-45\n", "not a yaml file"),
        (b"a: " + b"[" * 5000, "not a yaml file"),
        (b"# " + b"x" * 1_000_000, "expected a yaml file under 500000 bytes, got 1000002"),
    ],
    ids=range(10),
)
def test_what_is_no_yaml_mapping_is_told(tmp_path: Path, data: bytes, words: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_bytes(data)
    with pytest.raises(InputError, match=rf"bad\.yaml: {words}"):
        load_yaml(path)


def test_a_yaml_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"gone\.yaml: No such file"):
        load_yaml(tmp_path / "gone.yaml")
    with pytest.raises(InputError, match="directory"):
        load_yaml(tmp_path)


def test_nothing_in_a_yaml_file_is_executed(tmp_path: Path) -> None:
    path = tmp_path / "evil.yaml"
    path.write_text(f"a: !!python/object/apply:os.system ['touch {tmp_path}/ran']\n")
    with pytest.raises(InputError, match="not a yaml file"):
        load_yaml(path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("key", ["names", "path", "train", "view_names", "group", "generate"])
def test_what_repeats_itself_is_not_written_out_in_a_message(tmp_path: Path, key: str) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12)]  # 9 ** 12 words
    content = {"train": "t", "val": "v", "names": "[a]"} | {key: "*a11"}
    path = tmp_path / "data.yaml"
    path.write_text("\n".join([*lines, *(f"{name}: {value}" for name, value in content.items())]))
    with pytest.raises(InputError) as caught:
        load_dataset_config(path)
    assert len(str(caught.value)) < 1000
