"""Hostile label files, lists of files, and figures of runs. No test stands here."""

from __future__ import annotations

import csv
import io
import itertools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st

from tests.hostile_parts import CHANGES, LONGEST_LINE, MOST_FRAMES, NC, NUMBERS, NV, TEXTS, Named, replaced
from tests.phantoms import label_text
from utils.balance_log import BalanceSummary, read_balance
from utils.config import load_dataset_config
from utils.images import read_image
from utils.labels import read_label
from utils.log import InputError, one_line
from utils.loggers import COLUMNS, format_results, read_results
from utils.monitor import block, read_rows, read_steps
from utils.plots import results_figure
from utils.sources import open_source
from utils.split_files import list_images


def label_seeds(_: Path) -> list[Named]:
    boxes = [(0, 2, 3, 12, 13), (3, 5, 5, 9, 20)]
    polygon = "1 0.1 0.1 0.9 0.1 0.9 0.8 0.2 0.7\n"
    texts = (label_text((24, 32), boxes, 1), label_text((24, 32), boxes), polygon + "\n0 0 1\n", "0 1 0\n", "")
    return [("a.txt", text.encode()) for text in texts]


def labels_made(_: Path) -> st.SearchStrategy[Named]:
    words = st.sampled_from([*TEXTS, *map(str, NUMBERS), "0.5", "0.25", "1", "0"])
    rows = st.lists(st.lists(words, max_size=9).map(" ".join), max_size=12)
    ends = st.sampled_from(["\n", "\r\n", "\r", "\n\n", "\x0b", "\u2028"])
    encodings = st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-32"])

    def text(rows: list[str], end: str, encoding: str) -> Named:
        return "a.txt", end.join(rows).encode(encoding, "surrogatepass")

    return st.builds(text, rows, ends, encodings)


def labels_nasty(_: Path) -> dict[str, Named]:
    box = "0 0.5 0.5 0.25 0.25"
    distinct = "".join(f"0 0.5 0.5 0.25 0.{number:06}\n" for number in range(1, 300_000))
    texts = {
        "values that are none": f"nan 0.5 0.5 0.1 0.1\n0 inf 0.5 0.1 0.1\n0 1e400 0.5 0.1 0.1\n{box}\n",
        "a line of 9 MB": "0 " + "0.5 " * 2_250_000,
        "a word of 9 MB": "0 0.5 0.5 0.1 " + "9" * 9_000_000,
        "a view row of 9 MB": "1 " * 4_500_000,
        "300,000 boxes": distinct,
        "a million wrong rows": "x\n" * 1_000_000,
        "a million empty lines": "\n" * 1_000_000,
        "11 MB": box + "\n" + "#" * 11_000_000,
        "numbers of other scripts": "０ 0.5 0.5 0.1 0.1\n0 0_5 0.5 0.1 0.1\n0 ٠.٥ 0.5 0.1 0.1\n",
    }
    found = {title: ("a.txt", text.encode()) for title, text in texts.items()}
    return found | {
        "null bytes": ("a.txt", box.encode() + b"\0\n\0\0\0\n"),
        "UTF-16": ("a.txt", box.encode("utf-16")),
        "UTF-16 without its mark": ("a.txt", box.encode("utf-16-le")),
        "a mark of UTF-8": ("a.txt", box.encode("utf-8-sig")),
        "bytes that are no text": ("a.txt", bytes(range(256)) * 4),
    }


def read_label_file(path: Path) -> None:
    label = read_label(path, NC, NV)
    assert label.boxes.shape == (len(label.boxes), 5) and np.isfinite(label.boxes).all() and -1 <= label.view < NV
    assert ((label.boxes[:, 1:] >= 0) & (label.boxes[:, 1:] <= 1)).all() and (label.boxes[:, 0] < NC).all()
    lines = [str(problem).replace(str(path), "") for problem in label.problems]
    assert all(line.isprintable() and len(line) < LONGEST_LINE for line in lines), max(lines, key=len)[:300]
    assert len(lines) < 10_000, f"{len(lines)} problems of one file"


