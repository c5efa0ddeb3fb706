"""Hostile files of every kind that the program reads, and what reading one may end in. No test stands here.

A kind brings sound files (made here), files made of wrong values, and nasty ones made by hand; :func:`cases` draws
from all three and damages bytes. :func:`check` has a file read in a folder of its own and raises a :class:`Fault` for
anything but a result or one clear line.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from hypothesis import strategies as st

from tests.hostile_checkpoints import CHECKPOINTS, RESUMED
from tests.hostile_dicom import PIECES, dicoms, dicoms_made, dicoms_nasty, read_dicom
from tests.hostile_images import images, images_nasty, read_image_file, read_video, videos, videos_nasty
from tests.hostile_parts import (
    LONGEST_LINE,
    LONGEST_WAIT,
    MOST_MEMORY,
    SLOWEST,
    Case,
    Fault,
    Kind,
    Named,
    Step,
    damaged,
    damages,
)
from tests.hostile_runs import CARDS, METRICS, OUTCOMES
from tests.hostile_texts import (
    LINES,
    balance_seeds,
    history_contents,
    json_made,
    json_nasty,
    label_seeds,
    labels_made,
    labels_nasty,
    list_seeds,
    lists_made,
    lists_nasty,
    read_balance_file,
    read_label_file,
    read_listed,
    read_results_file,
    read_source_list,
    results_seeds,
    sources_nasty,
    tables_made,
    tables_nasty,
)
from tests.hostile_yaml import (
    dataset_contents,
    hyp_contents,
    network_contents,
    read_dataset,
    read_network,
    yaml_kind,
)
from tests.phantoms import encode, make_dataset
from utils.config import load_hyperparameters
from utils.files import write_text
from utils.log import InputError, one_line
from utils.loggers import COLUMNS, read_history


def check(case: Case, place: Path) -> tuple[str, str]:
    """Have a file read; ``place`` holds the folder ``area`` of :func:`prepare`.

    Returns:
        "result" and nothing, or "refused" and the line that the user is told.

    Raises:
        Fault: neither, or it took too long, too much memory, or changed a file.
    """
    path = place / "area" / case.name
    path.write_bytes(case.content)
    before = _listing(place)
    memory, started, clock = _forget_peak(), time.process_time(), time.perf_counter()
    ending, line, cause = "result", "", None
    try:
        KINDS[case.kind].read(path)
    except (InputError, OSError) as error:
        ending, line = "refused", one_line(error)
    except Exception as error:  # a fault is told with its cause
        ending, line, cause = "fault", f"{type(error).__name__}: {error}"[:LONGEST_LINE], error
    seconds, waited, grown = time.process_time() - started, time.perf_counter() - clock, _peak() - memory
    faults = [line] if ending == "fault" else []
    if ending == "refused":
        raw = line.replace(str(place), "")
        faults += [f"the line does not name the file: {raw[:300]}"] if case.name not in line else []
        faults += [f"a line of {len(raw)} characters: {raw[:300]}"] if len(raw) > LONGEST_LINE else []
        faults += [f"a line that is none: {raw[:300]!r}"] if not raw.isprintable() else []
    faults += (
        [f"{seconds:.1f} seconds, {waited:.1f} by the clock"] if seconds > SLOWEST or waited > LONGEST_WAIT else []
    )
    faults += [f"{grown / 1e6:,.0f} MB of memory"] if grown > MOST_MEMORY else []
    faults += ["the file was changed"] if not path.exists() or path.read_bytes() != case.content else []
    after = _listing(place)
    changed = sorted(str(p) for p in before.keys() | after.keys() if before.get(p) != after.get(p))
    faults += [f"files were made or changed: {', '.join(changed[:3])}"] if changed else []
    path.unlink(missing_ok=True)
    if faults:
        raise Fault(f"{case.kind} {case.name} ({case.origin}): {'; '.join(faults)}") from cause
    return ending, line


def _listing(place: Path) -> dict[Path, tuple[int, int, int]]:
    found = {}
    for folder, _, files in os.walk(place):
        for name in files:
            path = Path(folder, name)
            state = path.lstat()
            found[path] = (state.st_size, state.st_mtime_ns, state.st_mode)
    return found


def _forget_peak() -> int:
    """Bytes of memory that the process has now; its peak counts from here on, where the system knows it (Linux)."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return 0
    return _status("VmRSS")


def _peak() -> int:
    return _status("VmHWM")


def _status(name: str) -> int:
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(name)), 0)


