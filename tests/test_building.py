"""utils.building: what flags, hyp file and dataset make of a network, its loaders, its learner and its plan."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import train
from models.balancer import Balancer
from models.yolo import Network
from tests.phantoms import make_dataset
from utils.batches import EpochBatches
from utils.building import (
    build_learner,
    build_network,
    fit_anchors,
    freeze,
    make_plan,
    merged_hyperparameters,
    open_loaders,
    place_network,
)
from utils.config import ROOT, Hyperparameters
from utils.devices import select_compute
from utils.flags import from_keywords
from utils.log import InputError
from utils.loss import JointLoss
from utils.parts import Parts, checked_dataset, open_parts
from utils.processes import ALONE, Processes


def options_of(**keywords: Any) -> argparse.Namespace:
    return from_keywords(train.FLAGS, {"imgsz": 64, "batch_size": 2, "workers": 0, **keywords})


def parts_of(folder: Path, options: argparse.Namespace, hyp: Hyperparameters) -> Parts:
    return open_parts(checked_dataset(options, hyp), options, hyp, 32)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return make_dataset(tmp_path / "data")


def test_typed_flags_are_merged_over_the_hyp_file() -> None:
    as_written = merged_hyperparameters(options_of())
    merged = merged_hyperparameters(options_of(seed=7, patience=3))
    assert (as_written.seed, as_written.patience) == (42, 0) and (merged.seed, merged.patience) == (7, 3)
    assert merged.lr0 == as_written.lr0


def test_changes_of_anatomy_and_what_has_no_effect_are_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    content = yaml.safe_load((ROOT / "hyp" / "joint_training_rules.yaml").read_text(encoding="utf-8"))
    path = tmp_path / "flips.yaml"
    path.write_text(yaml.safe_dump({**content, "fliplr": 0.5, "copy_paste": 0.1}))
    with caplog.at_level(logging.WARNING):
        merged_hyperparameters(options_of(hyp=str(path)))
    assert "copy_paste has no effect" in caplog.text and "flips, hue and mosaic change anatomy" in caplog.text


def test_errors_name_where_the_value_stands(data: Path) -> None:
    with pytest.raises(InputError, match=r"^command line: seed: expected"):
        merged_hyperparameters(options_of(seed=-1))
    options = options_of(data=str(data), cfg="data/phantom.yaml")
    hyp = merged_hyperparameters(options)
    with pytest.raises(InputError, match=r"phantom\.yaml: .*unknown keys"):
        build_network(checked_dataset(options, hyp), options, hyp, None)


def test_the_network_has_the_classes_and_views_of_the_data(data: Path) -> None:
    options = options_of(data=str(data), cfg="models/yolov5n.yaml")
    hyp = merged_hyperparameters(options)
    config = checked_dataset(options, hyp)
    network = build_network(config, options, hyp, None)
    assert (network.nc, network.nv) == (len(config.names), len(config.view_names)) and network.view_head is not None
    alone = options_of(data=str(data), cfg="models/yolov5n.yaml", hyp="hyp/detection_only.yaml", single_cls=True)
    detector = build_network(config, alone, merged_hyperparameters(alone), None)
    assert detector.nc == 1 and detector.view_head is None


def test_a_view_is_not_learned_by_a_network_without_a_head(data: Path) -> None:
    options = options_of(data=str(data), cfg="models/hub/yolov5n.yaml")
    hyp = merged_hyperparameters(options)
    with pytest.raises(InputError, match=r"no ViewHead, but .*joint_training_rules.yaml"):
        build_network(checked_dataset(options, hyp), options, hyp, None)


@pytest.mark.parametrize(("layers", "frozen"), [((3,), {0, 1, 2}), ((0, 4), {0, 4}), ((0,), set())])
def test_one_number_freezes_so_many_layers_and_several_those(
    joint: Network, layers: tuple[int, ...], frozen: set[int]
) -> None:
    freeze(joint, layers)
    still = {i for i, layer in enumerate(joint.model) if any(p.requires_grad for p in layer.parameters())}
    assert still == {i for i, layer in enumerate(joint.model) if [*layer.parameters()]} - frozen


def test_layers_that_are_not_there_and_all_of_them_are_not_frozen(joint: Network) -> None:
    count = len(joint.model)
    for layers, words in (
        ((99,), "expected layers from 0"),
        ((-1, 2), "expected layers"),
        ((count,), "some layer left"),
    ):
        with pytest.raises(InputError, match=words):
            freeze(joint, layers)


def test_anchors_stay_that_fit_and_are_replaced_where_others_fit_better(data: Path, joint: Network) -> None:
    options = options_of(data=str(data))
    hyp = merged_hyperparameters(options)
    parts = parts_of(data, options, hyp)
    tall = torch.tensor([2.0, 60.0]).expand_as(joint.detect.anchors_in_pixels())
    joint.detect.set_anchors(tall)
    fit_anchors(joint, parts.train, hyp, parts.image_size)
    found = joint.detect.anchors_in_pixels().clone()
    assert not torch.allclose(found, tall)
    fit_anchors(joint, parts.train, hyp, parts.image_size)
    assert torch.equal(joint.detect.anchors_in_pixels(), found)


def test_frames_to_train_on_are_shuffled_and_those_to_validate_are_not(data: Path) -> None:
    options = options_of(data=str(data))
    hyp = merged_hyperparameters(options)
    train_loader, val_loader = open_loaders(parts_of(data, options, hyp), options, hyp, select_compute("cpu"), ALONE)
    assert [len(batch.images) for batch in train_loader] == [2, 2, 2] and [len(b.images) for b in val_loader] == [4]
    assert isinstance(train_loader.batch_sampler, EpochBatches)
    train_loader.batch_sampler.keys.epoch = 1
    seen = [index for batch in train_loader for index in batch.indices]
    assert sorted(seen) == list(range(6)) != seen
    assert [index for batch in val_loader for index in batch.indices] == list(range(4))


@pytest.mark.parametrize(("size", "same"), [(1, False), (2, True)])
def test_statistics_are_of_all_processes_where_there_are_several(joint: Network, size: int, same: bool) -> None:
    shared: list[object] = []

    class Several(Processes):
        def share_state(self, network: torch.nn.Module) -> None:
            shared.append(network)

    place_network(joint, options_of(sync_bn=True), select_compute("cpu"), Several(size=size))
    synchronised = any("Sync" in type(module).__name__ for module in joint.modules())
    assert shared == [joint] and synchronised is same


def test_small_batches_are_accumulated_and_weight_decay_goes_with_what_a_step_sees(joint: Network) -> None:
    options = options_of(batch_size=4, epochs=5)
    hyp = merged_hyperparameters(options)
    criterion = JointLoss.of(joint, hyp, 64)
    learner = build_learner(joint, hyp, options, 100, criterion, Balancer((1.0, 1.0)), "SGD")
    assert learner.schedule.accumulate == 4 and learner.schedule.epochs == 5
    assert {group["weight_decay"] for group in learner.optimizer.param_groups} == {0.0, hyp.weight_decay}
    large = options_of(batch_size=32, epochs=5)
    learner = build_learner(joint, hyp, large, 100, criterion, Balancer((1.0, 1.0)), "SGD")
    assert max(group["weight_decay"] for group in learner.optimizer.param_groups) == 2 * hyp.weight_decay


def test_the_plan_remembers_what_the_training_has_seen_and_what_was_typed(data: Path, tmp_path: Path) -> None:
    options = options_of(data=str(data), epochs=3, noval=True, multi_scale=True)
    hyp = merged_hyperparameters(options)
    parts = parts_of(data, options, hyp)
    plan = make_plan(tmp_path, checked_dataset(options, hyp), options, hyp, parts, 32)
    assert plan.names == parts.train.names and len(plan.view_names) == 3
    assert not plan.validate_every_epoch and plan.multi_scale is not None and plan.image_size == 64
    assert plan.remembered is not None
    assert plan.remembered["trained_on"].keys() == parts.trained_on.content().keys()
    assert plan.options is not None and {"epochs", "noval", "multi_scale"} <= set(plan.options["typed"])
