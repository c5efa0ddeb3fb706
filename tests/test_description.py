"""models.description: rows and scalings, and the one line that names the fault of a whole description."""

from __future__ import annotations

from typing import Any

import pytest

from models.description import Description, is_number
from models.yolo import LAYERS, Network
from utils.config import ROOT, load_yaml
from utils.log import InputError, shown

CONV = [-1, 1, "Conv", [8, 3, 2]]


def small(*head: list[Any], **changes: Any) -> dict[str, Any]:
    """Two strides' worth of a network: layers 0 and 1, ``head`` from layer 2 on, and Detect at the end, reading 1."""
    return {
        "nc": 2,
        "depth_multiple": 1.0,
        "width_multiple": 1.0,
        "anchors": [[4, 4, 8, 8]],
        "backbone": [[-1, 1, "Conv", [8, 3, 2]], [-1, 1, "Conv", [16, 3, 2]]],
        "head": [*head, [[1], 1, "Detect", ["nc", "anchors"]]],
        **changes,
    }


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


def test_what_a_description_holds_instead_is_told_in_a_short_line() -> None:
    laughs: list[object] = ["x"] * 9
    for _ in range(30):
        laughs = [laughs] * 9
    description = load_yaml(ROOT / "models/hub/yolov5s.yaml")
    rows = description["backbone"]
    changes: tuple[dict[Any, Any], ...] = (
        {"backbone": laughs}, {"nc": laughs}, {"anchors": laughs}, {"backbone": [[-1, 1, "Conv", [laughs]], *rows[1:]]},
        {"nc": 10**5000}, {"x" * 9999: 1}, {"\x1b[2J": 1}, {1: 2},
    )  # fmt: skip
    for changed in changes:
        with pytest.raises(InputError) as caught:
            Network({**description, **changed})
        assert len(str(caught.value)) < 1000 and str(caught.value).isprintable()


