"""utils.evaluation: an evaluation whose figures are known."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from models.yolo import Output
from tests.tiny import CPU, classifier, hyperparameters, tiny_network
from utils.dataset import EchoDataset, build_loader
from utils.devices import Compute
from utils.evaluation import Thresholds, evaluate
from utils.loss import JointLoss
from utils.neighbours import ClipWindow


class Oracle(nn.Module):
    """Answers with the labels of a dataset, in place of a network; ``shift`` pixels off, view wrong by ``wrong``."""

    def __init__(self, dataset: EchoDataset, shift: float = 0.0, wrong: int = 0) -> None:
        super().__init__()
        self.batches = iter(build_loader(dataset, 8, 0))
        self.shift, self.wrong = shift, wrong

    def forward(self, images: Tensor) -> Output:
        batch = next(self.batches)
        boxes = torch.zeros(len(images), 20, 9)
        view = torch.zeros(len(images), 3)
        for place in range(len(images)):
            for row, box in enumerate(batch.boxes[batch.boxes[:, 0] == place]):
                boxes[place, row, :4] = box[2:] * images.shape[2]
                boxes[place, row, 0] += self.shift
                boxes[place, row, 4] = 0.9
                boxes[place, row, 5 + int(box[1])] = 1.0
            view[place, (int(batch.views[place]) + self.wrong) % 3] = 5.0
        return Output([], view, boxes)


def test_perfect_answers_give_perfect_figures(dataset: EchoDataset) -> None:
    result = evaluate(Oracle(dataset), build_loader(dataset, 8, 0), 4, 3, CPU, Thresholds())
    assert result.detection.map50 == pytest.approx(0.995, abs=1e-6)
    assert result.detection.map == pytest.approx(0.995, abs=1e-6)
    assert result.view is not None and result.view.accuracy == 1.0
    assert result.confusion[:, -1].sum() == result.confusion[-1].sum() == 0
    assert len(result.predictions) == len(dataset)


def test_boxes_come_back_in_pixels_of_the_file(dataset: EchoDataset) -> None:
    result = evaluate(Oracle(dataset), build_loader(dataset, 8, 0), 4, 3, CPU, Thresholds())
    frame = next(found for found in result.predictions if len(found.boxes))
    height, width = dataset.originals[frame.index]
    box = dataset.labels[frame.index].boxes
    expected = (box[:, 1:3] - box[:, 3:] / 2) * (width, height)
    torch.testing.assert_close(
        frame.boxes[:, :2].sort(0)[0], torch.from_numpy(expected).float().sort(0)[0], rtol=0, atol=0.1
    )


def test_wrong_answers_give_figures_at_zero(dataset: EchoDataset) -> None:
    oracle = Oracle(dataset, shift=40.0, wrong=1)
    result = evaluate(oracle, build_loader(dataset, 8, 0), 4, 3, CPU, Thresholds())
    assert result.detection.map50 < 0.05
    assert result.view is not None and result.view.accuracy == 0.0


def test_an_untrained_network_scores_near_zero(dataset: EchoDataset) -> None:
    network = tiny_network()
    criterion = JointLoss.of(network, hyperparameters(), 64)
    result = evaluate(network.eval(), build_loader(dataset, 8, 0), 4, 3, CPU, Thresholds(), criterion)
    assert result.detection.map50 < 0.05
    assert result.losses is not None and 0.8 < result.losses.view < 1.6  # ln 3 is 1.0986


def test_batches_without_a_labelled_view_have_no_part_in_the_views_loss(dataset: EchoDataset) -> None:
    network = tiny_network().eval()
    criterion = JointLoss.of(network, hyperparameters(), 64)
    assert (dataset.views() < 0).any()
    whole, single = (
        evaluate(network, build_loader(dataset, size, 0), 4, 3, CPU, Thresholds(), criterion).losses for size in (99, 1)
    )
    assert whole is not None and single is not None
    assert single.view == pytest.approx(whole.view, rel=1e-4)


def test_bf16_figures_are_near_fp32(dataset: EchoDataset) -> None:
    network = tiny_network().eval()
    with torch.inference_mode():
        images = torch.rand(2, 3, 64, 64)
        plain = network(images)
        with Compute(torch.device("cpu"), torch.bfloat16).autocast():
            fast = network(images)
    assert plain.boxes is not None and fast.boxes is not None
    assert (plain.boxes[..., :4] - fast.boxes[..., :4]).abs().max() < 2.0  # pixels
    assert (plain.view - fast.view.float()).abs().max() < 0.1


@pytest.mark.parametrize("kind", ["resnet18", "yaml"])
def test_a_classifier_alone_is_evaluated_by_its_views_and_has_no_boxes(dataset: EchoDataset, kind: str) -> None:
    network = classifier(kind).eval()
    loader, criterion = build_loader(dataset, 8, 0), JointLoss.of(network, hyperparameters(), 64)
    result = evaluate(network, loader, 0, 3, CPU, Thresholds(), criterion)
    logits = torch.cat([network(batch.images.float() / 255).view for batch in loader])
    true = torch.from_numpy(dataset.views())
    expected = float((logits.argmax(1) == true)[true >= 0].float().mean())
    assert result.view is not None and result.view.accuracy == pytest.approx(expected, abs=1e-6)
    assert result.losses is not None and math.isfinite(result.losses.view)
    assert all(math.isnan(loss) for loss in result.losses[:3])
    assert result.confusion.shape == (1, 1) and result.confusion.sum() == 0
    assert len(result.predictions) == len(dataset)
    assert all(found.boxes.shape == (0, 6) and found.correct.shape == (0, 10) for found in result.predictions)
    torch.testing.assert_close(torch.stack([f.view for f in result.predictions if f.view is not None]),
                               logits.detach().softmax(1), rtol=1e-4, atol=1e-5)  # fmt: skip


class Counter(nn.Module):
    """Answers with one box, the same in every frame, as surely as the frame is late, and with a view that changes."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = 0

    def forward(self, images: Tensor) -> Output:
        boxes, view = torch.zeros(len(images), 20, 9), torch.zeros(len(images), 3)
        for place in range(len(images)):
            boxes[place, 3] = torch.tensor([30.0, 30, 20, 20, (self.seen + 1) / 100, 0, 1, 0, 0])
            view[place, self.seen % 3] = 2.0
            self.seen += 1
        return Output([], view, boxes)