def prepare(place: Path) -> Path:
    """Make ``place/area``: a small data set, and outside of it a frame that no file in it may reach."""
    area = place / "area"
    make_dataset(area, train=3, val=2, shape=(24, 32))
    write_text(area / "listed.yaml", f"path: {area}\ntrain: data.txt\nval: images/val\nnames: [a]\n")
    (place / "secret").mkdir()
    (place / "secret" / "s.png").write_bytes(encode(".png", np.zeros((8, 8, 3), np.uint8)))
    return area


def cases(kind: str, area: Path) -> st.SearchStrategy[Case]:
    """Hostile files of a kind: damaged sound ones, and those of wrong values."""
    this = KINDS[kind]
    seeds = list(this.seeds(area))
    sound = st.sampled_from(seeds)

    def spoilt(first: Named, other: Named, steps: list[Step]) -> Case:
        return Case(kind, first[0], damaged(first[1], steps, other[1]), "damaged")

    found = st.builds(spoilt, sound, sound, damages(this.pieces))
    if this.made is not None:
        found |= this.made(area).map(lambda named: Case(kind, *named, "wrong values"))
    return found


def by_hand(kind: str, area: Path) -> list[Case]:
    """The sound files of a kind, and those that were made by hand."""
    this = KINDS[kind]
    sound = [Case(kind, *named, "sound") for named in this.seeds(area)]
    return sound + [Case(kind, *named, origin) for origin, named in this.nasty(area).items()]


# --- all kinds --------------------------------------------------------------------------------------------------------

KINDS: Mapping[str, Kind] = {
    "labels": Kind(
        label_seeds, labels_nasty, read_label_file, (b"0 0.5 0.5 0.1 0.1\n", b"\n\n0 1 0\n", b"1 0 0\n"), labels_made
    ),
    "image": Kind(
        lambda _: images(),
        images_nasty,
        read_image_file,
        (b"IHDR", b"IDAT", b"\xff\xd8", b"\xff\xc0", b"\xff\xd9", b"II*\0", b"RIFF"),
    ),
    "dataset": yaml_kind(
        "data.yaml",
        dataset_contents,
        read_dataset,
        escape="path: AREA\ntrain: ../secret\nval: images/val\nnames: [a]\n",
        roundabout="path: AREA\ntrain: images/../../secret\nval: images/val\nnames: [a]\n",
        phantoms="path: AREA/new\ntrain: x\nval: x\nnames: [a]\ngenerate: {name: phantom, patients: 10000000}\n",
        pattern="path: AREA\ntrain: images/train\nval: x\nnames: [a]\ngroup: '" + "(" * 5000 + ")" * 5000 + "'\n",
        slow="path: AREA\ntrain: images/train\nval: x\nnames: [a]\ngroup: '((.|.)+)+$x'\n",
    ),
    "hyp": yaml_kind("hyp.yaml", hyp_contents, load_hyperparameters),
    "network": yaml_kind("network.yaml", network_contents, read_network),
    "list": Kind(list_seeds, lists_nasty, read_listed, tuple(line.encode() for line in LINES), lists_made),
    "sources": Kind(list_seeds, sources_nasty, read_source_list, tuple(line.encode() for line in LINES), lists_made),
    "checkpoint": CHECKPOINTS,
    "resumed": RESUMED,
    "results": Kind(
        results_seeds,
        tables_nasty("results.csv", results_seeds),
        read_results_file,
        (b",", b'"'),
        tables_made("results.csv", COLUMNS[:5]),
    ),
    "balance": Kind(
        balance_seeds,
        tables_nasty("balance.csv", balance_seeds),
        read_balance_file,
        (b",", b'"'),
        tables_made("balance.csv", ("epoch", "step", "weight/det", "weight/view", "cosine/weight")),
    ),
    "history": Kind(
        lambda area: [("training_history.json", json.dumps(content).encode()) for content in history_contents(area)],
        json_nasty("training_history.json"),
        read_history,
        (b"{", b"[", b"null"),
        json_made("training_history.json", history_contents),
    ),
    "outcomes": OUTCOMES,
    "metrics": METRICS,
    "card": CARDS,
    "dicom": Kind(lambda _: dicoms(), dicoms_nasty, read_dicom, PIECES, dicoms_made),
    "video": Kind(
        lambda _: videos(), videos_nasty, read_video, (b"RIFF", b"00dc", b"moov", b"mdat", b"\xff\xff\xff\x00")
    ),
}
