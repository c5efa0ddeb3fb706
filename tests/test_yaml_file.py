"""utils/yaml_file.py: what is read, and what would take all memory is not."""

from __future__ import annotations

from typing import Any

import pytest

from utils import yaml_file
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