DETECT = [[1], 1, "Detect", ["nc", "anchors"]]
VIEW = [1, 1, "ViewHead", ["nv", 16]]
FAULTS = {
    "unknown module": (small([-1, 1, "C4", [16]]), ["layer 2: unknown module 'C4'", *LAYERS]),
    "code": (small([-1, 1, "exit()", [16]]), ["layer 2: unknown module 'exit()'"]),
    "unknown key": (small(activation="nn.ReLU()"), ["unknown keys ['activation']", "'anchors', 'backbone'"]),
    "missing key": ({k: v for k, v in small().items() if k != "anchors"}, ["missing keys ['anchors']"]),
    "from itself": (small([2, 1, "Conv", [16]]), ["layer 2: from 2 is not a layer before it"]),
    "from before the image": (small([-4, 1, "Conv", [16]]), ["layer 2: from -4 is not"]),
    "from nothing": (small([[], 1, "Concat", [1]]), ["layer 2: from [] is not"]),
    "from a word": (small(["last", 1, "Conv", [16]]), ["layer 2: from 'last' is not"]),
    "short row": (small([-1, 1, "Conv"]), ["layer 2: expected [from, number, module, args], got [-1, 1, 'Conv']"]),
    "long row": (small([-1, 1, "Conv", [16], 0]), ["layer 2: expected [from, number, module, args]"]),
    "row no list": ({**small(), "head": [7]}, ["layer 2: expected [from, number, module, args], got 7"]),
    "args no list": (small([-1, 1, "Conv", 16]), ["layer 2: expected [from, number, module, args]"]),
    "part no list": ({**small(), "head": None}, ["head: expected a list of rows, got None"]),
    "number": (small([-1, 0, "Conv", [16]]), ["layer 2: expected a positive number of modules, got 0"]),
    "args too few": (small([-1, 1, "Conv", []]), ["layer 2 (Conv) with args []"]),
    "args too many": (small([-1, 1, "Conv", [16, 1, 1, 1, 1, 1, 1]]), ["layer 2 (Conv) with args [16, 1"]),
    "a word as channels": (small([-1, 1, "Conv", ["many"]]), ["layer 2 (Conv) with args ['many']"]),
    "strides": (small([[0, 1], 1, "Concat", [1]]), ["layer 2 (Concat)", "different strides: [2, 4]"]),
    "attention's channels": (small([-1, 1, "CBAM", [32]]), ["layer 2 (CBAM)", "expected 16 channels", "got 32"]),
    "Detect read": (small(DETECT, [2, 1, "Conv", [16]]), ["layer 3 reads layer 2, a head"]),
    "ViewHead read": (small(VIEW, [-1, 1, "Conv", [16]]), ["layer 3 reads layer 2, a head"]),
    "two Detects": (small(DETECT), ["expected one Detect layer"]),
    "two ViewHeads": (small(VIEW, VIEW), ["at most one ViewHead"]),
    "a ViewHead of two layers": (small([[0, 1], 1, "ViewHead", ["nv", 16]]), ["layer 2 (ViewHead)", "one layer"]),
    "no Detect": ({**small(), "head": [[-1, 1, "Conv", [16]]]}, ["expected one Detect layer"]),
    "no head": ({**small(), "head": []}, ["head: expected a list of rows"]),
    "a list as module": (small([-1, 1, ["Conv"], [16]]), ["layer 2: unknown module ['Conv']"]),
    "upsampling mode": (small([-1, 1, "nn.Upsample", ["None", 2, "foo"]]), ["layer 2 (nn.Upsample)", "'foo'"]),
    "concat dimension": (small([[0, 0], 1, "Concat", [7]]), ["layer 2 (Concat)", "[7]"]),
    "anchors below zero": (small(anchors=[[-1, 2]]), ["layer 2 (Detect)", "[[-1, 2]]"]),
    "yes as anchors": (small(anchors=True), ["layer 2 (Detect)", "True"]),
    "yes as classes": (small(nc=True), ["nc: expected a positive integer, got True"]),
    "infinite width": (small(width_multiple=float("inf")), ["width_multiple: expected a positive number, got inf"]),
    "anchors for other levels": (small(anchors=[[1, 1], [2, 2]]), ["layer 2 (Detect)", "expected 1 lists"]),
    "anchors of two lengths": (
        {**small(anchors=[[1, 1], [2, 2, 3, 3]]), "head": [[[0, 1], 1, "Detect", ["nc", "anchors"]]]},
        ["layer 2 (Detect)", "expected 2 lists of the same even length"],
    ),
    "odd anchors": (small(anchors=[[1, 2, 3]]), ["layer 2 (Detect)"]),
    "anchors as words": (small(anchors="big"), ["layer 2 (Detect)", "got 'big'"]),
    "no classes": (small(nc=0), ["nc: expected a positive integer, got 0"]),
    "no views": (small(nv=0), ["nv: expected a positive integer, got 0"]),
    "width": (small(width_multiple=-1), ["width_multiple: expected a positive number, got -1"]),
    "depth": (small(depth_multiple="deep"), ["depth_multiple: expected a positive number, got 'deep'"]),
    "gate": (small(cbam_gate="half"), ["cbam_gate: expected one of", "identity", "paper", "got 'half'"]),
    "dropout": (small(VIEW, view_dropout=1.5), ["view_dropout: expected 0 to 1, got 1.5"]),
    "dropout as a word": (small(VIEW, view_dropout="x"), ["view_dropout: expected 0 to 1, got 'x'"]),
}  # fmt: skip


@pytest.mark.parametrize(("mapping", "words"), FAULTS.values(), ids=FAULTS)
def test_a_faulty_description_is_refused_in_one_line_that_names_the_fault(
    mapping: dict[str, Any], words: list[str]
) -> None:
    with pytest.raises(InputError) as caught:
        Network(mapping)
    assert all(word in str(caught.value) for word in ["network description", *words])
    assert "\n" not in str(caught.value)
