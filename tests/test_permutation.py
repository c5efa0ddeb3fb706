"""Labels shuffled between patients: nobody keeps his own, and figures fall to chance, unless patients leak."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import train
from tests.phantoms import make_dataset, write_frame, write_yaml
from tests.scripts import phantom_yaml, tiny_cfg
from utils.config import load_dataset_config
from utils.dataset import EchoDataset, prepare
from utils.groups import patients
from utils.log import InputError
from utils.permutation import shuffled_labels
from utils.split_files import list_images


@pytest.mark.parametrize("seed", range(4))
def test_every_frame_gets_the_labels_of_another_patient(tmp_path: Path, seed: int) -> None:
    config = load_dataset_config(make_dataset(tmp_path, train=12, val=6, test=4))
    mapping = shuffled_labels(config, seed)
    files = [path for part in ("train", "val", "test") for path in list_images(config, part)]
    assert sorted(mapping) == sorted(files)
    owners = dict(zip(files, patients(config, files) or [], strict=True))
    giver = {owners[taker]: owners[given] for taker, given in mapping.items()}
    assert all(owners[given] == giver[owners[taker]] for taker, given in mapping.items())  # one giver a patient
    assert all(taker != given for taker, given in giver.items())
    assert sorted(giver.values()) == sorted(giver)  # and each gives once


def test_the_seed_alone_decides_not_the_order_of_parts(tmp_path: Path) -> None:
    make_dataset(tmp_path, train=12, val=8)
    one = load_dataset_config(write_yaml(tmp_path))
    other = load_dataset_config(write_yaml(tmp_path, train=["images/val", "images/train"]))
    assert shuffled_labels(one, 0) == shuffled_labels(other, 0) != shuffled_labels(one, 1)


def test_frames_of_unequal_patients_are_spread_evenly_in_order(tmp_path: Path) -> None:
    for name in ("p01-f0001", "p01-f0002", "p02-f0001", "p02-f0002", "p02-f0003", "p02-f0004"):
        write_frame(tmp_path, f"train/{name}.png", (48, 64))
    config = load_dataset_config(write_yaml(tmp_path, val="images/train"))
    mapping = {taker.stem: given.stem for taker, given in shuffled_labels(config, 0).items()}
    assert [mapping[f"p02-f000{i}"][-1] for i in (1, 2, 3, 4)] == ["1", "1", "2", "2"]
    assert [mapping[f"p01-f000{i}"][-1] for i in (1, 2)] == ["1", "3"]


def test_a_common_order_of_views_does_not_survive(tmp_path: Path) -> None:
    """Every patient's study begins with the same view: it must not be given to the first clip of all others."""
    for patient in range(30):
        for clip in range(3):
            write_frame(tmp_path, f"train/p{patient:02d}-c{clip:02d}-f1.png", (48, 64), view=clip)
    config = load_dataset_config(write_yaml(tmp_path, val="images/train"))
    mapping = shuffled_labels(config, 0)
    agreement = np.mean([taker.stem[4:7] == given.stem[4:7] for taker, given in mapping.items()])
    assert 0.2 < agreement < 0.47  # a third by chance; all of them, were clips given in the order of their names
    assert len(set(mapping.values())) == 90


def test_without_a_group_each_frame_counts_as_a_patient(tmp_path: Path) -> None:
    config = load_dataset_config(make_dataset(tmp_path, group=None))
    mapping = shuffled_labels(config, 0)
    assert sorted(mapping) == sorted(mapping.values()) and all(a != b for a, b in mapping.items())


def test_a_dataset_takes_labels_from_where_the_mapping_says(tmp_path: Path) -> None:
    config = load_dataset_config(make_dataset(tmp_path))
    mapping = shuffled_labels(config, 3)
    own, shuffled = EchoDataset(config, "train", 64), EchoDataset(config, "train", 64, label_of=mapping)
    assert own.files == shuffled.files
    everything = {
        path: label
        for part in (own, EchoDataset(config, "val", 64))
        for path, label in zip(part.files, part.labels, strict=True)
    }
    for path, label in zip(shuffled.files, shuffled.labels, strict=True):
        np.testing.assert_array_equal(label.boxes, everything[mapping[path]].boxes)
        assert label.view == everything[mapping[path]].view


def test_one_patient_has_nobody_to_shuffle_with(tmp_path: Path) -> None:
    write_frame(tmp_path, "train/p01-f0001.png", (48, 64))
    config = load_dataset_config(write_yaml(tmp_path, val="images/train"))
    with pytest.raises(InputError, match=r"data\.yaml: --permute-labels: expected frames of 2 or more patients"):
        shuffled_labels(config, 0)


@pytest.fixture(scope="module")
def phantom(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with small.yaml, split by patient; leaky.yaml, split by frame; and a tiny network."""
    folder = tmp_path_factory.mktemp("control")
    clean = phantom_yaml(folder, patients=24, frames=4)
    tiny_cfg(folder)
    prepare(load_dataset_config(clean))
    frames = sorted((folder / "phantom" / "images").rglob("*.*"))
    for part in ("train", "val"):
        lines = [f"{path}\n" for i, path in enumerate(frames) if (i % 4 == 1) == (part == "val")]
        (folder / f"{part}.txt").write_text("".join(lines))
    text = clean.read_text().replace("test: images/test\n", "")
    for part in ("train", "val"):
        text = text.replace(f"{part}: images/{part}", f"{part}: {folder / part}.txt")
    (folder / "leaky.yaml").write_text(text)
    return folder


def trained(folder: Path, data: str, epochs: int, **keywords: Any) -> dict[str, Any]:
    """metrics.json of a small training."""
    run = train.run(
        data=str(folder / data), cfg=str(folder / "tiny-yolov5n.yaml"), imgsz=96, batch_size=8, epochs=epochs,
        optimizer="Adam", balance="static", project=str(folder / "runs"), noplots=True, noval=True, bootstrap=300,
        **keywords,
    )  # fmt: skip
    content: dict[str, Any] = json.loads((run / "metrics.json").read_text())
    return content


def test_on_new_patients_shuffled_labels_give_chance(phantom: Path) -> None:
    real, control = (trained(phantom, "small.yaml", 14, permute_labels=permute) for permute in (False, True))
    assert real["view"]["balanced_accuracy"] > 0.75 and real["map50"] > 0.4
    low, high = control["interval"]["view"]["balanced_accuracy"]
    assert low <= 1 / 3 <= high + 1e-9 and high < 0.8
    assert control["interval"]["map50"][1] < real["interval"]["map50"][0]
    assert control["froc"]["1"] < real["froc"]["1"] / 2
    assert any("shuffled between patients" in warning for warning in control["warnings"])
    assert not real["warnings"]


@pytest.mark.long
def test_on_known_patients_shuffled_labels_are_learned_by_heart(phantom: Path) -> None:
    """What the control is for: here the figures come from recognising patients, and it shows."""
    control = trained(phantom, "leaky.yaml", 20, permute_labels=True)
    assert control["interval"]["view"]["balanced_accuracy"][0] > 0.5
    assert control["leakage"]["shared_patient_share"] == 1