@pytest.mark.parametrize("window", [1, 2, 50])
@pytest.mark.parametrize("batch_size", [1, 5])
def test_a_frame_is_averaged_with_its_neighbours_in_the_clip(
    dataset: EchoDataset, window: int, batch_size: int
) -> None:
    dataset.arrange_by_clip()
    clips = dataset.clips
    assert clips is not None and len(dataset) > len(set(clips)) > 1
    loader = build_loader(dataset, batch_size, 0)
    result = evaluate(Counter(), loader, 4, 3, CPU, Thresholds(), window=dataset.window(window))
    assert [found.index for found in result.predictions] == list(range(len(dataset)))
    probabilities = (2 * torch.eye(3)).softmax(1)
    for found in result.predictions:
        near = range(max(found.index - window, 0), min(found.index + window + 1, len(dataset)))
        same = [index for index in near if clips[index] == clips[found.index]]
        expected = (sum(index + 1 for index in same) / len(same) + found.index + 1) / 2 / 100
        assert found.boxes[:, 4:].tolist() == [[pytest.approx(expected, rel=1e-5), 1]]
        assert found.view is not None
        around = probabilities[[index % 3 for index in same]].mean(0)
        torch.testing.assert_close(found.view, (around + probabilities[found.index % 3]) / 2)


@pytest.mark.parametrize("window", [ClipWindow(0), ClipWindow(3)])
def test_frames_that_belong_to_no_clip_are_left_alone(dataset: EchoDataset, window: ClipWindow) -> None:
    plain = evaluate(Oracle(dataset), build_loader(dataset, 8, 0), 4, 3, CPU, Thresholds())
    other = evaluate(Oracle(dataset), build_loader(dataset, 8, 0), 4, 3, CPU, Thresholds(), window=window)
    assert len(plain.predictions) == len(other.predictions)
    for one, two in zip(plain.predictions, other.predictions, strict=True):
        torch.testing.assert_close(one.boxes, two.boxes, rtol=0, atol=1e-5)
        assert one.view is not None and two.view is not None and torch.equal(one.view, two.view)
