"""What several test files share: the folder of pinned figures, and networks small enough for a laptop."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pytest
import torch

from models.yolo import Network
from tests.captures import FakeCapture
from tests.phantoms import SHAPES, own_box, write_frame, write_yaml
from tests.scripts import phantom_yaml, tiny_cfg
from tests.simulated import few
from utils import frames
from utils.assessment import Assessment, assess
from utils.config import ROOT, Hyperparameters, hyperparameters_from, load_dataset_config, load_yaml
from utils.dataset import EchoDataset, prepare
from utils.epoch import MeanLosses
from utils.evaluation import Evaluation, Speed
from utils.log import LOGGER

if TYPE_CHECKING:
    from tests.chromium import Browser

torch.set_num_threads(1)  # tiny networks: more threads only wait for each other
GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture(autouse=True, scope="session")
def cache_of_the_tests(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Leave the repository's cache of frames alone, and find nothing in it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(frames, "CACHE_FOLDER", tmp_path_factory.mktemp("cache"))
        yield


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache of frames that no other test uses."""
    monkeypatch.setattr(frames, "CACHE_FOLDER", tmp_path / "cache")


@pytest.fixture(autouse=True)
def logging_as_it_was() -> Iterator[None]:
    """Undo what a script's start does to the logger, so that no test depends on those before it."""
    before = LOGGER.handlers[:], LOGGER.level, LOGGER.propagate
    LOGGER.handlers[:], LOGGER.propagate = [], True
    yield
    LOGGER.handlers[:], LOGGER.level, LOGGER.propagate = before


@pytest.fixture
def no_thread_left() -> Iterator[None]:
    """Fails a test that leaves a thread which decodes or writes frames."""
    yield
    assert not [thread for thread in threading.enumerate() if thread.name.startswith(("prefetch", "decode", "writer"))]


@pytest.fixture
def fake_capture(monkeypatch: pytest.MonkeyPatch) -> type[FakeCapture]:
    """A fresh stand-in, in the place of OpenCV's reader of videos."""
    capture = type("Capture", (FakeCapture,), {"addresses": [], "released": 0})
    monkeypatch.setattr(cv2, "VideoCapture", capture)
    return capture


@pytest.fixture
def golden() -> Path:
    """The folder of figures that were pinned once, on seeded inputs."""
    return GOLDEN


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """A browser that a file's tests share, one after the other; where there is none, they count as skipped."""
    from tests.chromium import Browser  # not above: it talks to it as only Unix can

    with Browser(tmp_path_factory.mktemp("browser")) as opened:
        yield opened


@pytest.fixture
def tiny_description() -> dict[str, Any]:
    """The stock network, an eighth as wide, 4 classes."""
    return {**load_yaml(ROOT / "models/hub/yolov5s.yaml"), "width_multiple": 0.125, "nc": 4}


@pytest.fixture
def joint_description() -> dict[str, Any]:
    """The joint network at the same width, 4 classes and 3 views."""
    return {**load_yaml(ROOT / "models/yolov5s.yaml"), "width_multiple": 0.125, "nc": 4, "nv": 3}


@pytest.fixture
def tiny_state() -> dict[str, torch.Tensor]:
    """The pinned weights of :func:`tiny`."""
    with np.load(GOLDEN / "tiny_state_dict.npz") as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays.files}


@pytest.fixture
def tiny(tiny_description: dict[str, Any], tiny_state: dict[str, torch.Tensor]) -> Network:
    """The tiny stock network with its pinned weights, in training mode."""
    network = Network(tiny_description)
    network.load_state_dict(tiny_state)
    return network


@pytest.fixture
def joint(joint_description: dict[str, Any]) -> Network:
    """A fresh tiny joint network, seeded, in training mode."""
    torch.manual_seed(0)
    return Network(joint_description)


@pytest.fixture
def hyp() -> Hyperparameters:
    """YOLOv5's values without augmentation."""
    path = GOLDEN / "hyp_no_augmentation_values.json"
    return hyperparameters_from(json.loads(path.read_text()), path)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with small.yaml, whose frames are made at first use, and tiny-yolov5n.yaml, for a file's trainings."""
    folder = tmp_path_factory.mktemp("place")
    phantom_yaml(folder)
    tiny_cfg(folder)
    return folder


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> EchoDataset:
    """A few phantom frames to train on, at 64 pixels."""
    config = load_dataset_config(phantom_yaml(tmp_path_factory.mktemp("phantom")))
    prepare(config)
    return EchoDataset(config, "train", 64)


@pytest.fixture
def shapes(tmp_path: Path) -> Path:
    """A training split of frames of several shapes, each with a box and a view of its own."""
    for i, shape in enumerate(SHAPES):
        write_frame(tmp_path, f"train/p{i // 2}-{i}.png", shape, [own_box(i, shape)], i % 3)
    write_yaml(tmp_path)
    return tmp_path


@pytest.fixture
def assessment() -> Assessment:
    """Of four frames of two patients; see :func:`tests.simulated.few`."""
    return assess(few(), draws=200)


@pytest.fixture
def evaluation(assessment: Assessment) -> Evaluation:
    """The evaluation behind :func:`assessment`, as far as reports look at it."""
    figures, view = assessment.detection, assessment.view
    return Evaluation(figures, view, MeanLosses(0.1, 0.2, 0.3, 0.4), np.eye(5, dtype=int), [], Speed(1.0, 2.0, 3.0))
