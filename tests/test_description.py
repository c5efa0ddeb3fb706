"""models.description: rows and scalings; faults of whole descriptions are in test_yolo.py."""

from __future__ import annotations

from typing import Any

import pytest

from models.description import Description, is_number
from utils.log import InputError, shown

CONV = [-1, 1, "Conv", [8, 3, 2]]


def described(*rows: Any, **changes: Any) -> Description:
    mapping = {"nc": 2, "depth_multiple": 1.0, "width_multiple": 1.0, "anchors": 3, "backbone": [CONV], "head": [*rows]}
    return Description({**mapping, **changes}, ("Conv", "Concat", "Detect", "ViewHead"))


def test_sources_become_absolute_and_minus_one_of_the_first_layer_is_the_image() -> None:
    found = described([-1, 2, "Conv", [8]], [[-1, 0], 1, "Concat", [1]], [[-2, -1], 1, "Detect", ["nc", "anchors"]])
    assert [row.sources for row in found.rows] == [(-1,), (0,), (1, 0), (1, 2)]
    assert [(row.index, row.number, row.name) for row in found.rows[1:3]] == [(1, 2, "Conv"), (2, 1, "Concat")]
    assert found.rows[3].arguments == ("nc", "anchors")


def test_words_of_arguments_stand_for_what_the_description_says() -> None:
    found = described(CONV, nv=5)
    assert [found.value(word) for word in ("nc", "nv", "anchors", "None", "nearest", 64)] == [
        2, 5, 3, None, "nearest", 64,
    ]  # fmt: skip
    assert described(CONV).nv == 3


@pytest.mark.parametrize(("channels", "multiple", "width"), [(64, 0.5, 32), (64, 0.3, 24), (8, 0.1, 8), (72, 1.0, 72)])
def test_width_is_rounded_up_to_eights(channels: int, multiple: float, width: int) -> None:
    assert described(CONV, width_multiple=multiple).width(channels) == width


@pytest.mark.parametrize(("number", "multiple", "depth"), [(1, 0.1, 1), (3, 0.33, 1), (9, 0.33, 3), (6, 0.1, 1)])
def test_depth_is_rounded_and_at_least_one(number: int, multiple: float, depth: int) -> None:
    assert described(CONV, depth_multiple=multiple).depth(number) == depth


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([[-1, 1, "Conv2", [8]]], "layer 1: unknown module 'Conv2'; known are Conv, Concat, Detect, ViewHead"),
        ([[3, 1, "Conv", [8]]], "layer 1: from 3 is not a layer before it"),
        ([[-1, 0, "Conv", [8]]], "layer 1: expected a positive number of modules, got 0"),
        ([[-1, 1, "Detect", []], [-1, 1, "Conv", [8]]], "layer 2 reads layer 1, a head, which has no features"),
        ([[-1, 1, "Conv"]], r"layer 1: expected \[from, number, module, args\], got \[-1, 1, 'Conv'\]"),
        ([[-1, 600, "Conv", [8]]] * 2, "expected at most 1,000 blocks, got 1,201"),
    ],
)
def test_a_faulty_row_is_told(rows: list[Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        described(*rows)


def test_a_value_is_shown_in_a_short_line_whatever_it_is() -> None:
    endless: list[Any] = []
    endless.append(endless)
    assert len(shown([["x" * 1000] * 1000] * 1000)) <= 200 and "..." in shown(endless)
    assert shown(10**5000) == "a int" and is_number(3) and not is_number(True) and not is_number(1e7)
