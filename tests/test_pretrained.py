"""utils.pretrained: a classifier's weights from files, nothing fetched unless asked, and faults in one line."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor

from models.classifier import Classifier, from_torchvision
from tests.test_checkpoint import content, network
from utils import checkpoint
from utils.checkpoint import Checkpoint
from utils.log import InputError
from utils.pretrained import imagenet_file, read_weights
from utils.starting import start_from

NAME = "resnet18-f37072fd.pth"


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    torch.manual_seed(0)
    return dict(torchvision.models.resnet18().state_dict())


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """torch's folder of fetched files, empty, on a machine that must not reach for the network."""

    def refuse(*_: Any) -> None:
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(socket, "socket", refuse)
    return tmp_path / "checkpoints"


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_torchvisions_tensors_are_loaded_by_name_and_the_report_counts_them(
    state: dict[str, Tensor], tmp_path: Path, caplog: pytest.LogCaptureFixture, zipped: bool
) -> None:
    path = tmp_path / "resnet18.pth"
    torch.save(state, path, _use_new_zipfile_serialization=zipped)
    found = read_weights(path)
    assert isinstance(found, dict)
    classifier = Classifier("resnet18")
    with caplog.at_level("INFO", logger="echo"):
        start_from(classifier, from_torchvision(found), path)
    total = len(classifier.state_dict())
    assert f"{len(state) - 2} of {total} tensors matched" in caplog.text  # all but the 1,000 classes
    assert "fresh: backbone.layer1.0.se.fc1.weight: not there" in caplog.text
    for name, tensor in state.items():
        if not name.startswith("fc."):
            assert torch.equal(classifier.state_dict()[f"backbone.{name}"], tensor), name


def test_a_checkpoint_of_ours_is_read_as_one(tmp_path: Path) -> None:
    trained = network()
    checkpoint.save(tmp_path / "best.pt", content(trained))
    found = read_weights(tmp_path / "best.pt")
    assert isinstance(found, Checkpoint) and found.part("classifier").keys() == trained.state_dict().keys()


def faulty(path: Path, state: dict[str, Tensor], kind: str) -> None:
    """A file that is no weights."""
    if kind == "text":
        path.write_text("not weights\n")
    elif kind == "zeros":
        path.write_bytes(bytes(1000))
    elif kind == "random":
        path.write_bytes(
            torch.randint(256, (5000,), generator=torch.Generator().manual_seed(0)).byte().numpy().tobytes()
        )
    elif kind == "folder":
        path.mkdir()
    elif kind == "empty":
        path.touch()
    elif kind == "list":
        torch.save([torch.zeros(1)], path)
    elif kind == "no tensors":
        torch.save({"a": 1}, path)
    elif kind == "nothing":
        torch.save({}, path)
    else:
        torch.save(state, path, _use_new_zipfile_serialization=kind == "cut zip")
        size = path.stat().st_size
        os.truncate(path, 300 if kind == "cut early" else size // 2)


@pytest.mark.parametrize(
    "kind",
    [
        "absent", "text", "zeros", "random", "folder", "empty", "list", "no tensors", "nothing", "cut zip",
        "cut legacy", "cut early",
    ],
)  # fmt: skip
def test_a_file_that_is_no_weights_is_one_line_that_names_it(
    state: dict[str, Tensor], tmp_path: Path, kind: str
) -> None:
    path = tmp_path / "weights.pth"
    if kind != "absent":
        faulty(path, state, kind)
    with pytest.raises(InputError, match=r"weights\.pth: (no such file|expected|not read)") as caught:
        read_weights(path)
    assert "\n" not in str(caught.value)


def test_a_file_that_would_run_a_program_is_refused_and_does_not(tmp_path: Path) -> None:
    class Hostile:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "canary",))

    torch.save({"a": torch.zeros(1), "b": Hostile()}, tmp_path / "a.pth")
    with pytest.raises(InputError, match=r"a\.pth: not read: it asks for builtins\.getattr"):
        read_weights(tmp_path / "a.pth")
    assert not (tmp_path / "canary").exists()


def test_what_is_on_disk_is_taken_and_nothing_is_fetched(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache.mkdir()
    (cache / NAME).touch()
    monkeypatch.delattr(torch.hub, "download_url_to_file")
    for download in (False, True):
        assert imagenet_file("resnet18", download) == cache / NAME


def test_what_is_not_on_disk_is_fetched_only_if_that_is_asked(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[Any, ...]] = []

    def fetch(*arguments: Any) -> None:
        calls.append(arguments)
        Path(arguments[1]).write_bytes(b"weights")

    monkeypatch.setattr(torch.hub, "download_url_to_file", fetch)
    with pytest.raises(InputError, match=rf"{NAME}: no such file; --download fetches it from https://"):
        imagenet_file("resnet18", False)
    assert not calls and not cache.exists()
    assert imagenet_file("resnet18", True) == cache / NAME
    assert (cache / NAME).read_bytes() == b"weights"
    assert len(calls) == 1 and calls[0][0].endswith(f"/{NAME}")
    assert calls[0][2] == "f37072fd"  # what its hash must begin with


@pytest.mark.parametrize("error", [OSError("no route"), RuntimeError("invalid hash value")], ids=str)
def test_a_fetch_that_fails_is_one_line(cache: Path, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fail(*_: Any) -> None:
        raise error

    monkeypatch.setattr(torch.hub, "download_url_to_file", fail)
    with pytest.raises(InputError, match=rf"https://.*{NAME}: expected to fetch it, got {error}"):
        imagenet_file("resnet18", True)


def test_other_networks_have_no_imagenet_weights(cache: Path) -> None:
    with pytest.raises(InputError, match="--classifier-weights imagenet: expected a ResNet classifier, got yolov5n"):
        imagenet_file("yolov5n", True)
