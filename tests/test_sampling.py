"""utils.sampling: how often frames are drawn."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import train
from tests.phantoms import write_frame, write_yaml
from tests.scripts import phantom_yaml, tiny_cfg
from utils import checkpoint
from utils.augment import Augmenter
from utils.batches import EpochSampler, Key
from utils.config import ROOT, Hyperparameters, load_dataset_config
from utils.dataset import EchoDataset
from utils.log import InputError
from utils.sampling import SAMPLINGS, check_sampling, class_weights, sampling_weights

FRAMES = {("p01", "c01"): 1, ("p01", "c02"): 5, ("p02", "c01"): 3, ("p03", "c01"): 2}


@pytest.fixture
def dataset(tmp_path: Path) -> EchoDataset:
    """Three patients, of whom one has two clips; clips of one to five frames."""
    for (patient, clip), count in FRAMES.items():
        for number in range(count):
            write_frame(tmp_path, f"train/{patient}-{clip}-f{number:04d}.png", (48, 64), [(0, 1, 1, 20, 20)], view=0)
    return EchoDataset(load_dataset_config(write_yaml(tmp_path, val="images/train")), "train", 64)


def shares(dataset: EchoDataset, sampling: str) -> dict[tuple[str, str], float]:
    """How often each clip is drawn, of all draws."""
    weights = sampling_weights(sampling, dataset)
    assert weights is not None and weights.sum() == pytest.approx(1)
    found: dict[tuple[str, str], float] = {}
    for path, weight in zip(dataset.files, weights, strict=True):
        patient, clip, _ = path.stem.split("-")
        found[patient, clip] = found.get((patient, clip), 0.0) + weight
    return found


def test_frames_are_drawn_once_each_by_default(dataset: EchoDataset) -> None:
    assert sampling_weights("frames", dataset) is None


def test_clips_are_drawn_alike_whatever_their_length(dataset: EchoDataset) -> None:
    assert shares(dataset, "clips") == pytest.approx(dict.fromkeys(FRAMES, 1 / 4))


def test_patients_are_drawn_alike_and_so_are_a_patients_clips(dataset: EchoDataset) -> None:
    found = shares(dataset, "patients")
    assert found == pytest.approx(
        {("p01", "c01"): 1 / 6, ("p01", "c02"): 1 / 6, ("p02", "c01"): 1 / 3, ("p03", "c01"): 1 / 3}
    )


def test_an_epoch_draws_in_these_shares(dataset: EchoDataset) -> None:
    sampler = EpochSampler(len(dataset), seed=1)
    sampler.weights = sampling_weights("patients", dataset)
    drawn: Counter[str] = Counter()
    for epoch in range(300):
        sampler.epoch = epoch
        drawn.update(dataset.files[key.item].stem[:3] for key in sampler)
    assert np.array(list(drawn.values())) / drawn.total() == pytest.approx([1 / 3] * 3, abs=0.03)


@pytest.mark.parametrize("sampling", SAMPLINGS[1:])
def test_a_dataset_without_patients_cannot_be_drawn_by_them(dataset: EchoDataset, sampling: str) -> None:
    dataset.config = replace(dataset.config, group=None, clip=None)
    with pytest.raises(InputError, match=f"data.yaml: sampling: {sampling}: expected a group .*in it, got none"):
        sampling_weights(sampling, dataset)


def test_another_word_is_one_line(hyp: Hyperparameters) -> None:
    with pytest.raises(InputError, match=r"my\.yaml: sampling: expected one of frames, clips, patients, got 'valves'"):
        check_sampling(replace(hyp, sampling="valves"), "my.yaml")


def test_a_frame_that_an_epoch_draws_again_is_changed_anew(dataset: EchoDataset, hyp: Hyperparameters) -> None:
    sampler = EpochSampler(len(dataset), seed=1)
    sampler.weights = sampling_weights("clips", dataset)
    keys = list(sampler)
    again = [key for key in keys if key.draw]
    assert again and len(set(keys)) == len(keys) == len(dataset)
    dataset.augmenter = Augmenter(replace(hyp, translate=0.2))
    first, second = (dataset[Key(0, again[0].item, draw)][0] for draw in (0, 1))
    assert not torch.equal(first, second) and torch.equal(second, dataset[Key(0, again[0].item, 1)][0])


def test_a_training_draws_so_from_the_first_epoch_on_and_its_checkpoint_says_so(tmp_path: Path) -> None:
    phantom_yaml(tmp_path, patients=8, frames=2)
    hyp = tmp_path / "hyp.yaml"
    rules = (ROOT / "hyp" / "joint_training_rules.yaml").read_text(encoding="utf-8")
    hyp.write_text(rules + "sampling: clips\nclip_views: true\nclip_window: 1\n", encoding="utf-8")
    run = train.run(
        data=str(tmp_path / "small.yaml"), cfg=str(tiny_cfg(tmp_path)), hyp=str(hyp), imgsz=64, batch_size=8, epochs=1,
        project=str(tmp_path / "runs"), noplots=True, bootstrap=0, workers=0, threads=1,
    )  # fmt: skip
    weights = checkpoint.read(run / "weights" / "last.pt").content["frame_weights"]
    assert weights is not None and weights.sum() == pytest.approx(1)


def test_frames_of_a_rare_class_that_is_found_badly_are_drawn_more(tmp_path: Path, hyp: Hyperparameters) -> None:
    for number in range(6):  # five of class 0, one of class 1, one of none
        write_frame(tmp_path, f"train/p{number:02}-1.png", (48, 64), [(int(number == 5), 1, 1, 20, 20)], view=0)
    write_frame(tmp_path, "train/p09-1.png", (48, 64), view=0)
    dataset = EchoDataset(load_dataset_config(write_yaml(tmp_path, val="images/train")), "train", 64)
    at_first = class_weights(dataset, np.zeros(4))
    assert at_first[5] == pytest.approx(5 * at_first[0]) and at_first[6] == at_first[0] > 0
    found = class_weights(dataset, np.array([0.9, 0.0, 0.0, 0.0]))
    assert found[5] == pytest.approx(500 * found[0]) and found.shape == (7,)
