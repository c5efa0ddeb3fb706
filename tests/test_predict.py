"""utils.predict: a frame gives the boxes and the view that an evaluation finds in it."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from tests.exported import exported, saved
from tests.test_checkpoint import content, network
from utils import checkpoint
from utils.draw import draw, save
from utils.letterbox import letterbox
from utils.log import InputError
from utils.neighbours import Neighbours
from utils.predict import Looked, Prediction, load, to_frame
from utils.runtimes import usual_batch
from utils.view_metrics import tempered


def lively(path: Path) -> Path:
    """A checkpoint of an untrained tiny network, its normalisations set by a random batch so that signals pass."""
    untrained = network()
    for module in untrained.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
    untrained(torch.rand(4, 3, 64, 64))
    checkpoint.save(path, content(untrained))
    return path


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """See :func:`lively`."""
    return lively(tmp_path / "a.pt")


def frame(height: int = 48) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, 80, 3), np.uint8)


def test_a_prediction_is_the_plain_networks_output(weights: Path) -> None:
    predictor = load(weights, "cpu", amp=False, conf_thres=0.0, max_det=5)
    found = predictor(frame())
    padded, geometry = letterbox(frame(), 64, 32, square=True)
    plain = checkpoint.read(weights).build().eval()
    with torch.inference_mode():
        output = plain(torch.from_numpy(padded).permute(2, 0, 1)[None].float() / 255)
    assert output.view is not None and output.boxes is not None and found.view is not None
    np.testing.assert_allclose(found.view, output.view.softmax(1)[0].numpy(), atol=1e-5)
    scores = (output.boxes[0, :, 4:5] * output.boxes[0, :, 5:]).amax(1)
    best = output.boxes[0, scores.argmax()]
    centre = (found.boxes[0, :2] + found.boxes[0, 2:4]) / 2
    x = (float(best[0]) - geometry.left) / geometry.gain_x
    inside = found.boxes[0, 0] > 0 and found.boxes[0, 2] < 80
    assert found.boxes[0, 4] == pytest.approx(float(scores.max()), abs=1e-5)
    assert not inside or centre[0] == pytest.approx(x, abs=0.05)


def test_the_temperature_is_applied_to_what_it_was_fitted_to_the_averaged_probabilities(weights: Path) -> None:
    plain = load(weights, "cpu", amp=False)
    images = [frame(), 255 - frame()]
    one, other = (found.view for found in plain.many(images))
    assert one is not None and other is not None
    window: Neighbours[Looked] = Neighbours(1)
    seen = [averaged for looked in plain.look(images, ["a", "a"]) for averaged in window.add(looked)] + window.flush()
    expected = tempered((0.75 * one + 0.25 * other)[None].astype(float), 0.3)[0]
    found = replace(plain, temperature=0.3).settle(seen)[0].view
    assert found is not None and found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_boxes_stay_within_the_frame_and_are_sorted(weights: Path) -> None:
    boxes = load(weights, "cpu", conf_thres=0.0)(frame()).boxes
    assert len(boxes) > 1
    assert (boxes[:, :4] >= 0).all() and (boxes[:, [0, 2]] <= 80).all() and (boxes[:, [1, 3]] <= 48).all()
    assert (np.diff(boxes[:, 4]) <= 0).all()


def test_classes_and_thresholds_are_heeded(weights: Path) -> None:
    assert set(load(weights, "cpu", conf_thres=0.0, classes=[2])(frame()).boxes[:, 5]) == {2.0}
    assert not len(load(weights, "cpu", conf_thres=0.99)(frame()).boxes)
    assert len(load(weights, "cpu", conf_thres=0.0, max_det=1)(frame()).boxes) == 1


def test_the_image_size_is_the_trainings_unless_given(weights: Path) -> None:
    assert load(weights, "cpu").image_size == 64
    assert load(weights, "cpu", imgsz=100).image_size == 128


def test_frames_are_padded_as_in_training(weights: Path, tmp_path: Path) -> None:
    square = load(weights, "cpu", amp=False)
    stored = dict(checkpoint.read(weights).content)
    checkpoint.save(tmp_path / "rect.pt", {**stored, "rect": True})
    rect = load(tmp_path / "rect.pt", "cpu", amp=False)
    assert (square.rect, rect.rect) == (False, True)
    first, second = square(frame(20)).view, rect(frame(20)).view
    assert first is not None and second is not None and not np.allclose(first, second)


def various() -> list[np.ndarray]:
    """Frames of several shapes; some, also not side by side, are padded to the same one."""
    random = np.random.default_rng(1)
    shapes = [(48, 80), (20, 80), (48, 80), (80, 48), (30, 100), (40, 70), (20, 80)]
    return [random.integers(0, 256, (*shape, 3), np.uint8) for shape in shapes]


def assert_alike(found: list[Prediction], expected: list[Prediction]) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert np.shares_memory(one.image, other.image) and len(one) == len(other)
        np.testing.assert_allclose(one.boxes[:, :4], other.boxes[:, :4], atol=1e-3)
        np.testing.assert_allclose(one.boxes[:, 4:], other.boxes[:, 4:], atol=1e-5)
        assert (one.view is None) == (other.view is None)
        if one.view is not None and other.view is not None:
            np.testing.assert_allclose(one.view, other.view, atol=1e-5)
    assert sum(map(len, found))


@pytest.mark.parametrize("name", ["joint", "rect", "detector", "dual"])
@pytest.mark.parametrize("batch_size", [0, 2, 100])
def test_several_frames_give_what_each_gives_by_itself(name: str, batch_size: int) -> None:
    predictor = load(saved(name), "cpu", amp=False, conf_thres=0.3, max_det=20)
    frames = various()
    assert predictor.rect == (name == "rect")
    assert_alike(predictor.many(frames, batch_size), [predictor(image) for image in frames])


def test_an_export_for_two_frames_takes_any_number() -> None:
    predictor = load(exported("torchscript", imgsz=64, batch_size=2), "cpu", conf_thres=0.3, max_det=20)
    assert usual_batch(predictor.network, predictor.compute) == 2
    frames = various()[:5]
    assert_alike(predictor.many(frames), [predictor(image) for image in frames])


class Recorder:
    """A network that notes the shapes it is called with."""

    max_stride = 32

    def __init__(self, network: Any) -> None:
        self.network, self.shapes = network, list[tuple[int, ...]]()

    def __call__(self, images: torch.Tensor, /) -> Any:
        assert images.is_contiguous(memory_format=torch.channels_last)
        self.shapes.append(tuple(images.shape))
        return self.network(images)


def test_frames_of_one_padded_shape_go_through_together_and_no_neighbour_changes_it() -> None:
    predictor = load(saved("rect"), "cpu", amp=False)
    recorder = Recorder(predictor.network)
    predictor = replace(predictor, network=recorder)
    predictor.many(various())
    assert recorder.shapes == [(4, 3, 64, 64), (3, 3, 32, 64)]
    recorder.shapes.clear()
    predictor.many(various(), 3)
    assert recorder.shapes == [(3, 3, 64, 64), (1, 3, 64, 64), (3, 3, 32, 64)]
    assert predictor.many([]) == []


def test_each_frame_has_its_share_of_the_time(weights: Path) -> None:
    predictor = load(weights, "cpu")
    start = time.perf_counter()
    found = predictor.many([frame()] * 4, 4)
    passed = 1000 * (time.perf_counter() - start)
    assert len({one.milliseconds for one in found}) == 1
    assert 0 < sum(sum(one.milliseconds) for one in found) <= passed


def test_of_several_images_the_wrong_one_is_named(weights: Path) -> None:
    with pytest.raises(InputError, match="image 1: expected uint8"):
        load(weights, "cpu").many([frame(), np.zeros((4, 5, 3))])


BOXES = np.array([[5, 6, 25, 36, 0.81, 1], [0, 2, 10.5, 20, 0.404, 3]], np.float32)
NAMES = ("AR", "MR", "PR", "TR")
PREDICTION = Prediction(BOXES, np.array([0.03, 0.97], np.float32), NAMES, ("PSAX", "A4C"), frame())
ALONE = Prediction(BOXES[:0], None, NAMES, (), frame())


def test_a_checkpoint_read_already_gives_the_same(weights: Path) -> None:
    first, second = load(weights, "cpu")(frame()), load(checkpoint.read(weights), "cpu")(frame())
    np.testing.assert_array_equal(first.boxes, second.boxes)


def test_a_prediction_knows_its_frame_names_and_times_without_copies(weights: Path) -> None:
    image = frame()
    found = load(weights, "cpu", conf_thres=0.0, max_det=3)(image)
    assert np.shares_memory(found.image, image) and len(found) == 3
    assert (found.names, found.view_names) == (NAMES, ("a", "b", "c"))
    assert found.view is not None and found.view_name == "abc"[found.view.argmax()]
    assert found.view_confidence == pytest.approx(found.view.max())
    assert len(found.milliseconds) == 3 and min(found.milliseconds) > 0


def test_a_prediction_is_read_at_a_glance() -> None:
    assert str(PREDICTION) == "2 boxes: MR 0.81, TR 0.40; view A4C 0.97"
    assert repr(PREDICTION) == f"Prediction({PREDICTION})"
    assert str(ALONE) == "no boxes" and (ALONE.view_name, ALONE.view_confidence) == (None, None)
    assert str(Prediction(BOXES[:1], None, ("AR",))) == "1 box: 1 0.81"
    many = str(Prediction(np.repeat(BOXES, 6, 0), None, NAMES))
    assert many.startswith("12 boxes: MR") and many.endswith("0.40, ...") and many.count(",") == 10


def test_a_plot_is_what_draw_draws_in_a_copy() -> None:
    before = PREDICTION.image.copy()
    plot = PREDICTION.plot(line_thickness=1, hide_conf=True)
    np.testing.assert_array_equal(plot, draw(before, BOXES, NAMES, "A4C 0.97", line_thickness=1, hide_conf=True))
    np.testing.assert_array_equal(PREDICTION.image, before)
    np.testing.assert_array_equal(ALONE.plot(), before)
    with pytest.raises(ValueError, match="keeps its frame"):
        Prediction(BOXES, None, NAMES).plot()


def test_a_table_has_yolov5s_columns_and_the_view() -> None:
    table = PREDICTION.to_pandas()
    assert list(table) == ["xmin", "ymin", "xmax", "ymax", "confidence", "class", "name", "view", "view_confidence"]
    assert table["class"].tolist() == [1, 3] and table["name"].tolist() == ["MR", "TR"]
    assert table["view"].tolist() == ["A4C", "A4C"] and table["view_confidence"].tolist() == pytest.approx([0.97] * 2)
    np.testing.assert_array_equal(table.iloc[:, :5].to_numpy(), BOXES[:, :5])
    empty = ALONE.to_pandas()
    assert list(empty) == list(table) and len(empty) == 0
    assert table["class"].dtype == empty["class"].dtype and table["xmin"].dtype == empty["xmin"].dtype
    assert Prediction(BOXES, None, NAMES).to_pandas()["view"].isna().all()


def test_every_form_of_a_frame_gives_the_same_pixels(tmp_path: Path) -> None:
    from PIL import Image as pillow

    image = frame()
    save(tmp_path / "f.png", image)
    alpha = np.dstack((image, np.full(image.shape[:2], 7, np.uint8)))
    bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    forms: list[Any] = [
        image, tmp_path / "f.png", str(tmp_path / "f.png"), alpha, bgr[..., ::-1],
        pillow.fromarray(image), pillow.fromarray(alpha), pillow.open(tmp_path / "f.png"),
    ]  # fmt: skip
    assert np.shares_memory(to_frame(image), image)
    for form in forms:
        np.testing.assert_array_equal(to_frame(form), image)
        assert to_frame(form).flags.c_contiguous
    grey = image[..., 0]
    expected = np.repeat(grey[..., None], 3, 2)
    for form in (grey, grey[..., None], pillow.fromarray(np.ascontiguousarray(grey))):
        np.testing.assert_array_equal(to_frame(form), expected)


def test_a_photograph_is_turned_alike_as_a_file_and_as_a_pil_image(tmp_path: Path) -> None:
    from PIL import Image as pillow

    picture = pillow.fromarray(frame())
    exif = picture.getexif()
    exif[0x0112] = 6  # orientation: a quarter turn
    picture.save(tmp_path / "f.png", exif=exif)
    turned = to_frame(pillow.open(tmp_path / "f.png"))
    assert turned.shape == (80, 48, 3)
    np.testing.assert_array_equal(turned, to_frame(tmp_path / "f.png"))


def sixteen_bits(_: Path) -> Any:
    from PIL import Image as pillow

    return pillow.fromarray(np.zeros((4, 5), np.uint16))


def cut_off(folder: Path) -> Any:
    from PIL import Image as pillow

    pillow.fromarray(frame()).save(folder / "f.png")
    (folder / "f.png").write_bytes((folder / "f.png").read_bytes()[:3000])
    return pillow.open(folder / "f.png")


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda _: np.zeros((4, 5, 3)), r"got float64 \(4, 5, 3\); values in \[0, 1\] become such by"),
        (lambda _: np.zeros((4, 5, 3), np.int32), r"expected uint8 values, 0 to 255, got int32 \(4, 5, 3\)$"),
        (lambda _: np.zeros((3, 4, 5), np.uint8), r"expected an array \(H, W, 3\) .* got uint8 \(3, 4, 5\)"),
        (lambda _: np.zeros((1, 4, 5, 3), np.uint8), r"got uint8 \(1, 4, 5, 3\)"),
        (lambda _: np.zeros((0, 5, 3), np.uint8), r"with pixels in it, got uint8 \(0, 5, 3\)"),
        (lambda _: np.zeros((0, 5), np.uint8), r"with pixels in it, got uint8 \(0, 5\)"),
        (lambda _: None, "expected an RGB array.* got NoneType"),
        (lambda _: [frame()], "expected an RGB array.* got list"),
        (lambda folder: folder / "absent.png", r"absent\.png"),
        (lambda folder: folder, "cannot be read"),
        (lambda _: "https://a.org/f.png", "an address; nothing is fetched"),
        (sixteen_bits, r"expected uint8 values, 0 to 255, got uint16 \(4, 5\)"),
        (cut_off, "expected a whole PIL image"),
    ],
)
def test_anything_else_is_refused_in_a_line(tmp_path: Path, make: Any, words: str) -> None:
    with pytest.raises(InputError, match=words) as raised:
        to_frame(make(tmp_path))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("name", ["conf_thres", "iou_thres"])
def test_thresholds_out_of_range_are_refused(weights: Path, name: str) -> None:
    for value in (-0.1, 40):
        with pytest.raises(InputError, match=f"{name}: expected 0 to 1, got {value}"):
            load(weights, "cpu", **{name: value})  # type: ignore[arg-type]
