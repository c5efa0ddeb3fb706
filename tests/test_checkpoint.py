"""utils.checkpoint: what goes in comes out, whole or not at all, and nothing in a file is executed."""

from __future__ import annotations

import errno
import io
import os
import pickle
import signal
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch

from models.classifier import Classifier
from models.dual import PARTS, Dual
from models.yolo import Network
from utils import checkpoint, files
from utils.config import ROOT, load_hyperparameters, load_yaml
from utils.log import InputError, Interrupted


def network(seed: int = 0, **changes: Any) -> Network:
    torch.manual_seed(seed)
    return Network({**load_yaml(ROOT / "models" / "yolov5n.yaml"), "width_multiple": 0.125, **changes})


def content(trained: Network) -> dict[str, Any]:
    hyp = asdict(load_hyperparameters(ROOT / "hyp" / "joint_training_rules.yaml"))
    return {
        "description": trained.description, "names": ["AR", "MR", "PR", "TR"], "view_names": ["a", "b", "c"],
        "image_size": 64, "rect": False, "hyp": {k: list(v) if isinstance(v, tuple) else v for k, v in hyp.items()},
        "epoch": 0, "ema": trained.state_dict(), "network": {}, "optimizer": {}, "balancer": {},
        "random": torch.get_rng_state(), "options": {},
    }  # fmt: skip


@pytest.mark.parametrize("names", [["x" * 201, "b"], ["\x1b[2J", "b"], ["a\nb", "b"]])
@pytest.mark.parametrize("key", ["names", "view_names"])
def test_a_checkpoint_whose_names_no_table_can_show_is_refused(tmp_path: Path, key: str, names: list[str]) -> None:
    path = tmp_path / "odd.pt"
    torch.save({**dict.fromkeys(checkpoint.REQUIRED), "format": 1, "description": {}, "names": [], key: names}, path)
    with pytest.raises(InputError, match=rf"odd\.pt: ({key}|view_names): expected a list of names, got "):
        checkpoint.read(path)


def test_a_network_comes_back_bit_for_bit_with_its_anchors(tmp_path: Path) -> None:
    trained = network()
    trained.detect.set_anchors(torch.rand(3, 3, 2).sort(0)[0] * 50 + 5)
    checkpoint.save(tmp_path / "a.pt", content(trained))
    found = checkpoint.read(tmp_path / "a.pt")
    rebuilt = found.build()
    for name, tensor in trained.state_dict().items():
        assert torch.equal(rebuilt.state_dict()[name], tensor), name
    assert (found.names[0], found.view_names, found.image_size, found.rect) == ("AR", ("a", "b", "c"), 64, False)
    assert found.hyp == load_hyperparameters(ROOT / "hyp" / "joint_training_rules.yaml")


def test_stripping_keeps_the_averaged_weights_and_drops_what_training_needs(tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "a.pt", content(network()))
    checkpoint.strip(tmp_path / "a.pt")
    left = set(checkpoint.read(tmp_path / "a.pt").content)
    assert "ema" in left and not left & set(checkpoint.ONLY_FOR_TRAINING)


def test_a_write_that_fails_leaves_the_earlier_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    checkpoint.save(path, content(network()))
    before = path.read_bytes()

    class Unwritable:
        def __reduce__(self) -> tuple[Any, ...]:
            raise OSError(28, "No space left on device")

    with pytest.raises(
        InputError, match=r"a\.pt: no space left for a checkpoint of \d+ MB .* what a\.pt held before is whole"
    ):
        checkpoint.save(path, {**content(network()), "options": Unwritable()})
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_would_run_a_program_is_refused_and_does_not(tmp_path: Path) -> None:
    canary = tmp_path / "canary"

    class Hostile:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (canary,))

    torch.save({**content(network()), "format": 1, "options": Hostile()}, tmp_path / "a.pt")
    with pytest.raises(InputError, match=r"a\.pt"):
        checkpoint.read(tmp_path / "a.pt")
    assert not canary.exists()
    pickle.loads(pickle.dumps(Hostile()))  # noqa: S301  (the proof that the file was able to)
    assert canary.exists()


def test_what_a_path_held_before_stays_where_that_is_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    for epoch in range(3):
        checkpoint.save(path, {**content(network()), "epoch": epoch}, keep=True)
    found = {file.name: checkpoint.read(file).content["epoch"] for file in tmp_path.iterdir()}
    assert found == {"last.pt": 2, "last_previous.pt": 1}


def write_into(kind: type[io.BytesIO], monkeypatch: pytest.MonkeyPatch) -> None:
    """Let what is written whole go into such a stand-in for a file."""

    def fdopen(handle: int, mode: str) -> io.BytesIO:
        os.close(handle)
        return kind()

    monkeypatch.setattr(files.os, "fdopen", fdopen)