# --- lists ------------------------------------------------------------------------------------------------------------

LINES = (
    "images/train",
    "./images/train/p01-f0000.png",
    "images/train/p01-f0000.png",
    "../secret/s.png",
    "./../secret/s.png",
    "images/../../secret/s.png",
    "/",
    ".",
    "..",
    "./",
    "~/x",
    "a\0b.png",
    "x" * 300,
    "y" * 5000,
    "#c",
    "http://a.invalid/b.png",
    " ",
)


def lists_made(area: Path) -> st.SearchStrategy[Named]:
    lines = st.sampled_from([*LINES, *TEXTS, str(area / "images/train/p01-f0000.png")]) | st.text(max_size=12)
    return st.lists(lines, max_size=8).map(lambda rows: ("data.txt", "\n".join(rows).encode("utf-8", "replace")))


def list_seeds(area: Path) -> list[Named]:
    files = sorted((area / "images").rglob("*.png"))
    near = "".join(f"./{file.relative_to(area)}\n" for file in files)
    far = "".join(f"{file}\n" for file in files)
    return [("data.txt", near.encode()), ("data.txt", near.replace("./", "").encode()), ("data.txt", far.encode())]


def sources_nasty(area: Path) -> dict[str, Named]:
    """As of a data set, but for the long one: each file is looked for here."""
    return {title: named for title, named in lists_nasty(area).items() if title != "300,000 lines"}


def lists_nasty(_: Path) -> dict[str, Named]:
    found = {f"a line {line[:20]!r}": ("data.txt", f"{line}\n".encode()) for line in LINES}
    return found | {
        "UTF-16": ("data.txt", "images/a.png\n".encode("utf-16")),
        "no text": ("data.txt", bytes(range(256))),
        "300,000 lines": ("data.txt", "".join(f"images/{number}.png\n" for number in range(300_000)).encode()),
        "a line of 9 MB": ("data.txt", b"a" * 9_000_000),
    }


def read_listed(path: Path) -> None:
    area = path.parent
    config = load_dataset_config(area / "listed.yaml")
    try:
        files = list_images(config, "train")
    except InputError as error:  # an empty list is told by the yaml's name and the list's path
        raise InputError(f"{path}: {error}") from error
    absolute = {line.strip() for line in path.read_text("utf-8-sig").splitlines() if line.strip().startswith("/")}
    for file in files[:1000]:
        assert (file.is_relative_to(area) and ".." not in file.parts) or str(file) in {
            str(Path(a)) for a in absolute
        }, file
        try:
            read_image(file)
        except InputError as error:
            assert len(one_line(error).replace(str(area), "")) <= LONGEST_LINE + 5000  # a listed name may be long


def read_source_list(path: Path) -> None:
    source = open_source(str(path))
    list(itertools.islice(source, MOST_FRAMES))
    _ = source.total


# --- csv and json of runs ---------------------------------------------------------------------------------------------


def _results_rows() -> list[dict[str, float]]:
    return [
        {name: number * 0.1 + place for place, name in enumerate(COLUMNS)} | {"epoch": number} for number in range(4)
    ]


def results_seeds(_: Path) -> list[Named]:
    return [
        ("results.csv", format_results(_results_rows()).encode()),
        ("results.csv", b"epoch,train/box_loss\n0,0.5\n"),
    ]


def balance_seeds(_: Path) -> list[Named]:
    names = ["epoch", "step", "weight/det", "weight/view", "norm/det", "norm/view", "cosine/weight", "cosine/features"]
    rows: list[list[Any]] = [names, *([0, step, 1, 0.5, 2.5, 0.1, -0.5, ""] for step in range(5))]
    file = io.StringIO()
    csv.writer(file, lineterminator="\n").writerows(rows)
    return [("balance.csv", file.getvalue().encode())]


