"""The heads: decoding by hand, anchors in cells and pixels, the prior in the biases, dropout of the view head."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from models.heads import Detect, ViewHead

ANCHORS = [[10, 13, 16, 30, 33, 23], [30, 61, 62, 45, 59, 119], [116, 90, 156, 198, 373, 326]]
STRIDES = (8, 16, 32)


def head(nc: int = 4, anchors: list[list[int]] = ANCHORS) -> Detect:
    return Detect(nc, anchors, (8, 16, 24), STRIDES)


def features(height: int = 8, width: int = 12, batch: int = 2) -> list[Tensor]:
    return [torch.randn(batch, c, height // n, width // n) for c, n in ((8, 1), (16, 2), (24, 4))]


def test_detect_gives_a_map_for_each_level() -> None:
    maps = head()(features())
    assert [tuple(level.shape) for level in maps] == [(2, 3, 8, 12, 9), (2, 3, 4, 6, 9), (2, 3, 2, 3, 9)]
    assert head().decode(maps).shape == (2, 3 * (96 + 24 + 6), 9)


@torch.no_grad()
def test_a_map_holds_the_convolutions_channels_anchor_by_anchor() -> None:
    detect = head()
    given = features()
    for level, feature, convolution in zip(detect(given), given, detect.m, strict=True):
        flat = convolution(feature)
        assert torch.equal(level[1, 2, 1, 2], flat[1, 2 * 9 : 3 * 9, 1, 2])


def test_one_cell_decodes_as_written_out_by_hand() -> None:
    maps = [torch.zeros(1, 3, h, w, 9) for h, w in ((8, 12), (4, 6), (2, 3))]
    row = torch.tensor([0.4, -1.2, 0.7, -0.3, 2.0, -2.0, 0.0, 1.0, 3.0])
    maps[1][0, 2, 3, 5] = row  # level P4, third anchor (59 x 119 pixels), row 3, column 5
    decoded = head().decode(maps)[0]
    s = [1 / (1 + math.exp(-value)) for value in row.tolist()]
    expected = [
        (2 * s[0] - 0.5 + 5) * 16,
        (2 * s[1] - 0.5 + 3) * 16,
        (2 * s[2]) ** 2 * 59,
        (2 * s[3]) ** 2 * 119,
        *s[4:],
    ]
    index = 3 * 8 * 12 + 2 * 4 * 6 + 3 * 6 + 5
    assert decoded[index].tolist() == pytest.approx(expected, rel=1e-5)
    assert decoded[0].tolist() == pytest.approx([4, 4, 10, 13, *[0.5] * 5])  # zeros: the cell's middle, the anchor
    assert decoded[-1].tolist() == pytest.approx([80, 48, 373, 326, *[0.5] * 5], rel=1e-5)


def test_half_precision_maps_decode_in_full_precision() -> None:
    maps = [level.bfloat16() for level in head()(features())]
    decoded = head().decode(maps)
    assert decoded.dtype == torch.float32
    assert torch.equal(decoded, head().decode([level.float() for level in maps]))


@pytest.mark.parametrize("anchors", [ANCHORS, ANCHORS[::-1]], ids=["fine first", "coarse first"])
def test_anchors_are_held_fine_first_and_in_cells(anchors: list[list[int]]) -> None:
    detect = head(anchors=anchors)
    expected = torch.tensor(ANCHORS, dtype=torch.float32).view(3, 3, 2) / torch.tensor(STRIDES).view(3, 1, 1)
    assert torch.equal(detect.anchors, expected)
    assert "anchors" in detect.state_dict()  # as in YOLOv5's checkpoints


def test_anchors_in_pixels_are_those_that_were_set() -> None:
    pixels = torch.tensor([[[5.0, 7], [9, 9]], [[20, 30], [40, 25]], [[90, 80], [200, 300]]])
    detect = head(anchors=[[1, 1, 2, 2], [3, 3, 4, 4], [5, 5, 6, 6]])
    buffer = detect.anchors
    for given in (pixels, pixels.flip(0)):
        detect.set_anchors(given)
        torch.testing.assert_close(detect.anchors_in_pixels(), pixels)
    assert detect.na == 2 and detect.anchors is buffer  # in place: an optimizer's or a loss's view of it stays


@pytest.mark.parametrize("nc", [1, 4, 80])
def test_biases_start_from_the_prior(nc: int) -> None:
    torch.manual_seed(0)
    detect = head(nc)
    torch.manual_seed(0)
    plain = [nn.Conv2d(c, 3 * (5 + nc), 1) for c in (8, 16, 24)]
    for convolution, fresh, stride in zip(detect.m, plain, STRIDES, strict=True):
        assert isinstance(convolution, nn.Conv2d) and convolution.bias is not None and fresh.bias is not None
        added = (convolution.bias - fresh.bias).view(3, -1)
        objects, classes = math.log(8 / (640 / stride) ** 2), math.log(0.6 / (nc - 0.99999))
        expected = torch.tensor([0.0, 0, 0, 0, objects, *[classes] * nc]).expand(3, -1)
        torch.testing.assert_close(added, expected, rtol=1e-5, atol=1e-5)
        assert convolution.bias.requires_grad and convolution.bias.is_leaf


@torch.no_grad()
def test_the_view_head_averages_over_the_frame() -> None:
    view = ViewHead(8, 3, hidden=16).eval()
    x = torch.randn(2, 8, 4, 6)
    logits = view(x)
    assert logits.shape == (2, 3)
    expected = view.conv(x).sum((2, 3)) / 24 @ view.linear.weight.T + view.linear.bias
    torch.testing.assert_close(logits, expected)
    torch.testing.assert_close(view(x.flip(3)), logits)  # where something is does not count


@torch.no_grad()
def test_dropout_of_the_view_head_acts_in_training_only() -> None:
    torch.manual_seed(0)
    x = torch.randn(1, 8, 4, 6)
    view = ViewHead(8, 3, hidden=64, dropout=0.5)
    assert not torch.equal(view(x), view(x))
    view.eval()
    assert torch.equal(view(x), view(x))
    none = ViewHead(8, 3, hidden=64)
    torch.testing.assert_close(none(x), none(x), rtol=0, atol=0)


def test_anchors_follow_strides_that_go_from_coarse_to_fine() -> None:
    pixels = torch.tensor(ANCHORS, dtype=torch.float32).view(3, 3, 2)
    coarse_first = Detect(4, ANCHORS, [8, 8, 8], [32, 16, 8])
    assert torch.equal(coarse_first.anchors_in_pixels(), pixels.flip(0))