def test_a_full_disk_is_told_as_that_and_leaves_the_earlier_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full(io.BytesIO):
        def write(self, data: Any) -> int:
            if self.tell() > 10_000:
                raise OSError(errno.ENOSPC, "No space left on device")
            return super().write(data)

        def fileno(self) -> int:
            raise AssertionError("a file that could not be filled must not be renamed")

    path = tmp_path / "a.pt"
    checkpoint.save(path, content(network()))
    before = path.read_bytes()

    write_into(Full, monkeypatch)
    with pytest.raises(
        InputError, match=rf"{path}: no space left for a checkpoint of \d+ MB \(\d+ MB free\): free some"
    ):
        checkpoint.save(path, content(network()))
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("after", [0, 10_000])
@pytest.mark.parametrize(
    "cause", [Interrupted(15), KeyboardInterrupt(), SystemExit(1)], ids=lambda it: type(it).__name__
)
def test_a_signal_while_a_checkpoint_is_written_comes_out_as_what_its_handler_raises(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cause: BaseException, after: int
) -> None:
    class Interrupting(io.BytesIO):
        def write(self, data: Any) -> int:
            if self.tell() >= after:
                signal.raise_signal(signal.SIGUSR1)
            return super().write(data)

    def handler(*_: object) -> None:
        raise cause

    path = tmp_path / "a.pt"
    checkpoint.save(path, content(network()))
    before = path.read_bytes()

    write_into(Interrupting, monkeypatch)
    usual = signal.signal(signal.SIGUSR1, handler)
    try:
        with pytest.raises(type(cause)):
            checkpoint.save(path, content(network()), keep=True)
    finally:
        signal.signal(signal.SIGUSR1, usual)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def pair(folder: Path, **of_classifier: Any) -> dict[str, checkpoint.Checkpoint]:
    """A detector's and a classifier's checkpoint, as their trainings write them."""
    torch.manual_seed(2)
    description = {**load_yaml(ROOT / "models/hub/yolov5n.yaml"), "width_multiple": 0.125}
    trained: dict[str, Any] = {"detector": Network(description, nc=4), "classifier": Classifier("resnet18")}
    own: dict[str, dict[str, Any]] = {
        "detector": {
            "view_names": [], "epoch": 4, "figures": {"map50": 0.5}, "finished": True,
            "operating": {"confidence": 0.25, "temperature": None},
        },
        "classifier": {
            "names": [], "epoch": 2, "figures": {"view_accuracy": 0.75}, "finished": True,
            "operating": {"confidence": 0.0, "temperature": 1.5}, **of_classifier,
        },
    }  # fmt: skip
    for name in PARTS:
        checkpoint.save(folder / f"{name}.pt", {**content(trained[name]), **own[name]})
    return {name: checkpoint.read(folder / f"{name}.pt", mapped=True) for name in PARTS}


def test_two_parts_become_one_checkpoint_that_gives_both_networks_back(tmp_path: Path) -> None:
    parts = pair(tmp_path)
    checkpoint.save(tmp_path / "pair.pt", checkpoint.paired(parts))
    found = checkpoint.read(tmp_path / "pair.pt")
    assert found.is_pair and not any(part.is_pair for part in parts.values())
    assert (found.names, found.view_names) == (("AR", "MR", "PR", "TR"), ("a", "b", "c"))
    whole = found.build()
    assert isinstance(whole, Dual)
    for name in PARTS:
        network, expected = getattr(whole, name).state_dict(), parts[name].content["ema"]
        assert network.keys() == expected.keys() == found.part(name).keys()
        for key, tensor in expected.items():
            assert torch.equal(network[key], tensor) and torch.equal(found.part(name)[key], tensor), key
        assert parts[name].part(name).keys() == expected.keys()


def test_one_checkpoint_says_what_each_of_its_parts_says(tmp_path: Path) -> None:
    together = checkpoint.paired(pair(tmp_path))
    assert (together["epochs"], together["epoch"]) == ({"detector": 5, "classifier": 3}, 2)
    assert together["figures"] == {"map50": 0.5, "view_accuracy": 0.75}
    assert together["operating"] == {"confidence": 0.25, "temperature": 1.5}
    assert together["finished"] is True and not set(together) & {"network", "optimizer", "balancer", "random"}


def test_one_checkpoint_is_finished_and_has_an_operating_point_when_both_have(tmp_path: Path) -> None:
    together = checkpoint.paired(pair(tmp_path, finished=False, operating=None))
    assert together["finished"] is False and together["operating"] is None


def test_a_mapped_checkpoint_is_the_same_one_and_may_be_replaced_while_it_is_held(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    checkpoint.save(path, content(network()))
    held, whole = checkpoint.read(path, mapped=True), checkpoint.read(path)
    checkpoint.save(path, content(network(seed=1)))
    for name, tensor in whole.content["ema"].items():
        assert torch.equal(held.content["ema"][name], tensor), name


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("figures", [0.5]), ("figures", {"map50": "high"}), ("operating", "x"), ("operating", {"confidence": [1]}),
        ("trained_on", "all"), ("trained_on", {"hash": "x", "patients": [1], "hashes": torch.zeros(1, 72)}),
        ("options", ["epochs"]), ("epochs", "four"), ("epochs", {"detector": -1}), ("progress", 3),
        ("frame_weights", [1.0]), ("permuted_labels", -1), ("finished", "yes"), ("date", 5), ("git", b"x"),
        ("optimizer", []), ("network", {"a": 1}), ("options", "x" * 1_000_000),
    ],
    ids=lambda value: str(value)[:20],
)  # fmt: skip
def test_what_need_not_be_there_is_checked_where_it_is(tiny: Network, tmp_path: Path, key: str, value: Any) -> None:
    path = tmp_path / "a.pt"
    checkpoint.save(path, {**content(tiny), key: value})
    with pytest.raises(InputError, match=rf"a\.pt: {key}: expected") as caught:
        checkpoint.read(path)
    assert len(str(caught.value).replace(str(path), "")) < 400
    checkpoint.save(path, {**content(tiny), key: None})
    checkpoint.read(path)
