"""Learning rates by epoch and iteration, against YOLOv5's figures and their end points."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from utils.schedule import Schedule, accumulation, cosine, ema_decay, linear, warmup_iterations

SCHEDULE = Schedule(
    lr0=0.01, lrf=0.1, epochs=50, cosine=False, warmup_iterations=300, warmup_bias_lr=0.1,
    warmup_momentum=0.8, momentum=0.937, accumulate=4,
)  # fmt: skip
CURVES = {"linear": linear, "cosine": cosine}


@pytest.mark.parametrize("name", CURVES)
def test_the_factor_is_yolov5s_at_every_epoch(golden: Path, name: str) -> None:
    figures = json.loads((golden / "schedule.json").read_text())
    got = [CURVES[name](epoch, figures["epochs"], figures["lrf"]) for epoch in range(figures["epochs"])]
    assert got == pytest.approx(figures[name], rel=1e-12) and len(got) == 50


def test_the_decay_of_the_running_mean_is_yolov5s(golden: Path) -> None:
    figures = json.loads((golden / "schedule.json").read_text())["ema_decay_at_update"]
    assert {update: ema_decay(int(update)) for update in figures} == pytest.approx(figures, rel=1e-12)


def test_both_factors_end_at_the_final_share() -> None:
    assert linear(50, 50, 0.1) == pytest.approx(0.1) and cosine(50, 50, 0.1) == pytest.approx(0.1)
    assert linear(25, 50, 0.1) == pytest.approx(0.55) and cosine(25, 50, 0.1) == pytest.approx(0.55)


def test_warm_up_starts_from_its_own_values() -> None:
    rates = SCHEDULE.at(iteration=0, epoch=0)
    assert dataclasses.astuple(rates) == pytest.approx((0.1, 0.0, 0.8, 1))


def test_warm_up_is_linear_in_iterations_towards_the_epochs_rate() -> None:
    lr = 0.01 * linear(2, 50, 0.1)
    rates = SCHEDULE.at(iteration=150, epoch=2)
    assert dataclasses.astuple(rates) == pytest.approx(((0.1 + lr) / 2, lr / 2, (0.8 + 0.937) / 2, 2))


@pytest.mark.parametrize("iteration", [300, 301, 10_000])  # at 300 warm-up ends in the same rates
@pytest.mark.parametrize("name", CURVES)
def test_after_warm_up_only_the_epoch_counts(iteration: int, name: str) -> None:
    schedule = dataclasses.replace(SCHEDULE, cosine=name == "cosine")
    lr = 0.01 * CURVES[name](7, 50, 0.1)
    assert dataclasses.astuple(schedule.at(iteration, epoch=7)) == pytest.approx((lr, lr, 0.937, 4))


def test_accumulation_grows_from_one_to_all_batches_of_a_step() -> None:
    grown = [SCHEDULE.at(iteration, 0).accumulate for iteration in range(302)]
    assert grown == sorted(grown) and set(grown) == {1, 2, 3, 4}
    assert [grown.index(count) for count in (2, 3, 4)] == pytest.approx([50, 150, 250], abs=1)


def test_without_warm_up_the_first_iteration_has_full_rates() -> None:
    schedule = dataclasses.replace(SCHEDULE, warmup_iterations=0)
    assert dataclasses.astuple(schedule.at(0, 0)) == pytest.approx((0.01, 0.01, 0.937, 4))


@pytest.mark.parametrize(
    ("epochs", "per_epoch", "iterations"), [(3, 200, 600), (3, 20, 100), (0.1, 7, 100), (0, 500, 100)]
)
def test_warm_up_is_never_under_100_iterations(epochs: float, per_epoch: int, iterations: int) -> None:
    assert warmup_iterations(epochs, per_epoch) == iterations


@pytest.mark.parametrize(("batch", "batches"), [(16, 4), (64, 1), (128, 1), (24, 3), (1, 64), (256, 1)])
def test_accumulation_makes_about_64_frames_a_step(batch: int, batches: int) -> None:
    assert accumulation(batch, 64) == batches
