"""hubconf.py, by torch.hub itself: the lines that YOLOv5's users write, and what detect.py finds in the same frame."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import hubconf
from tests.test_predict import frame, lively
from utils import checkpoint
from utils.checkpoint import Trained
from utils.config import ROOT
from utils.draw import save
from utils.log import InputError
from utils.predict import load


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """See :func:`tests.test_predict.lively`."""
    return lively(tmp_path_factory.mktemp("hub") / "best.pt")


@pytest.fixture
def model(weights: Path) -> Any:
    """The hub's model at a threshold that an untrained network passes."""
    loaded = hubconf.custom(weights, _verbose=False, device="cpu")
    assert isinstance(loaded, hubconf.HubModel)
    loaded.conf = 0.01
    return loaded


def test_torch_hub_loads_a_model_that_finds_what_detect_finds(
    weights: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    model = torch.hub.load(".", "custom", path=str(weights), source="local", device="cpu", force_reload=True)
    assert "best.pt: 4 classes, 3 views, 64 pixels, CPU" in capsys.readouterr().err
    assert (model.conf, model.iou, model.max_det, model.classes) == (0.25, 0.45, 1000, None)
    assert model.names == {0: "AR", 1: "MR", 2: "PR", 3: "TR"} and model.view_names == ("a", "b", "c")
    for conf in (0.25, 0.01):
        model.conf = conf
        expected = load(weights, "cpu", conf_thres=conf)(frame())
        results = model(frame())
        np.testing.assert_array_equal(results.xyxy[0].numpy(), expected.boxes)
        np.testing.assert_array_equal(results.views[0], expected.view)
    assert len(expected) > 1


def test_one_frame_in_every_form_gives_the_same(model: Any, tmp_path: Path) -> None:
    from PIL import Image as pillow

    save(tmp_path / "f.png", frame())
    bgr = np.ascontiguousarray(frame()[..., ::-1])
    channels_first = frame().transpose(2, 0, 1)
    forms = [
        frame(), tmp_path / "f.png", str(tmp_path / "f.png"), pillow.fromarray(frame()), bgr[..., ::-1],
        channels_first, torch.from_numpy(channels_first.copy()), torch.from_numpy(frame()),
        np.dstack((frame(), np.zeros((48, 80), np.uint8))), pillow.open(tmp_path / "f.png"),
    ]  # fmt: skip
    results = model(forms)
    assert len(results) == results.n == len(forms) and len(results.pred[0])
    assert all(torch.equal(boxes, results.pred[0]) for boxes in results.pred)
    assert results.files[:4] == ["image0.jpg", "f.jpg", "f_2.jpg", "image3.jpg"] and results.files[-1] == "f_3.jpg"
    assert torch.equal(model(tuple(forms[:1])).pred[0], model(forms[0]).pred[0])


def test_a_list_gives_what_each_image_gives(model: Any) -> None:
    images = [frame(height) for height in (48, 20, 48, 70, 30, 48)]
    model.amp = False
    results, alone = model(images), [model(image) for image in images]
    for found, expected in zip(results.pred, (one.pred[0] for one in alone), strict=True):
        assert len(found) == len(expected)
        torch.testing.assert_close(found, expected, atol=1e-3, rtol=0)
    assert [image.shape[0] for image in results.ims] == [48, 20, 48, 70, 30, 48]


def test_attributes_are_heeded_when_they_are_set(model: Any) -> None:
    everything = model(frame()).pred[0]
    model.classes = [2]
    assert set(model(frame()).pred[0][:, 5].tolist()) == {2.0}
    model.classes = 2
    assert set(model(frame()).pred[0][:, 5].tolist()) == {2.0}
    model.classes, model.max_det = None, 1
    assert torch.equal(model(frame()).pred[0], everything[:1])
    model.max_det, model.multi_label = 1000, True
    assert len(model(frame()).pred[0]) > len(everything)
    model.multi_label, model.agnostic, model.iou = False, True, 0.1
    assert len(model(frame()).pred[0]) < len(everything)
    for names in ({0: "a", 1: "b", 2: "c", 3: "d"}, ["a", "b", "c", "d"]):
        model.names = names
        results = model(frame())
        assert results.names[3] == "d" and set(results.pandas().xyxy[0].name) <= set("abcd")
    model.names = {1: "a"}
    with pytest.raises(InputError, match=r"model\.names: expected the numbers 0 to 3"):
        model(frame())
    model.names = dict(enumerate(model._found.names))
    model.amp = False
    model(frame())
    assert model._predictor.compute.amp is None
    model.amp = True
    model(frame())
    assert model._predictor.compute.amp is torch.bfloat16


def test_the_size_is_the_trainings_unless_given(model: Any) -> None:
    assert model(frame()).s == (1, 3, 64, 64)
    assert model([frame()] * 2, size=128).s == model([frame()] * 2, size=(128, 128)).s == (2, 3, 128, 128)
    np.testing.assert_array_equal(
        model(frame(), 128).pred[0].numpy(), load(model._found, "cpu", 128, conf_thres=0.01)(frame()).boxes
    )


def test_the_shape_of_frames_in_whole_strides_is_the_largest(tmp_path: Path, weights: Path) -> None:
    checkpoint.save(tmp_path / "rect.pt", {**checkpoint.read(weights).content, "rect": True})
    model: Any = hubconf.custom(tmp_path / "rect.pt", _verbose=False, device="cpu")
    assert model([frame(20), frame(40)]).s == (2, 3, 32, 64)
    assert model([frame(20), frame(70)]).s == (2, 3, 64, 64)


def test_moves_chain(model: Any) -> None:
    before = model(frame()).pred[0]
    assert torch.equal(model.to("cpu").cpu().to(torch.device("cpu")).eval()(frame()).pred[0], before)
    assert model.device == torch.device("cpu")
    if not torch.cuda.is_available():
        with pytest.raises(InputError, match="--device 0: expected a GPU"):
            model.cuda()
        assert len(model(frame()).pred[0])  # still where it was


@pytest.mark.parametrize(
    ("images", "words"),
    [
        ("https://a.org/f.jpg", "image 0 https://a.org/f.jpg: expected a file on disk, got an address"),
        ([np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4), np.float32)], "image 1: expected uint8 .* float32"),
        (torch.rand(3, 8, 9, dtype=torch.bfloat16), "image 0: expected uint8 .* float32"),
        (torch.rand(1, 3, 8, 8), r"got a batch \(1, 3, 8, 8\)"),
        ("absent.jpg", "absent.jpg"),
        ([], "empty list"),
        (None, "expected an RGB array.* got NoneType"),
    ],
)
def test_what_is_no_frame_is_refused_in_a_line(model: Any, images: Any, words: str) -> None:
    with pytest.raises(InputError, match=words) as raised:
        model(images)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("name", "value"), [("conf", 40), ("iou", -1), ("classes", [4]), ("classes", -1), ("max_det", 0)]
)
def test_attributes_out_of_range_are_refused(model: Any, name: str, value: Any) -> None:
    setattr(model, name, value)
    with pytest.raises(InputError, match=f"model.{name}: expected"):
        model(frame())


