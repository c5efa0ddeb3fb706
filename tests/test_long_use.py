"""A training keeps neither memory nor open files; the long form is tests/long/train_memory_flat.py."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Mapping
from pathlib import Path

import psutil
import pytest

import train
from tests.long.train_memory_flat import Look, growth
from tests.scripts import phantom_yaml, tiny_cfg
from utils.log import InputError
from utils.loggers import RunLogger

EPOCHS, BATCH = 7, 2
TRACED = 4  # epochs at the end: tracing makes a step several times as slow
LIMIT = 1e6 / 1000  # bytes a step, as in the long form


def test_python_objects_and_descriptors_do_not_grow_with_the_epochs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    traced: list[int] = []
    opened: list[int] = []
    log = RunLogger.log

    def looked(logger: RunLogger, row: Mapping[str, float]) -> None:
        log(logger, row)
        gc.collect()
        opened.append(psutil.Process().num_fds())
        if len(opened) == EPOCHS - TRACED:
            tracemalloc.start()
        traced.append(tracemalloc.get_traced_memory()[0])

    monkeypatch.setattr(RunLogger, "log", looked)
    data, cfg = phantom_yaml(tmp_path, patients=9, frames=2), tiny_cfg(tmp_path)
    try:
        folder = train.run(
            data=str(data), cfg=str(cfg), imgsz=64, batch_size=BATCH, epochs=EPOCHS, noplots=True, bootstrap=0,
            project=str(tmp_path / "runs"), interference_every=0,
        )  # fmt: skip
    finally:
        tracemalloc.stop()
    assert len(opened) == EPOCHS and (folder / "weights" / "last.pt").is_file()
    assert opened[-1] == opened[1]
    steps_an_epoch = len(list((tmp_path / "phantom" / "images" / "train").iterdir())) // BATCH
    assert EPOCHS * steps_an_epoch > 140
    # what the first traced epochs leave took the place of what was there before tracing
    assert traced[-1] - traced[-3] < LIMIT * 2 * steps_an_epoch


def looks(memory_a_step: float, opened_late: int = 4) -> list[Look]:
    """Of 400 steps, five a step; a checkpoint is being written at every hundredth."""
    return [
        Look(step, int(8e8 + memory_a_step * step + 5e7 * (step % 100 < 5)), 4 if step < 300 else opened_late)
        for step in range(400)
        for _ in range(5)
    ]


def test_the_long_form_finds_growth_through_peaks() -> None:
    flat = growth(looks(0), 100)
    assert (flat.slope, round(flat.early), round(flat.late), flat.descriptors) == (0.0, 800, 800, (4, 4))
    assert flat.flat and growth(looks(900), 100).flat
    grows = growth(looks(1500), 100)
    assert grows.slope == pytest.approx(1.5) and not grows.flat
    assert not growth(looks(0, opened_late=5), 100).flat
    with pytest.raises(InputError, match="--steps: expected at least 480"):
        growth(looks(0), 300)