def tables_made(name: str, columns: Sequence[str]) -> Callable[[Path], st.SearchStrategy[Named]]:
    def made(_: Path) -> st.SearchStrategy[Named]:
        cell = st.sampled_from([*TEXTS, *map(str, NUMBERS), "0.5"])
        row = st.lists(cell, min_size=len(columns) - 1, max_size=len(columns) + 1)
        header = st.just(list(columns)) | st.lists(st.sampled_from([*columns, *TEXTS]), max_size=len(columns))

        def text(header: list[str], rows: list[list[str]]) -> Named:
            file = io.StringIO()
            csv.writer(file, lineterminator="\n").writerows([header, *rows])
            return name, file.getvalue().encode("utf-8", "surrogatepass")

        return st.builds(text, header, st.lists(row, max_size=4))

    return made


def tables_nasty(name: str, seeds: Callable[[Path], Sequence[Named]]) -> Callable[[Path], dict[str, Named]]:
    def nasty(area: Path) -> dict[str, Named]:
        sound = seeds(area)[0][1]
        header, _, rest = sound.partition(b"\n")
        row = rest.partition(b"\n")[0] + b"\n"
        contents = {
            "empty": b"",
            "null bytes": sound + b"\0\0\n",
            "UTF-16": sound.decode().encode("utf-16"),
            "no text": bytes(range(256)),
            "a cell of 9 MB": header + b"\n" + b"9" * 9_000_000 + b"\n",
            "an open quote": sound + b'"' + b"a\n" * 100_000,
            "15 MB": header + b"\n" + row * (15_000_000 // len(row)),
            "a million columns": b"epoch,step," + b"a," * 1_000_000 + b"\n",
            "header only": header + b"\n",
            "a header twice": header + b"\n" + header + b"\n",
            "infinite": sound.replace(b"0.5", b"inf"),
            "no line break": sound[:-1],
            "returns": sound.replace(b"\n", b"\r"),
            "endless epochs": header + b"\n" + row.replace(b"0", b"inf", 1),
            "huge epochs": header + b"\n" + row.replace(b"0", b"1e300", 1),
        }
        return {title: (name, content) for title, content in contents.items()}

    return nasty


def read_results_file(path: Path) -> None:
    rows = read_results(path)
    results_figure(path).clear()
    for row in read_rows(path.parent)[-1:]:
        block([row], [], 0.0, 0.0)
    assert all(isinstance(value, float) for row in rows for value in row.values())
    format_results(rows)


def read_balance_file(path: Path) -> None:
    rows = read_balance(path)
    steps = read_steps(path.parent)
    if rows:
        BalanceSummary.of(rows, "static").sentence()
        block(_results_rows(), steps, 0.0, 0.0)


def history_contents(_: Path) -> list[Any]:
    return [[{name: value if value < 9 else None for name, value in row.items()} for row in _results_rows()]]


def json_made(name: str, contents: Callable[[Path], Sequence[Any]]) -> Callable[[Path], st.SearchStrategy[Named]]:
    def made(area: Path) -> st.SearchStrategy[Named]:
        def changed(content: Any, changes: Sequence[tuple[int, Any]]) -> Named:
            return name, json.dumps(replaced(content, changes)).encode()

        return st.builds(changed, st.sampled_from(list(contents(area))), CHANGES)

    return made


def json_nasty(name: str) -> Callable[[Path], dict[str, Named]]:
    def nasty(_: Path) -> dict[str, Named]:
        contents = {
            "empty": b"",
            "deep": b"[" * 100_000,
            "deep objects": b'{"a":' * 100_000,
            "a number": b"1",
            "a long number": b"9" * 5000,
            "no text": bytes(range(256)),
            "NaN": b"[NaN]",
            "UTF-16": "[]".encode("utf-16"),
            "half": b'[{"epoch": 0',
            "a text": b'"x"',
            "30 MB": b"[" + b"{}," * 10_000_000 + b"{}]",
            "half a pair": b'[{"\\ud800": 1}]',
            "a list of lists": b"[[1]]",
        }
        return {title: (name, content) for title, content in contents.items()}

    return nasty