def test_what_is_not_supported_is_refused(model: Any) -> None:
    with pytest.raises(InputError, match="augment"):
        model(frame(), augment=True)
    with pytest.raises(InputError, match=r"size: .* got \(64, 96\)"):
        model(frame(), size=(64, 96))


def test_without_autoshape_it_is_the_network_of_the_checkpoint(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = hubconf.custom(weights, autoshape=False, device="cpu")
    assert isinstance(network, torch.nn.Module) and not network.training
    expected = checkpoint.read(weights).content["ema"]
    assert all(torch.equal(tensor, expected[name]) for name, tensor in network.state_dict().items())
    read = checkpoint.read(weights)
    known = {name: getattr(read, name) for name in Trained.__dataclass_fields__}
    monkeypatch.setattr(hubconf, "open_weights", lambda path: Trained(**{**known, "path": path}))
    with pytest.raises(InputError, match=r"a\.onnx: autoshape=False: expected a checkpoint"):
        hubconf.custom("a.onnx", autoshape=False)


def test_stock_networks_come_from_their_file_or_with_random_weights(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(hubconf, "ROOT", tmp_path / "root")
    for name in ("yolov5n", "yolov5s", "yolov5m", "yolov5l", "yolov5x"):
        with pytest.raises(InputError, match=rf"{name}\.pt: no such file in the working directory or in .*put it"):
            getattr(hubconf, name)()
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "yolov5x.pt").write_bytes(weights.read_bytes())
    found: Any = hubconf.yolov5x(_verbose=False, device="cpu")
    assert found.names[3] == "TR"
    with pytest.raises(InputError, match="classes: expected 4, as the file has, got 5"):
        hubconf.yolov5x(classes=5)
    with pytest.raises(InputError, match="channels: expected 3, got 1"):
        hubconf.yolov5n(channels=1, pretrained=False)
    monkeypatch.setattr(hubconf, "ROOT", ROOT)
    network = hubconf.yolov5n(pretrained=False, classes=2, autoshape=False, device="cpu")
    assert isinstance(network, torch.nn.Module) and sum(p.numel() for p in network.parameters()) == 1_766_623
    model: Any = hubconf.yolov5n(pretrained=False, classes=2, _verbose=False, device="cpu")
    results = model(frame(), size=64)
    assert model.names == {0: "0", 1: "1"} and results.views == [None] and "view" not in str(results)
